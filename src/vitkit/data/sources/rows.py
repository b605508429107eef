"""Rows of a picture and its class, as folders and tables list them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vitkit.data.samples import Samples

__all__ = ["samples_of_rows"]


def samples_of_rows(rows: Sequence[tuple[str, str]], name: str) -> Samples:
    """Samples of (picture, class) rows, the classes sorted."""
    pictures, texts = zip(*rows, strict=True)
    class_names = tuple(_sorted(set(texts)))
    label = {text: at for at, text in enumerate(class_names)}
    return Samples(pictures, np.array([label[text] for text in texts], np.int64), class_names, name)


def _sorted(texts: Iterable[str]) -> list[str]:
    """By name, or by value where all are digits: "10" comes after "9"."""
    names = sorted(texts)
    return sorted(names, key=int) if all(name.isascii() and name.isdecimal() for name in names) else names
