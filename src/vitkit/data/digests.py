"""What tells pictures apart to the byte."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitkit.files import sha256_of
from vitkit.image.decode import Blob, Picture

__all__ = ["digest_of"]


def digest_of(picture: Picture) -> bytes:
    """SHA-256 of a file's bytes, or of an array's shape and values."""
    if isinstance(picture, str | os.PathLike):
        return bytes.fromhex(sha256_of(Path(picture)))
    if isinstance(picture, Blob):
        picture = picture.read()
    if isinstance(picture, bytes):
        return hashlib.sha256(picture).digest()
    values: NDArray[np.generic] = np.ascontiguousarray(picture)
    return hashlib.sha256(f"{values.dtype} {values.shape} ".encode() + values.tobytes()).digest()
