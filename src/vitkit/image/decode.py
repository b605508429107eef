"""Any picture to uint8 [H, W, C]: checked before it is decoded, turned upright, on white, or refused in one line."""

from __future__ import annotations

import io
import logging
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Protocol, TypeAlias

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

from vitkit.errors import ConfigError, ImageError
from vitkit.image.fetch import fetch, is_url

__all__ = [
    "DEFAULT_LIMITS",
    "FORMATS",
    "Header",
    "Limits",
    "Picture",
    "Pixels",
    "decode",
    "describe",
    "is_picture",
    "read_header",
]

logger = logging.getLogger("vitkit")


class TensorLike(Protocol):
    """What a torch tensor answers to; recognised by these names, so that no torch is needed here."""

    dtype: Any
    shape: Any

    def detach(self) -> Any: ...
    def cpu(self) -> Any: ...
    def numpy(self) -> NDArray[Any]: ...


Picture: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | TensorLike
Pixels: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How large a picture may be; a compressed file says its size before it is decoded, and is believed only so far."""

    max_pixels: int = 178_956_970  # where Pillow itself sees a decompression bomb (2^29 bytes at 3 bytes a pixel)
    max_side: int = 65_535  # JPEG's largest
    max_bytes: int = 2**26  # of a download; a 50-megapixel camera's JPEG has about 30 MB
    timeout_s: float = 20.0  # of a whole download

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"{name} is {value!r}; it must be larger than 0")


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Header:
    """What a picture file says of itself before it is decoded."""

    format: str
    """One of FORMATS."""
    mode: str
    """Pillow's word for its samples: RGB, L, CMYK, I;16, ..."""
    width: int
    """In pixels as they are stored, before any turn."""
    height: int
    orientation: int
    """EXIF's 1..8, the turn that makes it upright; other values say nothing."""

    @property
    def turned(self) -> bool:
        """Whether its pixels are stored otherwise than it is to be seen."""
        return self.orientation in _TURNS


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
FORMATS: tuple[str, ...] = tuple(_READERS)

_ORIENTATION = 0x0112  # EXIF tag; https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf, 4.6.4 A
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def decode(picture: Picture, *, channels: int = 3, limits: Limits = DEFAULT_LIMITS, allow_urls: bool = True) -> Pixels:
    """Returns the picture as uint8 [H, W, channels], 0..255; it may share memory with an array that was given.

    Paths, http(s) URLs, bytes and PIL images become RGB for `channels=3` and grey for `channels=1` (Pillow's "L" of
    that RGB: ITU-R 601 luma). They are turned as their EXIF says; values outside 2..8 say nothing. Transparency is
    laid on white, palettes and CMYK become RGB as Pillow does it, 16-bit samples keep their high byte (Pillow's rule
    for 16-bit colour; its plain conversion of 16-bit grey saturates to white). An animation gives its first frame.

    Arrays are [H, W, C] or grey [H, W], tensors [C, H, W] or grey [H, W], of uint8, or uint16 whose high byte is
    kept. C is `channels`, taken as it is, or 1, 3 or 4 (RGBA) where `channels` is 1 or 3.

    Raises ImageError, in one line that names the picture: nothing there, not one of FORMATS, beyond `limits` (known
    from the header, before decoding), truncated or broken, an array of another type or shape.
    """
    name = describe(picture)
    if isinstance(picture, np.ndarray):
        return _from_array(picture, name, channels)
    if not isinstance(picture, str | os.PathLike | bytes | Image.Image):
        return _from_array(_from_tensor(picture, name), name, channels)
    if channels not in (1, 3):
        raise ImageError(
            f"{name}: {channels} channels can't come from a picture of colours; give a uint8 array [H, W, {channels}]"
        )
    if isinstance(picture, Image.Image):
        return _decode_image(picture, name, channels, limits)
    if isinstance(picture, str) and is_url(picture):
        if not allow_urls:
            raise ImageError(f"{name}: URLs aren't fetched here; give a file or its bytes")
        body = fetch(picture, limit_bytes=limits.max_bytes, timeout_s=limits.timeout_s)
        return _decode_file(io.BytesIO(body), name, channels, limits)
    if isinstance(picture, str | os.PathLike):
        with _open(picture, name) as file:
            return _decode_file(file, name, channels, limits)
    return _decode_file(io.BytesIO(picture), name, channels, limits)


