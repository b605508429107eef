"""A folder per class; or train/ with val/, test/ or both beside it, each of class folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from vitkit.data.samples import Samples, Splits
from vitkit.data.sources.parts import HELD_OUT, join_parts
from vitkit.data.sources.rows import Listing, Row, samples_of_rows
from vitkit.data.sources.table import find_tables
from vitkit.errors import DataError, list_faults
from vitkit.image.listing import EXTENSIONS, list_pictures

__all__ = ["find_parts", "list_class_folders", "read_folder", "read_split_folder"]

logger = logging.getLogger("vitkit")


def read_folder(path: str | os.PathLike[str]) -> Samples:
    """One folder per class, with that class's pictures in it and below; sorted classes, pictures as `list_pictures`."""
    listing = list_class_folders(Path(path))
    if listing.faults:
        raise DataError(f"{path}: {list_faults(listing.faults)}")
    return samples_of_rows(listing.rows, str(path))


def list_class_folders(folder: Path) -> Listing:
    """The pictures of a folder per class, and what lies there otherwise. Raises DataError where there is none."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} can't be listed: {error.strerror}; give a folder of class folders") from None
    if not any(entry.is_dir() for entry in entries):
        tables = find_tables(folder)
        remedy = f"; give {tables[0]} if that lists the labels" if tables else "; or list path and label in a CSV file"
        raise DataError(f"{folder} has no class folders; put each picture in the folder of its class{remedy}")
    rows: list[Row] = []
    faults: list[str] = []
    for entry in entries:
        if entry.is_dir():
            try:
                rows += [Row(picture, (entry.name,)) for picture in list_pictures([str(entry)])]
            except DataError as error:
                faults.append(str(error))
        elif entry.suffix.lower() in EXTENSIONS:
            faults.append(f"{entry.name!r} lies in no class folder")
    return Listing(rows, faults)


def find_parts(path: Path) -> dict[str, Path]:
    """Part -> folder, of train and what is held out; nothing where the folder isn't split."""
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = {part: [name for name in names if name in folders] for part, names in HELD_OUT.items()}
    if "train" not in folders or not any(found.values()):
        return {}
    if len(found["val"]) > 1:
        raise DataError(f"{path} holds {' and '.join(found['val'])}; which one is held out? Keep one of them")
    parts = {"train": path / "train"} | {part: path / names[0] for part, names in found.items() if names}
    others = [name for name in folders if path / name not in parts.values()]
    if others:
        logger.warning("%s is split into train and held out; other folders aren't read: %s", path, list_faults(others))
    return parts


def read_split_folder(path: Path, parts: dict[str, Path], read_part: Callable[[Path], Samples] = read_folder) -> Splits:
    """What lies in each of `parts`, as `find_parts` has found them; raises DataError with all their faults."""
    read: dict[str, Samples] = {}
    faults = []
    for part, folder in parts.items():
        try:
            read[part] = read_part(folder)
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError(list_faults(faults))
    return join_parts(str(path), read, {part: f"{folder.name}/" for part, folder in parts.items()})
