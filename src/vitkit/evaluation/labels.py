"""Labelled pictures from a folder or a CSV file, matched to the model's classes before any picture is run."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitkit.errors import DataError, list_faults, nearest
from vitkit.image.fetch import is_url
from vitkit.image.listing import EXTENSIONS, list_pictures

__all__ = ["Labelled", "check_source", "read_labels"]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture and the class it belongs to."""

    picture: str
    """Path or URL."""
    label: int
    """The class's index among the model's outputs."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A picture as the source lists it: its class in words, not yet matched."""

    picture: str
    text: str
    line: int | None = None
    """Where a CSV file says it."""


def check_source(source: str | os.PathLike[str]) -> Path:
    """Returns the folder or file as a Path; raises DataError if it isn't there: call it before long work."""
    path = Path(source)
    if not (path.is_dir() or path.is_file()):
        raise DataError(f"{str(path)!r} isn't there; give a folder of class folders, or a CSV file with path and label")
    return path


def read_labels(
    source: str | os.PathLike[str],
    class_names: Sequence[str] | None,
    class_ids: Sequence[str] | None,
    num_classes: int,
) -> list[Labelled]:
    """The labelled pictures of `source`, in the order of the folder listing or of the file.

    A folder holds one folder per class, with that class's pictures in it and below. A CSV file (UTF-8, commas) has a
    header with `path` and `label`, other columns are ignored; paths count from the file's own folder, and URLs may
    stand in their place. What a class folder or label says is matched exactly, in this order: class id, class name,
    one of the name's comma-separated synonyms, index 0..num_classes-1. So a model whose class names are digits is
    matched by name. Where the first of these to match fits several classes, it is a fault: ImageNet has two cranes.

    Raises DataError, all faults of one kind at once: unknown or ambiguous classes, pictures without a class, pictures
    listed twice, files that aren't there, nothing there at all.
    """
    path = check_source(source)
    rows, faults = _read_folder(path) if path.is_dir() else _read_csv(path)
    labels, unmatched = _match(rows, _Classes(class_names, class_ids, num_classes))
    if faults or unmatched:
        remedy = f"; a class goes by its id, its name, a synonym in it, or its index 0..{num_classes - 1}"
        raise DataError(f"{path}: {list_faults(faults + unmatched)}{remedy if unmatched else ''}")
    if not rows:
        raise DataError(f"{path} lists no picture; below its header goes one line for each, path,label")
    missing = [row.picture for row in rows if not (is_url(row.picture) or os.path.isfile(row.picture))]  # noqa: PTH113
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(rows)} pictures aren't there ({list_faults(missing)}); "
            f"paths count from {path.parent}"
        )
    return [Labelled(row.picture, labels[row.text]) for row in rows]


def _read_folder(folder: Path) -> tuple[list[_Row], list[str]]:
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} can't be listed: {error.strerror}; check its permissions") from None
    if not any(entry.is_dir() for entry in entries):
        lists = [str(entry) for entry in entries if entry.suffix.lower() == ".csv"]
        remedy = f"; give {lists[0]} if that lists the labels" if lists else "; or list path and label in a CSV file"
        raise DataError(f"{folder} has no class folders; put each picture in the folder of its class{remedy}")
    rows, faults = [], []
    for entry in entries:
        if entry.is_dir():
            try:
                rows += [_Row(picture, entry.name) for picture in list_pictures([str(entry)])]
            except DataError as error:
                faults.append(str(error))
        elif entry.suffix.lower() in EXTENSIONS:
            faults.append(f"{entry.name!r} lies in no class folder")
    return rows, faults


def _read_csv(file: Path) -> tuple[list[_Row], list[str]]:
    rows: list[_Row] = []
    faults: list[str] = []
    lines: dict[str, int] = {}
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            for line, path, label in _cells(file, text, faults):
                if path in lines:
                    faults.append(f"line {line} lists {path!r} again, after line {lines[path]}")
                lines[path] = line
                rows.append(_Row(path if is_url(path) else str(file.parent / path), label, line))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{file} isn't a CSV file in UTF-8 ({error}); save it as one, path,label in its header"
        ) from None
    except OSError as error:
        raise DataError(f"{file} can't be read: {error.strerror}; check its permissions") from None
    return rows, faults


def _cells(file: Path, text: Iterator[str], faults: list[str]) -> Iterator[tuple[int, str, str]]:
    """Yields (line, path, label) of each whole row; notes the others in `faults`."""
    reader = csv.reader(text, skipinitialspace=True, strict=True)
    header = [name.strip() for name in next(reader, [])]
    for column in ("path", "label"):
        if header.count(column) != 1:
            raise DataError(
                f"{file} has {header.count(column)} columns {column!r} in its header ({', '.join(header)})"
                f"{nearest(column, header)}; one path and one label are needed, separated by commas"
            )
    for cells in reader:
        if not cells:
            continue
        row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        if len(cells) != len(header):
            faults.append(
                f"line {reader.line_num} has {len(cells)} cells under {len(header)} columns (a comma needs quotes)"
            )
        elif not (row["path"] and row["label"]):
            faults.append(f"line {reader.line_num} has no {'label' if row['path'] else 'path'}")
        else:
            yield reader.line_num, row["path"], row["label"]


def _match(rows: list[_Row], classes: _Classes) -> tuple[dict[str, int], list[str]]:
    """Each class as the rows say it -> its index, and what can't be matched, once each."""
    lines: dict[str, list[int]] = {}
    for row in rows:
        lines.setdefault(row.text, []).extend([] if row.line is None else [row.line])
    labels: dict[str, int] = {}
    faults: list[str] = []
    for text, where in lines.items():
        try:
            # Looking for the nearest of 3,000 words takes 20 ms, and only the first faults are shown.
            labels[text] = classes.find(text, suggest=len(faults) < 10)
        except DataError as error:
            more = f" and {len(where) - 1} more" if len(where) > 1 else ""
            faults.append(f"line {where[0]}{more}: {error}" if where else f"folder {error}")
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
