"""Which samples pictures are made of: their kind by some of the headers, the range of deep ones by all their values."""

from __future__ import annotations

import numpy as np

from vitkit.data.samples import Samples
from vitkit.data.store import map_threads
from vitkit.errors import DataError, ImageError, list_faults
from vitkit.image.decode import Header, read_header, samples_of

__all__ = ["find_value_range", "probe"]

PROBED = 32
"""Pictures whose headers are looked at."""

COLOURS = Header("", "RGB", 0, 0, 3, np.dtype(np.uint8), False)
"""Where no header can be read: what reads the pictures will say why."""


def probe(samples: Samples) -> Header:
    """What the pictures hold, by the first of PROBED that are evenly spread; of a user's Dataset one is fetched.

    DataError where some of them are deep and others aren't.
    """
    places = [0] if samples.lazy else np.unique(np.linspace(0, len(samples) - 1, PROBED).astype(int)).tolist()
    found: dict[int, Header] = {}
    for at in places:
        try:
            found[at] = read_header(samples.pictures[at])
        except ImageError:
            continue
    deep = [samples.describe(at) for at, header in found.items() if header.deep]
    if 0 < len(deep) < len(found):
        others = [samples.describe(at) for at, header in found.items() if not header.deep]
        raise DataError(
            f"{samples.name}: {list_faults(deep, first=3)} hold more than 8 bits, and {list_faults(others, first=3)} "
            "8; a model reads one of both: save all in one depth, or leave the others out"
        )
    return next(iter(found.values()), COLOURS)


def find_value_range(samples: Samples) -> tuple[float, float]:
    """The range that holds all samples of all pictures, for `Preprocess.value_range`.

    Whole numbers from 0 up: to the next 2^k - 1, as cameras of 10, 12 or 14 bits have it. Floats within 0..1: that.
    Any others: the least and the largest one. Pictures that can't be read are left to what reads them next.
    """

    def read(at: int) -> tuple[float, float, bool] | None:
        try:
            values = samples_of(samples.pictures[at])
        except ImageError:
            return None
        finite = values[np.isfinite(values)]
        return (float(finite.min()), float(finite.max()), values.dtype.kind != "f") if finite.size else None

    found = [each for each in map_threads(read, range(len(samples)), 1 if samples.lazy else None) if each is not None]
    if not found:
        return 0.0, 1.0
    low, high, whole = min(each[0] for each in found), max(each[1] for each in found), all(each[2] for each in found)
    if low >= 0 and whole:
        return 0.0, float(2 ** max(int(high).bit_length(), 1) - 1)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1
