"""A training that is killed and resumed ends with the same bits as one that never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vitkit.training.log import CLOCK_FIELDS, read_log
from vitkit.training.state import find_checkpoint

SCRIPT = Path(__file__).with_name("crashing.py")
LAST = 70


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: object) -> str:
    process = start(*arguments)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    return output


def ending(folder: Path) -> dict[str, torch.Tensor]:
    last = find_checkpoint(folder / "checkpoints")
    assert last is not None and last.name == f"step-{LAST}"
    tensors = {}
    for name in ("model", "ema", "optimizer"):
        tensors |= {f"{name}/{key}": value for key, value in load_file(last / f"{name}.safetensors").items()}
    return tensors


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in CLOCK_FIELDS} for row in read_log(folder / "log.jsonl")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run("whole", folder)
    return folder


def test_the_uninterrupted_training_repeats_itself(uninterrupted: Path, tmp_path: Path) -> None:
    run("whole", tmp_path)
    assert all(torch.equal(value, ending(tmp_path)[name]) for name, value in ending(uninterrupted).items())


@pytest.mark.slow
@pytest.mark.parametrize("how", [("random", 20), ("inject",)], ids=["at random moments", "inside writes"])
def test_killed_again_and_again_it_ends_with_the_same_bits(
    how: tuple[object, ...], uninterrupted: Path, tmp_path: Path
) -> None:
    expected = ending(uninterrupted)
    mode, *kills = how
    assert run(mode, tmp_path, *kills).startswith(("20 kills", "24 kills"))
    run("whole", tmp_path)
    found = ending(tmp_path)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert rows(tmp_path) == rows(uninterrupted)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_signal_saves_and_exits_with_its_code(
    signum: signal.Signals, uninterrupted: Path, tmp_path: Path
) -> None:
    process = start("whole", tmp_path)
    while not (tmp_path / "checkpoints").is_dir() or not any((tmp_path / "checkpoints").glob("step-*")):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signum)
    process.communicate(timeout=60)
    assert process.returncode in (128 + signum, 0)
    run("whole", tmp_path)
    assert all(torch.equal(value, ending(tmp_path)[name]) for name, value in ending(uninterrupted).items())
    assert rows(tmp_path) == rows(uninterrupted)


FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_never_loaded(
    name: str, uninterrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    shutil.copytree(uninterrupted / "checkpoints", tmp_path / "checkpoints")
    newest = tmp_path / "checkpoints" / "step-70"
    file = newest / name
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    broken = [content[:length] for length in range(0, len(content), 4096)]
    for bit in rng.integers(0, 8 * len(content), 300):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        broken.append(bytes(flipped))
    for damaged in broken:
        file.write_bytes(damaged)
        found = find_checkpoint(tmp_path / "checkpoints")
        assert found is not None and found.name == "step-69"
    assert "step-70 is damaged and not used" in caplog.text
    file.write_bytes(content)
    assert find_checkpoint(tmp_path / "checkpoints") == newest


def test_two_checkpoints_and_the_best_are_kept(uninterrupted: Path) -> None:
    folder = uninterrupted / "checkpoints"
    steps = {path.name for path in folder.glob("step-*")}
    best = (folder / "best").read_text().strip()
    assert {"step-69", "step-70", best} == steps | {best} and len(steps) <= 3
    evaluations = [row for row in read_log(uninterrupted / "log.jsonl") if row["kind"] == "evaluation"]
    top = max(evaluations, key=lambda row: row["accuracy"])
    assert best == f"step-{top['step']}"
    assert json.loads((folder / "step-70" / "state.json").read_text())["step"] == LAST
