"""What a user calls data, opened: the one place that tells the kinds of sources apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from vitkit.data.samples import Samples, Splits, check_trainable
from vitkit.data.sources.digits import read_digits
from vitkit.data.sources.folder import find_parts, read_folder, read_split_folder
from vitkit.data.sources.table import TABLES, read_table
from vitkit.errors import DataError

__all__ = ["FILES", "open_data"]

FILES: Mapping[str, Callable[[Path], Samples | Splits]] = {
    **dict.fromkeys(TABLES, read_table),
}
"""The end of a file's name, in small letters, to what reads it."""


def open_data(source: str | os.PathLike[str]) -> Samples | Splits:
    """The labelled pictures that `source` stands for, ready to be learnt from.

    "digits" are the bundled ones (./digits is a folder of that name); a file is one of FILES, and a table whose lines
    say their split is Splits; so is a folder with train/ and val/ (or valid/, validation/), test/ or both; any other
    folder holds a folder per class and is Samples, for `split`.

    Raises DataError, all faults of a kind at once, and ConfigError where the digits aren't installed.
    """
    if source == "digits":
        return read_digits()
    path = Path(source)
    if path.is_file():
        opened = _read_file(path)
    elif not path.is_dir():
        kinds = ", ".join(FILES)
        raise DataError(f"{str(path)!r} isn't there; give a folder of class folders, a file ({kinds}), or digits")
    elif parts := find_parts(path):
        opened = read_split_folder(path, parts)
    else:
        opened = read_folder(path)
    if isinstance(opened, Samples):
        check_trainable(opened)
    return opened


def _read_file(path: Path) -> Samples | Splits:
    read = FILES.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path} is no list of labelled pictures by its name; it should end in {', '.join(FILES)}")
    return read(path)
