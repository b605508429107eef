"""What a user calls data, opened: the one place that tells the kinds of sources apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from vitkit.data.samples import Samples, Splits, check_trainable
from vitkit.data.sources.digits import read_digits
from vitkit.data.sources.folder import find_parts, read_folder, read_split_folder
from vitkit.data.sources.hub import find_hub_files, read_hub, read_saved
from vitkit.data.sources.idx import find_idx, read_idx
from vitkit.data.sources.npz import read_npz
from vitkit.data.sources.table import TABLES, read_table
from vitkit.data.sources.tar import TARS, expand_braces, find_shards, read_shards, read_tar
from vitkit.errors import DataError

__all__ = ["FILES", "open_data"]


def _read_parquet(path: Path) -> Samples | Splits:
    """Of the Hub's pictures, else a table of paths."""
    return read_hub([path], str(path)) or read_table(path)


FILES: Mapping[str, Callable[[Path], Samples | Splits]] = {
    **dict.fromkeys(TABLES, read_table),
    **dict.fromkeys(TARS, read_tar),
    ".npz": read_npz,
    ".parquet": _read_parquet,
}
"""The end of a file's name, in small letters, to what reads it."""


def open_data(source: str | os.PathLike[str]) -> Samples | Splits:
    """The labelled pictures that `source` stands for, ready to be learnt from.

    "digits" are the bundled ones (./digits is a folder of that name); a file is one of FILES, and a table whose lines
    say their split is Splits; a name with {0000..0099} in it are the shards of a WebDataset; a folder is what
    `_read_folder` finds in it.

    Raises DataError, all faults of a kind at once, and ConfigError where the digits or a library aren't installed.
    """
    if source == "digits":
        return read_digits()
    path = Path(source)
    shards = [Path(name) for name in expand_braces(os.fspath(source))]
    if path.is_file():
        opened = _read_file(path)
    elif path.is_dir():
        opened = _read_folder(path)
    elif shards != [path]:
        opened = read_shards(shards, os.fspath(source))
    else:
        kinds = ", ".join(FILES)
        raise DataError(f"{str(path)!r} isn't there; give a folder of class folders, a file ({kinds}), or digits")
    if isinstance(opened, Samples):
        check_trainable(opened)
    return opened


def _read_file(path: Path) -> Samples | Splits:
    read = next((read for ending, read in FILES.items() if path.name.lower().endswith(ending)), None)
    if read is None:
        raise DataError(f"{path} is no list of labelled pictures by its name; it should end in {', '.join(FILES)}")
    return read(path)


def _read_folder(path: Path) -> Samples | Splits:
    """IDX files, a Hub data set, shards; train/ with val/ (or valid/, validation/), test/ or both; class folders."""
    if files := find_idx(path):
        return read_idx(path, files)
    if (saved := read_saved(path)) is not None:
        return saved
    if parts := find_parts(path):
        return read_split_folder(path, parts, _read_part)
    if (tables := find_hub_files(path)) and (found := read_hub(tables, str(path))) is not None:
        return found
    return _read_shards_or_classes(path)


def _read_part(path: Path) -> Samples:
    found = _read_shards_or_classes(path)
    if isinstance(found, Splits):
        raise DataError(f"{path} is a part already, and its shards are called train and val or test; put them above it")
    return found


def _read_shards_or_classes(path: Path) -> Samples | Splits:
    has_folders = any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir())
    shards = [] if has_folders else find_shards(path)
    return read_shards(shards, str(path)) if shards else read_folder(path)
