"""Rows of a picture and its classes in words, as folders and tables list them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitkit.data.samples import Samples

__all__ = ["Listing", "Row", "samples_of_rows"]


@dataclass(frozen=True, slots=True)
class Row:
    """A picture as a folder or table lists it."""

    picture: str
    """A path from the current folder, or a URL."""
    labels: tuple[str, ...]
    """Its classes in words: one, or any number where there are several labels."""
    where: str = ""
    """"line 3" of a table."""
    part: str = ""
    """train, val or test, where the table says so."""


@dataclass(frozen=True)
class Listing:
    """The rows that are whole, and what is wrong with the others."""

    rows: Sequence[Row]
    faults: Sequence[str]
    multi_label: bool = False
    """Whether a picture has any number of labels."""


def samples_of_rows(rows: Sequence[Row], name: str, *, multi_label: bool = False) -> Samples:
    """Samples of rows, the classes sorted; one label each unless `multi_label`."""
    class_names = tuple(_sorted({text for row in rows for text in row.labels}))
    label = {text: at for at, text in enumerate(class_names)}
    labels: NDArray[np.int64 | np.bool_]
    if multi_label:
        labels = np.zeros((len(rows), len(class_names)), bool)
        for at, row in enumerate(rows):
            labels[at, [label[text] for text in row.labels]] = True
    else:
        labels = np.array([label[row.labels[0]] for row in rows], np.int64)
    return Samples(tuple(row.picture for row in rows), labels, class_names, name)


def _sorted(texts: Iterable[str]) -> list[str]:
    """By name, or by value where all are digits: "10" comes after "9"."""
    names = sorted(texts)
    return sorted(names, key=int) if all(name.isascii() and name.isdecimal() for name in names) else names
