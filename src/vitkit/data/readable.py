"""Pictures that can't be read, left out before anything is learnt from the others."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from vitkit.data.samples import Samples, Splits
from vitkit.data.store import map_threads
from vitkit.errors import ImageError
from vitkit.image.decode import samples_of

__all__ = ["leave_out_unreadable"]

logger = logging.getLogger("vitkit")


def leave_out_unreadable(data: Samples | Splits) -> tuple[Samples | Splits, tuple[str, ...]]:
    """The pictures that can be decoded, and the names of the others, each of which is logged with its fault."""
    if isinstance(data, Samples):
        return _readable(data)
    train, left_out = _readable(data.train)
    parts: dict[str, Samples] = {}
    for name, part in {"val": data.val, "test": data.test}.items():
        if part is not None:
            parts[name], more = _readable(part)
            left_out += more
    return replace(data, train=train, **parts), left_out


def _readable(samples: Samples) -> tuple[Samples, tuple[str, ...]]:
    def fault(at: int) -> str:
        try:
            samples_of(samples.pictures[at])
        except ImageError as error:
            return str(error)
        return ""

    faults = list(map_threads(fault, range(len(samples)), 1 if samples.lazy else None))
    bad = [at for at, said in enumerate(faults) if said]
    for at in bad:
        logger.warning("left out: %s", faults[at])
    if not bad:
        return samples, ()
    kept = np.array([at for at, said in enumerate(faults) if not said], np.int64)
    return samples.subset(kept, samples.name), tuple(samples.describe(at) for at in bad)
