"""A picture of any kind, opened: its format known by its content, its size checked before anything is decoded."""

from __future__ import annotations

import io
import logging
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import IO, Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from vitkit.errors import ImageError
from vitkit.image.deep import read_npz, read_numpy, read_tiff
from vitkit.image.fetch import fetch, is_url
from vitkit.image.limits import Limits

__all__ = ["FORMATS", "Blob", "Held", "Picture", "broken", "describe", "is_picture", "opened"]

logger = logging.getLogger("vitkit")


class TensorLike(Protocol):
    """What a torch tensor answers to; recognised by these names, so that no torch is needed here."""

    dtype: Any
    shape: Any

    def detach(self) -> Any: ...
    def cpu(self) -> Any: ...
    def numpy(self) -> NDArray[Any]: ...


class Blob(ABC):
    """The bytes of a picture file that lie in another file, such as an archive; small, and fit for any process."""

    name: str
    """For errors and reports: the file's, and the picture's in it."""

    @property
    def held_bytes(self) -> int:
        """How many of them are in memory anyway."""
        return 0

    @abstractmethod
    def read(self) -> bytes:
        """The bytes; raises OSError."""


Picture: TypeAlias = str | os.PathLike[str] | bytes | Blob | Image.Image | NDArray[Any] | TensorLike
Held: TypeAlias = Image.Image | NDArray[Any]
"""A picture that is opened: Pillow's, maybe not loaded yet, or an array of samples."""
Result = TypeVar("Result")