def describe(picture: Picture) -> str:
    """The picture's short name for errors and results, on one line: its path or URL, or its kind and size."""
    if isinstance(picture, str | os.PathLike):
        return _printable(os.fsdecode(picture))
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
    return next((kind for kind, (magic, _) in _READERS.items() if magic.match(prefix)), None)


def read_header(picture: str | os.PathLike[str] | bytes) -> Header:
    """What a picture file says of itself, without decoding it; raises ImageError where it isn't one."""
    name = describe(picture)
    with io.BytesIO(picture) if isinstance(picture, bytes) else _open(picture, name) as file:
        kind, image = _read_header(file, name)
        with image:
            return Header(kind, image.mode, image.width, image.height, _orientation(image))


def _decode_file(file: IO[bytes], name: str, channels: int, limits: Limits) -> Pixels:
    _, image = _read_header(file, name)
    with image:
        pixels = _decode_image(image, name, channels, limits)
        _log_frames(image, name)
    return pixels


def _read_header(file: IO[bytes], name: str) -> tuple[str, ImageFile.ImageFile]:
    prefix = file.read(16)
    kind = _kind(prefix)
    if kind is None:
        content = "isn't a picture in an allowed format" if prefix else "is empty (0 bytes)"
        raise ImageError(f"{name} {content}; allowed: {', '.join(FORMATS)}")
    file.seek(0)
    try:
        return kind, _READERS[kind][1](file, "")
    except Exception as error:  # readers of broken data raise a dozen kinds
        raise _broken(name, kind, error) from error


def _decode_image(image: Image.Image, name: str, channels: int, limits: Limits) -> Pixels:
    # A TIFF's tiles can be larger than the picture they say they make.
    for width, height in (image.size, getattr(image, "_tile_size", image.size)):
        if width * height > limits.max_pixels or max(width, height) > limits.max_side:
            raise ImageError(
                f"{name} is {width:,} x {height:,} pixels; at most {limits.max_pixels:,} pixels and "
                f"{limits.max_side:,} a side are decoded; shrink it first or raise the limit"
            )
    try:
        image.load()
        turn = _TURNS.get(_orientation(image))
        upright = _to_rgb(image, name)
        if turn is not None:
            upright = upright.transpose(turn)
        return _to_array(upright, channels)
    except ImageError:
        raise
    except Exception as error:  # decoders of broken data raise a dozen kinds
        raise _broken(name, image.format or image.mode, error) from error


def _broken(name: str, kind: str, error: Exception) -> ImageError:
    said = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{name} is a broken or truncated {kind} picture ({said}); replace the file")


def _orientation(image: Image.Image) -> int:
    """EXIF's 1..8; 1 where it is absent or broken. TIFF's reader has already turned the picture and dropped it."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a picture is more than its metadata
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 0xFFFF:
            raise ImageError(f"{name} holds {samples.min()}..{samples.max()}; grey samples are read within 0..65535")
        image = Image.fromarray((samples >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ImageError(f"{name} holds floats, whose range isn't known; scale them to 0..255 and save 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_array(image: Image.Image, channels: int) -> Pixels:
    """RGB to [H, W, 3] or [H, W, 1]: a copy that may be written to, as torch.from_numpy asks for."""
    return np.array(image) if channels == 3 else np.array(image.convert("L"))[..., None]


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


def _from_array(array: NDArray[Any], name: str, channels: int) -> Pixels:
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ImageError(f"{name}: pixels are uint8 in 0..255 or uint16 in 0..65535; scale and cast them first")
    if array.ndim == 2:
        array = array[..., None]
    held = array.shape[-1] if array.ndim == 3 and array.size else 0
    if held == channels:
        return np.ascontiguousarray(array)
    if held not in _MODES or channels not in (1, 3):
        counts = "1, 3 or 4" if channels in (1, 3) else str(channels)
        raise ImageError(
            f"{name} holds no pixels of {counts} channels; an array is [H, W, C], a tensor [C, H, W], none of them 0"
        )
    image = Image.fromarray(array[..., 0] if held == 1 else np.ascontiguousarray(array))
    return _to_array(_to_rgb(image, name), channels)
