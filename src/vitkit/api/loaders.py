"""Labelled pictures to the batches of a training: read, held in memory or not, and seen as the objective wants them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch

from vitkit.data.loader import Loader
from vitkit.data.samples import Splits
from vitkit.data.slices import Slices
from vitkit.data.store import Store, make_store
from vitkit.errors import DataError, list_faults
from vitkit.image.preprocess import Preprocess
from vitkit.training.objective import Objective
from vitkit.training.spec import TrainSpec

__all__ = ["make_loaders"]


def make_loaders(
    splits: Splits,
    preprocess: Preprocess,
    spec: TrainSpec,
    objective: Objective,
    workers: int,
    device: torch.device,
    on_read: Callable[[int, int], None] | None,
) -> tuple[Loader, Loader, Loader | None]:
    """The training pictures as the objective wants to see them, the held-out ones and those for the test as they are.

    Raises DataError that names those of any part that can't be read.
    """
    num_classes = splits.train.num_classes
    training, *held_out = _stores(splits, preprocess, on_read)
    early = spec.early_size
    mix = dataclasses.replace(spec.mix, label_smoothing=spec.label_smoothing)
    loader = Loader(
        training,
        splits.train.labels,
        num_classes,
        preprocess,
        batch_size=spec.batch_size,
        seed=spec.seed,
        shuffle=True,
        balanced=spec.sampling == "balanced",
        drop_last=True,
        repeats=spec.repeats,
        augment=objective.views(spec.augment, training.size, preprocess.size),
        early=objective.views(spec.augment, training.size, (early, early)) if early else (),
        mix=mix if mix.mixup or mix.cutmix else None,
        workers=workers,
        device=device,
        slices=Slices(accumulate=spec.accumulate),
    )
    batch_size = math.ceil(spec.batch_size / spec.accumulate)  # what fits into memory
    evaluation, *test = (
        Loader(store, part.labels, num_classes, preprocess, batch_size=batch_size, device=device)
        for store, part in zip(held_out, splits.held_out(), strict=True)
    )
    return loader, evaluation, test[0] if test else None


def _stores(splits: Splits, preprocess: Preprocess, on_read: Callable[[int, int], None] | None) -> list[Store]:
    stores, faults = [], []
    for part in (splits.train, *splits.held_out()):
        try:
            stores.append(make_store(part, preprocess, training=part is splits.train, on_progress=on_read))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError(list_faults(faults))
    return stores
