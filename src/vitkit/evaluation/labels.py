"""Labelled pictures from a folder or a table, matched to the model's classes before any picture is run."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitkit.data.sources.folder import list_class_folders
from vitkit.data.sources.rows import Row
from vitkit.data.sources.table import TABLES, list_table
from vitkit.errors import DataError, list_faults, nearest
from vitkit.image.fetch import is_url

__all__ = ["Labelled", "check_source", "read_labels"]

logger = logging.getLogger("vitkit")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture and the class it belongs to, or the classes."""

    picture: str
    """Path or URL."""
    label: int | tuple[int, ...]
    """The class's index among the model's outputs; of several labels a tuple of any number of them."""


def check_source(source: str | os.PathLike[str]) -> Path:
    """Returns the folder or file as a Path; raises DataError if it isn't there: call it before long work."""
    path = Path(source)
    if not (path.is_dir() or path.is_file()):
        kinds = ", ".join(TABLES)
        raise DataError(f"{str(path)!r} isn't there; give a folder of class folders, or a table ({kinds})")
    return path


def read_labels(
    source: str | os.PathLike[str],
    class_names: Sequence[str] | None,
    class_ids: Sequence[str] | None,
    num_classes: int,
    *,
    split: str | None = None,
) -> list[Labelled]:
    """The labelled pictures of `source`, in the order of the folder listing or of the file.

    A folder holds one folder per class, with that class's pictures in it and below. A table is what `train` takes
    (data/sources/table.py), and URLs may stand in the place of paths; of one that says its split, `split` (train, val,
    test) takes a part. What a class folder or label says is matched exactly, in this order: class id, class name, one
    of the name's comma-separated synonyms, index 0..num_classes-1. So a model whose class names are digits is matched
    by name. Where the first of these to match fits several classes, it is a fault: ImageNet has two cranes.

    Raises DataError, all faults of one kind at once: unknown or ambiguous classes, pictures without a class, pictures
    listed twice, files that aren't there, nothing there at all.
    """
    path = check_source(source)
    listing = list_class_folders(path) if path.is_dir() else list_table(path)
    rows = listing.rows if split is None else _part(path, listing.rows, split)
    if split is None and len(parts := {row.part for row in rows}) > 1:
        logger.warning("%s says which pictures are in %s; all are scored (--split)", path, ", ".join(sorted(parts)))
    labels, unmatched = _match(rows, _Classes(class_names, class_ids, num_classes))
    if listing.faults or unmatched:
        remedy = f"; a class goes by its id, its name, a synonym in it, or its index 0..{num_classes - 1}"
        raise DataError(f"{path}: {list_faults([*listing.faults, *unmatched])}{remedy if unmatched else ''}")
    if not rows:
        raise DataError(f"{path} lists no picture; a line for each says path and label")
    missing = [row.picture for row in rows if not (is_url(row.picture) or os.path.isfile(row.picture))]  # noqa: PTH113
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(rows)} pictures aren't there ({list_faults(missing)}); "
            f"paths count from {path.parent}"
        )
    if listing.multi_label:
        return [Labelled(row.picture, tuple(sorted({labels[text] for text in row.labels}))) for row in rows]
    return [Labelled(row.picture, labels[row.labels[0]]) for row in rows]


def _part(path: Path, rows: Sequence[Row], split: str) -> list[Row]:
    """The rows of that part of a table."""
    parts = sorted({row.part for row in rows if row.part})
    if split not in parts:
        there = f"; there are {', '.join(parts)}" if parts else " of pictures; a table's column `split` says them"
        raise DataError(f"{path} has no part {split!r}{there}")
    return [row for row in rows if row.part == split]


def _match(rows: Sequence[Row], classes: _Classes) -> tuple[dict[str, int], list[str]]:
    """Each class as the rows say it -> its index, and what can't be matched, once each."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        for text in row.labels:
            lines.setdefault(text, []).append(row.where)
    labels: dict[str, int] = {}
    faults: list[str] = []
    for text, where in lines.items():
        try:
            # Looking for the nearest of 3,000 words takes 20 ms, and only the first faults are shown.
            labels[text] = classes.find(text, suggest=len(faults) < 10)
        except DataError as error:
            more = f" and {len(where) - 1} more" if len(where) > 1 else ""
            faults.append(f"{where[0]}{more}: {error}" if where[0] else f"folder {error}")
    return labels, faults


class _Classes:
    """The model's classes under every word for them."""

    def __init__(self, names: Sequence[str] | None, ids: Sequence[str] | None, num_classes: int) -> None:
        self._ids = ids
        self._num_classes = num_classes
        synonyms = [{part.strip() for part in name.split(",")} for name in names or ()]
        # In the order of precedence.
        self._words = [
            _index_words((word,) for word in ids or ()),
            _index_words((word,) for word in names or ()),
            _index_words(synonyms),
        ]

    def find(self, text: str, *, suggest: bool) -> int:
        """The index of the one class that `text` stands for; raises DataError, without the origin, otherwise."""
        for words in self._words:
            if text in words:
                return self._only(text, words[text])
        if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
            suggestion = nearest(text, set().union(*self._words)) if suggest else ""
            raise DataError(f"{text!r} is no class of the model{suggestion}")
        if not 0 <= int(text) < self._num_classes:
            raise DataError(f"{text!r} is outside the model's {self._num_classes} classes")
        return int(text)

    def _only(self, text: str, found: list[int]) -> int:
        if len(found) == 1:
            return found[0]
        ids = self._ids
        said = " and ".join(f"{index} ({ids[index]})" if ids else str(index) for index in found)
        raise DataError(f"{text!r} fits several classes, {said}; say which by index{' or id' if ids else ''}")


def _index_words(words: Iterable[Iterable[str]]) -> dict[str, list[int]]:
    """Word -> the indices of the classes it stands for."""
    found: dict[str, list[int]] = {}
    for index, of_class in enumerate(words):
        for word in of_class:
            found.setdefault(word, []).append(index)
    return found