# By content, never by name. Naming the reader instead of Pillow's `open` keeps every other format out and leaves the
# size to us: `open` warns or raises by a global of the process (Image.MAX_IMAGE_PIXELS), and warnings can't be
# silenced safely while other threads run. The reader of JPEG takes the first picture of a phone's MPO.
_READERS: dict[str, tuple[re.Pattern[bytes], Callable[[IO[bytes], str], ImageFile.ImageFile]]] = {
    "JPEG": (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    "PNG": (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    "WebP": (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    "BMP": (re.compile(rb"BM"), BmpImagePlugin.BmpImageFile),
    "TIFF": (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImagePlugin.TiffImageFile),
    "GIF": (re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
}
# Arrays of samples: what they hold is shown as it is, or placed in a model's value range.
_ARRAYS: dict[str, tuple[re.Pattern[bytes], Callable[[IO[bytes], str, Limits], NDArray[Any]]]] = {
    "NPY": (re.compile(rb"\x93NUMPY"), read_numpy),
    "NPZ": (re.compile(rb"PK\x03\x04"), read_npz),
}
FORMATS: tuple[str, ...] = (*_READERS, *_ARRAYS)


def opened(
    picture: Picture,
    name: str,
    use: Callable[[Held, IO[bytes] | None], Result],
    limits: Limits,
    allow_urls: bool,
    *,
    deep: bool,
) -> Result:
    """What `use` makes of the picture and, where it comes from a file, of that, which is closed afterwards.

    `deep` asks for 16-bit colour of a TIFF as samples, which Pillow would cut to 8 bits. Raises ImageError, one line.
    """
    if isinstance(picture, np.ndarray | Image.Image):
        return use(picture, None)
    if isinstance(picture, str) and is_url(picture):
        if not allow_urls:
            raise ImageError(f"{name}: URLs aren't fetched here; give a file or its bytes")
        body = fetch(picture, limit_bytes=limits.max_bytes, timeout_s=limits.timeout_s)
        return _open_file(io.BytesIO(body), name, use, limits, deep)
    if isinstance(picture, str | os.PathLike):
        with _open(picture, name) as file:
            return _open_file(file, name, use, limits, deep)
    if isinstance(picture, Blob):
        try:
            content = picture.read()
        except OSError as error:
            raise ImageError(f"{name} can't be read ({error.strerror or error})") from None
        return _open_file(io.BytesIO(content), name, use, limits, deep)
    if isinstance(picture, bytes):
        return _open_file(io.BytesIO(picture), name, use, limits, deep)
    return use(_from_tensor(picture, name), None)


def _open_file(
    file: IO[bytes], name: str, use: Callable[[Held, IO[bytes] | None], Result], limits: Limits, deep: bool
) -> Result:
    prefix = file.read(16)
    kind = _kind(prefix)
    if kind is None:
        content = "isn't a picture in an allowed format" if prefix else "is empty (0 bytes)"
        raise ImageError(f"{name} {content}; allowed: {', '.join(FORMATS)}")
    file.seek(0)
    if kind in _ARRAYS:
        return use(_ARRAYS[kind][1](file, name, limits), file)
    if kind == "TIFF":
        if (samples := read_tiff(file, name, limits, deep=deep)) is not None:
            return use(samples, file)
        file.seek(0)
    try:
        image = _READERS[kind][1](file, "")
    except Exception as error:  # readers of broken data raise a dozen kinds
        raise broken(name, kind, error) from error
    with image:
        result = use(image, file)
        _log_frames(image, name)
    return result


def describe(picture: Picture) -> str:
    """The picture's short name for errors and results, on one line: its path or URL, or its kind and size."""
    if isinstance(picture, str | os.PathLike):
        return _printable(os.fsdecode(picture))
    if isinstance(picture, Blob):
        return _printable(picture.name)
    if isinstance(picture, bytes):
        return f"bytes of {len(picture):,}"
    if isinstance(picture, Image.Image):
        filename = getattr(picture, "filename", "")
        return _printable(os.fsdecode(filename)) if filename else f"PIL image {_size(picture.size)} {picture.mode}"
    if isinstance(picture, np.ndarray):
        return f"array {list(picture.shape)} {picture.dtype}"
    if _is_tensor(picture):
        return f"tensor {list(picture.shape)} {str(picture.dtype).removeprefix('torch.')}"
    return _printable(f"{type(picture).__name__} {picture!r}"[:80])


def _printable(text: str) -> str:
    """Names with line breaks or undecodable bytes are quoted, so that errors stay one line and can be printed."""
    return text if text.isprintable() else repr(text)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _is_tensor(value: object) -> bool:
    return all(hasattr(value, name) for name in ("detach", "cpu", "numpy", "dtype", "shape"))


def _open(path: str | os.PathLike[str], name: str) -> IO[bytes]:
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISDIR(kind):
            raise ImageError(f"{name} is a folder; name a picture in it")
        if not stat.S_ISREG(kind):  # a named pipe would wait for ever
            raise ImageError(f"{name} isn't an ordinary file; give a picture file or its bytes")
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{name} doesn't exist; check the path") from None
    except PermissionError:
        raise ImageError(f"{name} may not be read by this user; check its permissions") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{name} can't be opened: {getattr(error, 'strerror', None) or error}") from None


def is_picture(prefix: bytes) -> bool:
    """Whether bytes that begin with `prefix` (16 are enough) look like a picture of an allowed format."""
    return _kind(prefix) is not None


def _kind(prefix: bytes) -> str | None:
    return next((kind for kind, (magic, _) in (_READERS | _ARRAYS).items() if magic.match(prefix)), None)


def broken(name: str, kind: str, error: Exception) -> ImageError:
    said = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{name} is a broken or truncated {kind} picture ({said}); replace the file")


def _log_frames(image: ImageFile.ImageFile, name: str) -> None:
    """Counting the frames reads what comes after the first; a fault there doesn't concern us."""
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception:
        return
    if frames > 1:
        logger.info("%s: animated, first of %d frames", name, frames)


def _from_tensor(value: Any, name: str) -> NDArray[Any]:
    if not _is_tensor(value):
        raise ImageError(f"{name} is no picture; allowed: path, URL, bytes, PIL image, uint8 array or tensor")
    try:
        array: NDArray[Any] = value.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:
        raise ImageError(f"{name} can't become an array: {error}; give a uint8 tensor [C, H, W]") from None
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array
