"""What a training's minutes make of its defaults."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitkit.api.batch_size
from vitkit.api.plan import Asked, Plan, settle
from vitkit.api.runs import new_run
from vitkit.data.sources.arrays import read_arrays
from vitkit.errors import ConfigError
from vitkit.training.processes import Processes
from vitkit.training.spec import TrainSpec
from vitkit.training.starts import SCRATCH_BRIEF, SCRATCH_PHOTOS

PIXELS = np.random.default_rng(0).integers(0, 256, (100, 20, 20), dtype=np.uint8)
PICTURES = read_arrays(PIXELS, np.arange(100) % 2, ["a", "b"])


def settled(**settings: Any) -> Plan:
    return settle(Asked(data=PICTURES, settings=settings), Processes(), None)


def paced(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Lets a step take `seconds`; pictures of each step that is measured, as they come."""
    measured: list[int] = []

    def pace(module: Any, objective: Any, data: Any, spec: TrainSpec, **_: Any) -> float:
        (batch,) = data.batches(0, 1)
        assert (len(batch.views[0]), spec.accumulate) == (spec.batch_size, 1)
        measured.append(spec.batch_size)
        return seconds

    monkeypatch.setattr(vitkit.api.batch_size, "pace", pace)
    return measured


@pytest.mark.parametrize(("minutes", "brief"), [(3.0, True), (3.2, False), (None, False)])
def test_minutes_for_few_epochs_choose_what_learns_fast(
    minutes: float | None, brief: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 pictures in batches of 16 are 5 steps, here of 1.2 s: 30 epochs take 180 s."""
    measured = paced(monkeypatch, 1.2)
    plan = settled(minutes=minutes, batch_size=16)
    assert measured == [16] * (minutes is not None)
    spec = plan.run.train
    expected = SCRATCH_BRIEF if brief else SCRATCH_PHOTOS
    assert (spec.optimizer, spec.lr, spec.augment) == (expected.optimizer, expected.lr, expected.augment)
    assert (spec.label_smoothing, spec.mix) == (expected.label_smoothing, expected.mix)
    assert plan.module.spec.drop_path == (expected.drop_path or 0.0)
    assert ("few epochs that the minutes allow" in plan.run.chosen) == brief


@pytest.mark.parametrize(("minutes", "brief"), [(3.0, True), (3.2, False)])
def test_of_a_batch_in_slices_one_slice_is_measured(
    minutes: float, brief: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 pictures in batches of 16 are 5 steps, here of 4 slices of 0.3 s: 30 epochs take 180 s."""
    measured = paced(monkeypatch, 0.3)
    plan = settled(minutes=minutes, batch_size=16, accumulate=4)
    assert measured == [4]
    assert ("few epochs that the minutes allow" in plan.run.chosen) == brief


def test_a_slice_that_takes_too_much_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def pace(*_: Any, **__: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(vitkit.api.batch_size, "pace", pace)
    with pytest.raises(ConfigError, match="batch_size 32: a step of 16 pictures at a time .* accumulate .now 2"):
        settled(minutes=3.0, batch_size=32, accumulate=2)


def test_a_recipe_is_as_it_was_found_in_any_minutes() -> None:
    free = settle(Asked(data=PICTURES, recipe="cifar10-gpu"), Processes(), None)
    hurried = settle(Asked(data=PICTURES, recipe="cifar10-gpu", settings={"minutes": 0.01}), Processes(), None)
    assert dataclasses.replace(hurried.run.train, minutes=None) == free.run.train


def test_the_pace_is_measured_and_what_is_said_goes_over_the_defaults() -> None:
    plan = settled(minutes=0.01, optimizer="adamw", label_smoothing=0.2)
    assert "few epochs" in plan.run.chosen
    assert (plan.run.train.optimizer, plan.run.train.label_smoothing) == ("adamw", 0.2)
    assert settled(minutes=600.0).run.chosen.startswith("from scratch, for photos, fitted to 80 pictures; about ")


def test_what_was_measured_is_told_and_kept_and_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 steps an epoch, of 1.2 s."""
    measured = paced(monkeypatch, 1.2)
    run = settled(minutes=1.2, batch_size=16).run
    assert run.chosen.endswith("fitted to 80 pictures; about 12 epochs fit into 1.2 minutes")
    assert settled(minutes=1234.0, batch_size=16).run.chosen.endswith("; about 12,000 epochs fit into 1234 minutes")
    assert len(measured) == 2
    resumed = settle(Asked(data=PICTURES, resume=new_run(tmp_path / "run", run)), Processes(), None)
    assert resumed.run == run
    assert len(measured) == 2


def test_muon_is_for_models_that_have_something_for_it() -> None:
    small = {"preset": "resnet18", "image_size": 32}
    plan = settle(Asked(data=PICTURES, settings={"minutes": 0.01}, **small), Processes(), None)
    assert "few epochs" in plan.run.chosen
    assert (plan.run.train.optimizer, plan.run.train.lr) == ("adamw", SCRATCH_PHOTOS.lr)
