"""Arrays of pictures and labels in a .npz file, under the names that Keras, MedMNIST and others give them."""

from __future__ import annotations

import zlib
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from vitkit.data.samples import Samples, Splits
from vitkit.data.sources.arrays import read_labelled_arrays
from vitkit.data.sources.parts import PARTS, read_parts
from vitkit.errors import DataError

__all__ = ["read_npz"]

WHOLE = (("images", "labels"), ("x", "y"), ("data", "labels"), ("data", "target"), ("pictures", "labels"))
"""Names of pictures and labels that aren't split."""
SPELLINGS = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("{}_x", "{}_y"), ("{}_data", "{}_labels"))
"""Names of those of a part."""
CLASS_NAMES = ("class_names", "classes", "label_names")


def read_npz(path: Path) -> Samples | Splits:
    """Arrays x_train, y_train, x_test ... or train_images ..., or images and labels; class names where there are any.

    DataError with all faults.
    """
    try:
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as held:
            arrays = {name.lower(): held[name] for name in held.files}
    # A RuntimeError is an encrypted member, or one packed as Python can't unpack it.
    except (OSError, ValueError, EOFError, RuntimeError, BadZipFile, zlib.error, MemoryError) as error:
        raise DataError(f"{path} can't be read as arrays of numbers ({error})") from None
    names = next((arrays[name].astype(str).tolist() for name in CLASS_NAMES if name in arrays), None)
    found = _find_parts(arrays)
    if not found:
        raise DataError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; give images and labels, or x_train, y_train, x_test and "
            "y_test"
        )
    readers = {
        part: partial(read_labelled_arrays, *found[part], f"{path} ({part})" if len(found) > 1 else str(path), names)
        for part in found
    }
    return read_parts(str(path), readers)


def _find_parts(arrays: dict[str, NDArray[Any]]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Part -> pictures and labels; those that aren't split are train."""
    found: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    for part, spelt in PARTS.items():
        names = [(x.format(word), y.format(word)) for word in spelt for x, y in SPELLINGS]
        for x, y in names:
            if x in arrays and y in arrays:
                found.setdefault(part, (arrays[x], arrays[y]))
    if "train" in found:
        return found
    return next(({"train": (arrays[x], arrays[y])} for x, y in WHOLE if x in arrays and y in arrays), {})
