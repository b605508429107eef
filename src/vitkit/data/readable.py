"""Pictures that can't be read, left out before anything is learnt from the others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vitkit.data.samples import Samples, Splits
from vitkit.data.store import map_threads
from vitkit.errors import ImageError
from vitkit.image.decode import samples_of

__all__ = ["find_unreadable", "leave_out"]

logger = logging.getLogger("vitkit")


def find_unreadable(data: Samples | Splits) -> dict[str, list[int]]:
    """Part -> the places of pictures that can't be decoded, each of which is logged with its fault."""
    return {name: _unreadable(part) for name, part in _parts(data).items()}


def leave_out(data: Samples | Splits, places: Mapping[str, Sequence[int]]) -> tuple[Samples | Splits, tuple[str, ...]]:
    """The pictures at other places than these of each part, and the names of these."""
    parts = _parts(data)
    names = tuple(part.describe(at) for name, part in parts.items() for at in places[name])
    kept = {name: part.subset(np.delete(np.arange(len(part)), places[name]), part.name) for name, part in parts.items()}
    return kept[""] if isinstance(data, Samples) else replace(data, **kept), names


def _parts(data: Samples | Splits) -> dict[str, Samples]:
    if isinstance(data, Samples):
        return {"": data}
    parts = {"train": data.train, "val": data.val, "test": data.test}
    return {name: part for name, part in parts.items() if part is not None}


def _unreadable(samples: Samples) -> list[int]:
    def fault(at: int) -> str:
        try:
            samples_of(samples.pictures[at])
        except ImageError as error:
            return str(error)
        return ""

    faults = list(map_threads(fault, range(len(samples)), 1 if samples.lazy else None))
    places = [at for at, said in enumerate(faults) if said]
    for at in places:
        logger.warning("left out: %s", faults[at])
    return places
