"""Pictures in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitkit.data.samples import Samples, as_labels
from vitkit.data.sources.rows import Row, samples_of_rows
from vitkit.errors import DataError, list_faults
from vitkit.image.decode import Picture, describe

__all__ = ["read_arrays", "read_labelled_arrays", "read_words"]


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
    _check_pictures(pictures, name)
    return Samples(tuple(pictures), as_labels(labels, name), tuple(class_names), name)


def read_labelled_arrays(
    pictures: NDArray[Any], labels: NDArray[Any], name: str, class_names: Sequence[str] | None = None
) -> Samples:
    """As files hold them: labels [n] or [n, 1], numbers or words, or 0 and 1 [n, K]; pictures [n, H, W(, C)].

    The classes are `class_names`, else what the labels say, in words.
    """
    if pictures.ndim not in (3, 4) or len(pictures) != len(labels):
        raise DataError(
            f"{name}: pictures are {list(pictures.shape)} and labels {list(labels.shape)}; give [n, H, W] or "
            "[n, H, W, C] and a label for each"
        )
    _check_pictures(pictures, name)
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim == 1:
        return read_words(tuple(pictures), labels.tolist(), name, class_names)
    names = class_names or [str(column) for column in range(labels.shape[-1])]
    return Samples(tuple(pictures), as_labels(labels, name), tuple(names), name)


def read_words(
    pictures: Sequence[Picture], labels: Sequence[Any], name: str, class_names: Sequence[str] | None = None
) -> Samples:
    """Pictures whose label is a number or a word, or a list of them for several labels.

    Numbers count in `class_names` where there are any; else what the labels say are the classes.
    """
    multi_label = any(isinstance(label, list) for label in labels)
    faults = [f"picture {at} has no label" for at, label in enumerate(labels) if label in (None, "", -1)]
    if faults:
        raise DataError(f"{name}: {list_faults(faults)}")
    several = [label if isinstance(label, list) else [label] for label in labels]
    if class_names is None or any(isinstance(label, str) for each in several for label in each):
        rows = [Row("", tuple(map(str, each))) for each in several]
        return replace(samples_of_rows(rows, name, multi_label=multi_label), pictures=tuple(pictures))
    beyond = [f"picture {at} has the label {each}" for at, each in enumerate(several) if not _within(each, class_names)]
    if beyond:
        raise DataError(f"{name} names {len(class_names)} classes, 0 to {len(class_names) - 1}: {list_faults(beyond)}")
    numbers = np.zeros((len(several), len(class_names)), bool) if multi_label else np.array(several, np.int64)[:, 0]
    if multi_label:
        for at, each in enumerate(several):
            numbers[at, each] = True
    return Samples(tuple(pictures), numbers, tuple(class_names), name)


def _within(labels: Sequence[Any], class_names: Sequence[str]) -> bool:
    return all(isinstance(label, int) and 0 <= label < len(class_names) for label in labels)


def _check_pictures(pictures: NDArray[Any] | Sequence[NDArray[Any]], name: str) -> None:
    wrong = [
        f"picture {at} is {describe(picture)}; give numbers [H, W, C] or [H, W]"
        for at, picture in enumerate(pictures)
        if not (isinstance(picture, np.ndarray) and picture.dtype.kind in "uif" and picture.ndim in (2, 3))
    ]
    if wrong:
        raise DataError(f"{name}: {list_faults(wrong)}")
