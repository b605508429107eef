"""IDX files, as MNIST and its kin are published: arrays of pictures and of labels, plain or in gzip.

Format: Y. LeCun, C. Cortes, C. Burges, The MNIST Database of Handwritten Digits; most significant byte first.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitkit.data.samples import Samples, Splits
from vitkit.data.sources.arrays import read_labelled_arrays
from vitkit.data.sources.parts import name_parts, part_of, read_parts
from vitkit.errors import DataError

__all__ = ["find_idx", "read_idx"]

PICTURES = re.compile(r"(?P<part>[a-z0-9]+)[-_.]images?[-.]idx[34][-_]ubyte(\.gz)?", re.IGNORECASE)
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def find_idx(folder: Path) -> dict[str, Path]:
    """Part -> its file of pictures, of a folder that holds train-images-idx3-ubyte and the like."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if match := PICTURES.fullmatch(file.name):
            word = match["part"].lower()
            found.setdefault("test" if word == "t10k" else word, file)
    if "train" not in map(part_of, found):
        return {}
    return {part: found[word] for part, word in name_parts(str(folder), found).items()}


def read_idx(folder: Path, files: dict[str, Path]) -> Samples | Splits:
    """The pictures and labels of each of `files`, as `find_idx` has found them; DataError with all their faults."""
    return read_parts(str(folder), {part: partial(_read_part, file) for part, file in files.items()})


def _read_part(file: Path) -> Samples:
    return read_labelled_arrays(_read(file), _read(_labels_beside(file)), str(file))


def _labels_beside(file: Path) -> Path:
    stem = re.sub(r"images?([-.])idx[34]", r"labels\1idx1", file.name.removesuffix(".gz"))
    for name in (stem, f"{stem}.gz"):
        if (file.parent / name).is_file():
            return file.parent / name
    raise DataError(f"{file} has no labels beside it; {stem} or {stem}.gz should be there")


def _read(file: Path) -> NDArray[Any]:
    """The array of an IDX file; DataError where the file isn't one, or holds more or less than its header says."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as opened:
            magic = opened.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not magic[3]:
                raise DataError(f"{file} is no IDX file: it begins with {magic.hex(' ')}")
            dtype = np.dtype(TYPES[magic[2]])
            shape = np.frombuffer(opened.read(4 * magic[3]), ">u4").tolist()
            size = math.prod(shape) * dtype.itemsize
            content = opened.read()  # not `size`: a broken header says anything
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} can't be read ({error}); replace it") from None
    if len(shape) != magic[3] or len(content) != size:
        raise DataError(f"{file} says that it holds {shape}, {size:,} bytes, and has {len(content):,}; replace it")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
