"""All there is to check as one list of pictures, however it is split; what training refuses is noted instead."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitkit.data.doctor.findings import Finding
from vitkit.data.samples import Samples, Splits
from vitkit.data.sources.open import open_data
from vitkit.data.sources.parts import PARTS, is_split, part_of
from vitkit.data.sources.rows import Row, samples_of_rows
from vitkit.errors import DataError
from vitkit.image.listing import EXTENSIONS, list_pictures

__all__ = ["Survey", "survey"]


@dataclass(frozen=True, eq=False)
class Survey:
    """The pictures of all parts under the classes of all parts."""

    samples: Samples
    parts: NDArray[np.int64]
    """The part of each picture, [n]."""
    part_names: tuple[str, ...]
    """train first; one empty name where the data isn't split."""
    findings: tuple[Finding, ...] = ()
    """What was wrong on the way in."""

    def counts(self) -> NDArray[np.int64]:
        """Pictures of each part and class, [parts, K]."""
        parts = [np.flatnonzero(self.parts == part) for part in range(len(self.part_names))]
        return np.stack([self.samples.subset(part, self.samples.name).counts() for part in parts])


def survey(data: str | os.PathLike[str] | Samples | Splits) -> Survey:
    """Everything that `data` holds, as `open_data` names it.

    Class folders are read here, faults and all; from other sources, what `open_data` refuses is refused here too.
    """
    if not isinstance(data, Samples | Splits):
        parts = _part_folders(Path(data)) if Path(data).is_dir() else {}
        if any(_pictures(folder) for part in parts.values() for folder in _folders(part)):
            return _read_folders(os.fspath(data), parts)
        data = open_data(data)
    if isinstance(data, Samples):
        return Survey(data, np.zeros(len(data), np.int64), ("",))
    given = {"train": data.train, "val": data.val, "test": data.test}
    held = {name: samples for name, samples in given.items() if samples is not None}
    samples = Samples(
        [picture for part in held.values() for picture in part.pictures],
        np.concatenate([part.labels for part in held.values()]),
        data.train.class_names,
        data.train.name,
    )
    return Survey(samples, np.repeat(np.arange(len(held)), [len(part) for part in held.values()]), tuple(held))


def _part_folders(path: Path) -> dict[str, Path]:
    """Name -> folder of each part; the folder itself, without a name, where it isn't split."""
    there = {folder.name: folder for folder in _folders(path)}
    if not is_split(there):
        return {"": path}
    return {name: there[name] for part in PARTS for name in there if part_of(name) == part}


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _pictures(folder: Path) -> list[str]:
    try:
        return list(list_pictures([str(folder)]))
    except DataError:  # none in it
        return []


def _read_folders(name: str, folders: dict[str, Path]) -> Survey:
    rows: list[Row] = []
    parts: list[int] = []
    findings: list[Finding] = []
    for number, part in enumerate(folders.values()):
        for folder in _folders(part):
            found = _pictures(folder)
            rows += [Row(picture, (folder.name,)) for picture in found]
            parts += [number] * len(found)
            if not found:
                findings.append(Finding("empty_class", f"{folder} holds no picture"))
        for file in _other_files(part):
            if file.suffix.lower() not in EXTENSIONS:
                findings.append(Finding("other_file", str(file)))
            elif file.parent == part:
                findings.append(Finding("loose", f"{file} lies in no class folder"))
    return Survey(samples_of_rows(rows, name), np.array(parts, np.int64), tuple(folders), tuple(findings))


def _other_files(part: Path) -> Iterator[Path]:
    """Files beside class folders, and those in them that aren't pictures by name."""
    for parent, folders, names in os.walk(part):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and (Path(parent) == part or Path(name).suffix.lower() not in EXTENSIONS):
                yield Path(parent, name)
