"""Pictures in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitkit.data.samples import Samples, as_labels
from vitkit.errors import DataError, list_faults
from vitkit.image.decode import describe

__all__ = ["read_arrays"]


def read_arrays(
    pictures: NDArray[Any] | Sequence[NDArray[Any]],
    labels: Sequence[int] | NDArray[Any],
    class_names: Sequence[str],
    *,
    name: str = "arrays",
) -> Samples:
    """Pictures already in memory: numbers [n, H, W, C] or [n, H, W], or a sequence of [H, W, C] of any sizes.

    Labels are whole numbers [n], or of several 0 and 1 [n, K].
    """
    wrong = [
        f"picture {at} is {describe(picture)}; give numbers [H, W, C] or [H, W]"
        for at, picture in enumerate(pictures)
        if not (isinstance(picture, np.ndarray) and picture.dtype.kind in "uif" and picture.ndim in (2, 3))
    ]
    if wrong:
        raise DataError(f"{name}: {list_faults(wrong)}")
    return Samples(tuple(pictures), as_labels(labels, name), tuple(class_names), name)
