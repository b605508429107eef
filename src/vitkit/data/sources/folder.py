"""A folder per class; or train/ with val/, test/ or both beside it, each of class folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from vitkit.data.samples import Samples, Splits
from vitkit.data.sources.parts import is_split, join_parts, name_parts
from vitkit.data.sources.rows import Listing, Row, samples_of_rows
from vitkit.data.sources.table import find_tables
from vitkit.errors import DataError, list_faults
from vitkit.image.listing import EXTENSIONS, list_pictures

__all__ = ["find_parts", "list_class_folders", "read_folder", "read_split_folder"]


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
    folders = [entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if not is_split(folders):
        return {}
    return {part: path / name for part, name in name_parts(str(path), folders).items()}


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
