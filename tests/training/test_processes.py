"""Several processes train as one does: the same curves, the same checkpoint, and they end together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from small import picture_file
from training.sliced import numbers, train
from vitkit.data.slices import Slices

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")


@dataclass(frozen=True)
class Ended:
    """What became of each process."""

    codes: list[int]
    said: list[str]
    at: float
    """When the last one did."""


def start(count: int, command: list[str], **environment: str) -> Ended:
    """Runs `command` in `count` processes, as torchrun does but without a parent that ends them all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(count):
        place = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}
        own = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        own |= {name: str(value) for name, value in place.items()} | environment
        own["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
        processes.append(
            subprocess.Popen(
                [sys.executable, *command], env=own, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return Ended([process.returncode for process in processes], said, time.time())


def train_in(count: int, folder: Path, **options: Any) -> Ended:
    return start(count, [str(TESTS / "training/many.py"), str(folder), json.dumps({"dtype": "float64", **options})])


def checkpoint(folder: Path, step: int = 50) -> dict[str, Tensor]:
    files = (folder / f"checkpoints/step-{step}").glob("*.safetensors")
    return {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("float32", "float64")}
    for name, folder in folders.items():
        train(folder, slices=Slices(), dtype=getattr(torch, name))
    return folders


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    ended = train_in(2, folder, sharded=True)
    assert ended.codes == [0, 0], ended.said
    return folder


def assert_same_training(folder: Path, expected: Path, tolerance: float) -> None:
    """Fifty steps and two evaluations."""
    for name, count in (("loss", 52), ("grad_norm", 50), ("accuracy", 2)):
        curve = numbers(expected, name)
        assert len(curve) == count and numbers(folder, name) == pytest.approx(curve, rel=0, abs=tolerance), name


@pytest.mark.parametrize(
    ("count", "dtype", "accumulate", "tolerance"), [(2, "float32", 1, 1e-5), (4, "float64", 2, 1e-9)]
)
def test_processes_train_as_one(
    count: int, dtype: str, accumulate: int, tolerance: float, alone: dict[str, Path], tmp_path: Path
) -> None:
    ended = train_in(count, tmp_path, dtype=dtype, accumulate=accumulate)
    assert ended.codes == [0] * count, ended.said
    assert_same_training(tmp_path, alone[dtype], tolerance)


def test_divided_weights_give_the_same_checkpoint(sharded: Path, alone: dict[str, Path]) -> None:
    assert_same_training(sharded, alone["float64"], 1e-9)
    expected, found = checkpoint(alone["float64"]), checkpoint(sharded)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9)


def test_a_killed_process_ends_all_with_one_line_and_the_run_resumes_exactly(sharded: Path, tmp_path: Path) -> None:
    ended = train_in(2, tmp_path, sharded=True, killed=1, killed_after=13)
    assert ended.codes == [1, -9] and ended.at - (tmp_path / "log.jsonl").stat().st_mtime < 30
    assert ended.said[0].startswith("vitkit: process 1 of 2 has ended (killed, or its machine is gone), and all end ")
    assert ended.said[0].count("\n") == 1 and ended.said[0].endswith("is kept: go on with --resume\n")
    assert len(numbers(tmp_path, "grad_norm")) == 13
    assert train_in(2, tmp_path, sharded=True).codes == [0, 0]
    expected, found = checkpoint(sharded), checkpoint(tmp_path)
    assert (
        all(torch.equal(found[name], tensor) for name, tensor in expected.items()) and found.keys() == expected.keys()
    )
    assert numbers(tmp_path, "loss") == numbers(sharded, "loss")


def test_one_process_goes_on_with_what_several_began(sharded: Path, alone: dict[str, Path], tmp_path: Path) -> None:
    assert train_in(2, tmp_path, killed=0, killed_after=31).codes == [-9, 1]
    train(tmp_path, slices=Slices(), dtype=torch.float64)
    assert_same_training(tmp_path, alone["float64"], 1e-9)


def test_the_command_in_two_processes(tmp_path: Path) -> None:
    command = ["-m", "vitkit", "train", "digits", "--epochs", "1", "--batch-size", "256", "--dtype", "float32"]
    wrong = start(2, [*command, "--lr", "-1", "-o", str(tmp_path / "run")])
    assert wrong.codes == [2, 2] and wrong.said[0].count("\n") == 1 and "lr is -1" in wrong.said[0]
    assert wrong.said[1] == ""
    ended = start(2, [*command, "--shard", "--optimizer", "sgd", "--no-baseline", "-o", str(tmp_path / "run")])
    assert ended.codes == [0, 0], ended.said
    assert "2 processes (FSDP2) of 1 threads, 0 workers each" in ended.said[0] and ended.said[1] == ""
    assert (tmp_path / "run/report.html").is_file() and (tmp_path / "run/model/model.safetensors").is_file()


def test_a_script_reads_faults_of_pictures_and_names_in_the_first_process_alone(tmp_path: Path) -> None:
    for at in range(24):
        picture_file(tmp_path / "data" / ("rose", "Rose", "tulip")[at % 3] / f"{at}.png", 16, 16, seed=at)
    bad = tmp_path / "data/tulip/bad.png"
    bad.touch()
    asked = {"output": str(tmp_path / "run"), "bad_files": "skip", "image_size": 16, "settings": {"epochs": 1}}
    script = f"import vitkit; vitkit.train({str(tmp_path / 'data')!r}, baseline=False, **{asked!r})"
    ended = start(2, ["-c", script])
    assert ended.codes == [0, 0], ended.said
    assert f"left out: {bad}" in ended.said[0] and "look like one name" in ended.said[0] and ended.said[1] == ""
    run = json.loads((tmp_path / "run/run.json").read_text())["run"]
    assert run["left_out"] == [str(bad)] and sum(run["pictures"]) == 24
