"""What a training's minutes make of its defaults."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import vitkit.api.batch_size
from vitkit.api.plan import Asked, Plan, settle
from vitkit.data.sources.arrays import read_arrays
from vitkit.training.processes import Processes
from vitkit.training.starts import SCRATCH_BRIEF, SCRATCH_PHOTOS

PIXELS = np.random.default_rng(0).integers(0, 256, (100, 20, 20), dtype=np.uint8)
PICTURES = read_arrays(PIXELS, np.arange(100) % 2, ["a", "b"])


def settled(**settings: Any) -> Plan:
    return settle(Asked(data=PICTURES, settings=settings), Processes(), None)


@pytest.mark.parametrize(("minutes", "brief"), [(3.0, True), (3.2, False), (None, False)])
def test_minutes_for_few_epochs_choose_what_learns_fast(
    minutes: float | None, brief: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 pictures in batches of 16 are 5 steps, here of 1.2 s: 30 epochs take 180 s."""
    monkeypatch.setattr(vitkit.api.batch_size, "pace", lambda *_, **options: 1.2)
    plan = settled(minutes=minutes, batch_size=16)
    spec = plan.run.train
    expected = SCRATCH_BRIEF if brief else SCRATCH_PHOTOS
    assert (spec.optimizer, spec.lr, spec.augment) == (expected.optimizer, expected.lr, expected.augment)
    assert (spec.label_smoothing, spec.mix) == (expected.label_smoothing, expected.mix)
    assert plan.module.spec.drop_path == (expected.drop_path or 0.0)
    assert ("few epochs that the minutes allow" in plan.run.chosen) == brief


def test_a_recipe_is_as_it_was_found_in_any_minutes() -> None:
    free = settle(Asked(data=PICTURES, recipe="cifar10-gpu"), Processes(), None)
    hurried = settle(Asked(data=PICTURES, recipe="cifar10-gpu", settings={"minutes": 0.01}), Processes(), None)
    assert dataclasses.replace(hurried.run.train, minutes=None) == free.run.train


def test_the_pace_is_measured_and_what_is_said_goes_over_the_defaults() -> None:
    plan = settled(minutes=0.01, optimizer="adamw", label_smoothing=0.2)
    assert "few epochs" in plan.run.chosen
    assert (plan.run.train.optimizer, plan.run.train.label_smoothing) == ("adamw", 0.2)
    assert settled(minutes=600.0).run.chosen == "from scratch, for photos, fitted to 80 pictures"


def test_muon_is_for_models_that_have_something_for_it() -> None:
    small = {"preset": "resnet18", "image_size": 32}
    plan = settle(Asked(data=PICTURES, settings={"minutes": 0.01}, **small), Processes(), None)
    assert "few epochs" in plan.run.chosen
    assert (plan.run.train.optimizer, plan.run.train.lr) == ("adamw", SCRATCH_PHOTOS.lr)
