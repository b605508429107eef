"""Folders, glob patterns, paths and URLs to the pictures they stand for, lazily and in order."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vitkit.errors import DataError
from vitkit.image.fetch import is_url

__all__ = ["EXTENSIONS", "list_pictures"]

logger = logging.getLogger("vitkit")

# The names that the formats `decode` reads go by; what a file holds is decided by its content. A .npz is a picture only
# where it is named: beside pictures lie embeddings and data sets of that ending.
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif")
) | {".npy"}


def list_pictures(sources: Iterable[str]) -> Iterator[str]:
    """Yields the path or URL of each picture, source by source.

    A folder gives the pictures in it and below, by extension (EXTENSIONS, in any case), sorted by name within each
    folder, files before subfolders; hidden ones and links to folders are skipped, other files are counted in one INFO
    line. A glob pattern (`*`, `?`, `[...]`, `**` for any folders) gives the files it matches, sorted, whatever their
    extension. Anything else passes through as it is: a missing file is for its reader to tell, so that the other
    pictures still get their answer.

    Raises DataError, on reaching it, for a folder without pictures, a folder that can't be read, and a pattern that
    matches no file.
    """
    for source in sources:
        if is_url(source):
            yield source
        elif os.path.isdir(source):  # noqa: PTH112 -- Path("") is the current folder, and long names raise
            yield from _list_folder(source)
        elif glob.has_magic(source) and not os.path.lexists(source):
            yield from _list_glob(source)
        else:
            yield source


def _list_folder(folder: str) -> Iterator[str]:
    found = others = 0
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() in EXTENSIONS:
                found += 1
                yield os.path.join(parent, name)  # noqa: PTH118 -- keeps "./x" as the user wrote it
            else:
                others += 1
    if others:
        logger.info("%d other files in %s", others, folder)
    if not found:
        raise DataError(
            f"{folder} holds no picture ({others} other files); pictures end in {', '.join(sorted(EXTENSIONS))}"
        )


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} can't be listed: {error.strerror}; check its permissions")


def _list_glob(pattern: str) -> Iterator[str]:
    found = False
    for path in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 -- Path.glob takes no absolute pattern
        if not Path(path).is_dir():
            found = True
            yield path
    if not found:
        raise DataError(f"{pattern} matches no file; check the pattern and the folder it starts in")
