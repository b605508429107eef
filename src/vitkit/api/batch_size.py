"""What the machine allows, measured before a run: the largest batch (`batch_size = "auto"`), epochs in the minutes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vitkit.api.loaders import black_pictures
from vitkit.data.samples import Splits
from vitkit.data.store import memory_limit, stored_size
from vitkit.device import free_memory
from vitkit.errors import ConfigError
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel
from vitkit.training.memory import MemoryPlan, peak_of_step, plan_batch, scaled_lr
from vitkit.training.objective import Objective
from vitkit.training.spec import TrainSpec
from vitkit.training.starts import LEAST_STEPS
from vitkit.training.trial import pace

__all__ = ["Layers", "affordable_epochs", "choose_batch_size", "split_auto"]

AUTO = "auto"
LARGEST = 4096
"""The largest batch of the published recipes (Dosovitskiy et al., 2021, table 3)."""

PACE_SHARE = 0.01
"""Of the minutes, beside them, what finding the pace may take."""

Layers = Sequence[tuple[str, Mapping[str, Any]]]


def split_auto(layers: Layers) -> tuple[Layers, bool, bool]:
    """The layers of settings without "auto", whether it is what the last word says, and whether a rate is said."""
    said = [layer["batch_size"] for _, layer in layers if "batch_size" in layer]
    automatic = bool(said) and said[-1] == AUTO
    kept = [
        (origin, {name: value for name, value in layer.items() if (name, value) != ("batch_size", AUTO)})
        for origin, layer in layers
    ]
    return kept, automatic, any("lr" in layer for _, layer in layers)


def choose_batch_size(
    module: ImageModel,
    objective: Objective,
    splits: Splits,
    preprocess: Preprocess,
    spec: TrainSpec,
    rate_said: bool,
    processes: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[TrainSpec, MemoryPlan]:
    """`spec` with the batch that fits, and with the rate that suits it unless one was said; and how that was found.

    Of several processes each computes its part of a batch, in `spec.accumulate` slices: a slice is what has to fit.
    """
    free = free_memory(device)
    if free is None:
        raise ConfigError("batch_size 'auto' needs to know the free memory, which isn't told here; say a number")

    def peak(count: int) -> int:
        """Of a step of `count` black pictures in one slice."""
        loader = black_pictures(count, splits, preprocess, spec, objective, device)
        small = dataclasses.replace(spec, batch_size=count, accumulate=1, compile=False)
        try:
            return peak_of_step(module, objective, loader, small, device=device, dtype=dtype)
        except torch.OutOfMemoryError:
            return free + 1

    if device.type == "cpu":  # where the pictures will be, too
        height, width = stored_size(preprocess)
        bytes_each = height * width * preprocess.channels * preprocess.pixel_type.itemsize
        sizes = [len(part) * bytes_each for part in (splits.train, *splits.held_out())]
        free -= sum(size for size in sizes if size <= memory_limit())
    slices = spec.accumulate * processes
    least = 1 if slices == 1 else 2  # slices hold whole pairs
    most = max(min(len(splits.train) // LEAST_STEPS, LARGEST) // slices, least)
    plan = plan_batch(peak, free_bytes=free, most=most, least=least)
    batch_size = plan.batch_size * slices
    lr = spec.lr if rate_said else scaled_lr(spec, batch_size)
    return dataclasses.replace(spec, batch_size=batch_size, lr=lr), plan


def affordable_epochs(
    module: ImageModel,
    objective: Objective,
    splits: Splits,
    preprocess: Preprocess,
    spec: TrainSpec,
    processes: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """Epochs that the minutes of `spec` allow at the pace of a few steps.

    Of several processes each computes its part of a batch, in `spec.accumulate` slices: a slice is what is measured.
    Raises ConfigError where it doesn't fit into the memory.
    """
    assert spec.minutes is not None
    count = math.ceil(spec.batch_size / (spec.accumulate * processes))
    part = dataclasses.replace(spec, batch_size=count, accumulate=1, compile=False)
    black = black_pictures(count, splits, preprocess, part, objective, device)
    budget = 60 * spec.minutes
    try:
        seconds = pace(module, objective, black, part, limit_s=PACE_SHARE * budget, device=device, dtype=dtype)
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"batch_size {spec.batch_size}: a step of {count} pictures at a time takes more memory than is free on "
            f"{device}; choose a smaller batch_size, a larger accumulate (now {spec.accumulate}) or "
            "gradient_checkpointing"
        ) from None
    steps = budget / (seconds * spec.accumulate)
    return steps * spec.batch_size / (len(splits.train) * spec.repeats)
