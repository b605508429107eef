"""Labelled pictures to the batches of a training: read, held in memory or not, and seen as the objective wants them."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable

import numpy as np
import torch

from vitkit.data.loader import Loader
from vitkit.data.samples import Samples, Splits
from vitkit.data.slices import Slices
from vitkit.data.store import MemoryStore, Store, make_store, memory_limit, stored_size
from vitkit.device import processes_here
from vitkit.errors import DataError, list_faults
from vitkit.image.preprocess import Preprocess
from vitkit.training.objective import Objective
from vitkit.training.processes import Processes
from vitkit.training.spec import TrainSpec

__all__ = ["black_pictures", "make_loaders"]

logger = logging.getLogger("vitkit")


def make_loaders(
    splits: Splits,
    preprocess: Preprocess,
    spec: TrainSpec,
    objective: Objective,
    workers: int,
    device: torch.device,
    processes: Processes,
    on_read: Callable[[int, int], None] | None,
) -> tuple[Loader, Loader, Loader | None]:
    """The training pictures as the objective wants to see them, the held-out ones and those for the test as they are.

    Raises DataError that names those of any part that can't be read.
    """
    num_classes = splits.train.num_classes
    training, *held_out = _stores(splits, preprocess, processes, on_read)
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
        workers=workers if training.in_memory else _affordable(workers, splits.train),
        device=device,
        slices=Slices(processes.rank, processes.count, spec.accumulate),
    )
    batch_size = math.ceil(spec.batch_size / (spec.accumulate * processes.count))  # what fits into memory
    evaluation, *test = (
        Loader(store, part.labels, num_classes, preprocess, batch_size=batch_size, device=device)
        for store, part in zip(held_out, splits.held_out(), strict=True)
    )
    return loader, evaluation, test[0] if test else None


def _affordable(workers: int, samples: Samples) -> int:
    """As many workers as may each copy what `samples` hold in memory; the batches are the same for any number."""
    held = samples.held_bytes
    fitting = min(workers, memory_limit() // processes_here() // held) if held else workers
    if fitting < workers:
        logger.warning(
            "%s holds %s bytes in memory, which each worker copies: %d workers instead of %d",
            samples.name,
            f"{held:,}",
            fitting,
            workers,
        )
    return fitting


def black_pictures(
    count: int, splits: Splits, preprocess: Preprocess, spec: TrainSpec, objective: Objective, device: torch.device
) -> Loader:
    """A batch of `count` stand-ins, read, varied and mixed as in the training: for what its steps will cost."""
    height, width = stored_size(preprocess)
    pixels = np.zeros((count, height, width, preprocess.channels), preprocess.pixel_type)
    return Loader(
        MemoryStore(pixels),
        splits.train.labels[np.arange(count) % len(splits.train)],
        splits.train.num_classes,
        preprocess,
        batch_size=count,
        augment=objective.views(spec.augment, (height, width), preprocess.size),
        mix=spec.mix if spec.mix.mixup or spec.mix.cutmix else None,
        device=device,
    )


def _stores(
    splits: Splits, preprocess: Preprocess, processes: Processes, on_read: Callable[[int, int], None] | None
) -> list[Store]:
    """Those of each part; what is too large for this process's share of the memory is only checked, by the first."""
    limit = memory_limit() // processes_here() if processes_here() > 1 else None
    stores, faults = [], []
    for number, part in enumerate((splits.train, *splits.held_out())):
        try:
            store = make_store(
                part,
                preprocess,
                training=number == 0,  # labels are judged by what is learnt from: the same Samples
                memory_limit_bytes=limit,
                check=processes.first,
                on_progress=on_read,
            )
            stores.append(store)
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError(list_faults(faults))
    return stores
