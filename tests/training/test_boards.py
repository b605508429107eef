"""Boards show the log's rows, each once, also after a stop in the middle."""

from __future__ import annotations

import errno
import importlib.util
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import vitkit
from vitkit.cli import main
from vitkit.data.sources.arrays import read_arrays
from vitkit.errors import CheckpointError, Interrupted
from vitkit.training.boards import BOARDS
from vitkit.training.log import read_log
from vitkit.training.state import Progress

SILENT = {"kind", "step", "weights", "seconds"}


def data() -> Any:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    return read_arrays(pixels, np.arange(40) % 2, ["x", "y"])


def interrupted_run(folder: Path, board: str) -> Path:
    """Stopped after 5 of 12 steps, and resumed from there without a word of boards."""

    def stop(progress: Progress, row: Mapping[str, float]) -> None:
        if progress.step == 5:
            signal.raise_signal(signal.SIGINT)

    settings = {"epochs": 3, "batch_size": 8}
    with pytest.raises(Interrupted):
        vitkit.train(data(), settings=settings, output=folder, log_to=[board], on_step=stop)
    vitkit.train(data(), resume=folder)
    return folder


def expected(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every value of the log, by board name, with the steps after which it is true."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in read_log(run / "log.jsonl"):
        step = row["kind"] == "step"
        for name in row.keys() - SILENT:
            at = row["step"] + 1 if step else row["step"]
            points.setdefault(f"{'training' if step else 'held-out'}/{name}", []).append((at, row[name]))
    return points


def test_tensorboards_event_files_hold_each_row_of_the_log_once(tmp_path: Path) -> None:
    run = interrupted_run(tmp_path / "run", "tensorboard")
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    events.Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    wanted = expected(run)
    assert found.keys() == wanted.keys() and len(wanted["training/loss"]) == 12
    assert {"held-out/accuracy", "training/lr", "training/images_per_s"} <= found.keys()
    for tag, points in wanted.items():
        np.testing.assert_allclose(found[tag], points, rtol=1e-6, err_msg=tag)
    times = [event.wall_time for event in events.Scalars("training/loss")]
    seconds = [row["seconds"] for row in read_log(run / "log.jsonl") if row["kind"] == "step"]
    np.testing.assert_allclose(np.diff(times), seconds[1:], atol=1e-5)


class Store:
    """What vitkit calls of trackio, kept in memory: the package itself asks for an older Pillow than the tests."""

    def __init__(self) -> None:
        self.kept: list[SimpleNamespace] = []

    def Api(self) -> Any:  # noqa: N802
        if not self.kept:
            raise ValueError("Project 'vitkit' does not exist")
        return SimpleNamespace(runs=lambda project: list(self.kept))

    def init(
        self, project: str, *, name: str, config: dict[str, Any], embed: bool, auto_log_gpu: bool, auto_log_cpu: bool
    ) -> Any:
        sys.stdout.write("* Trackio project initialized\n")  # as trackio does
        run = SimpleNamespace(project=project, name=name, config=config, points=[], finish=lambda: None)
        run.log = lambda metrics, step: run.points.extend((tag, step, value) for tag, value in metrics.items())
        run.delete = lambda: self.kept.remove(run)
        self.kept.append(run)
        return run


def test_trackio_holds_each_row_of_the_log_once_and_leaves_other_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store()
    other = store.init(
        "vitkit", name="run", config={"folder": "elsewhere"}, embed=False, auto_log_gpu=False, auto_log_cpu=False
    )
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "trackio", store)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "trackio" or find(name))
    run = interrupted_run(tmp_path / "run", "trackio")
    assert store.kept[0] is other and len(store.kept) == 2
    found: dict[str, list[tuple[int, float]]] = {}
    for tag, step, value in store.kept[1].points:
        found.setdefault(tag, []).append((step, value))
    assert found == expected(run)
    assert (store.kept[1].project, store.kept[1].name) == ("vitkit", "run")
    assert store.kept[1].config["train"]["epochs"] == 3
    assert capsys.readouterr().out == ""


class Full:
    """A board whose disk is full after three rows."""

    name = "tensorboard"
    closed = 0

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.rows = 0

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        if self.rows > 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        Full.closed += 1
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_boards_failure_is_its_own_and_it_is_closed_whatever_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BOARDS, "tensorboard", Full)  # type: ignore[arg-type]
    run, settings = tmp_path / "run", {"epochs": 3, "batch_size": 8}
    with pytest.raises(CheckpointError, match="^log_to tensorboard: can't be written .the disk is full.; --resume"):
        vitkit.train(data(), settings=settings, output=run, log_to=["tensorboard"])
    assert Full.closed == 1 and [row["step"] for row in read_log(run / "log.jsonl")] == [0, 1, 2, 3]
    monkeypatch.setattr("vitkit.api.train.fit", lambda *given, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # before there is a log
        vitkit.train(data(), settings=settings, output=tmp_path / "other", log_to=["tensorboard"])
    assert Full.closed == 2


def test_a_board_that_is_unknown_or_not_installed_is_one_line_and_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trackio" else find(name))
    assert main(["train", "digits", "--log-to", "tensorbord,trackio"]) == 2
    said = capsys.readouterr().err
    assert "log_to 'tensorbord' is unknown; nearest: tensorboard; allowed: tensorboard, trackio" in said
    assert "log_to 'trackio' isn't installed: pip install 'vitkit[trackio]'" in said
    assert list(tmp_path.iterdir()) == []
