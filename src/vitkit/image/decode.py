"""Any picture to uint8 [H, W, C]: checked before it is decoded, turned upright, on white, or refused in one line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitkit.errors import ImageError
from vitkit.image.deep import DEEP_COLOUR, open_low_bytes, quantize
from vitkit.image.limits import DEFAULT_LIMITS, Limits, check_size
from vitkit.image.opened import FORMATS, Blob, Held, Picture, broken, describe, is_picture, opened

__all__ = [
    "DEFAULT_LIMITS",
    "FORMATS",
    "Blob",
    "Decoded",
    "Header",
    "Limits",
    "Picture",
    "Pixels",
    "decode",
    "describe",
    "is_picture",
    "read_header",
    "samples_of",
]

logger = logging.getLogger("vitkit")

Pixels: TypeAlias = NDArray[np.uint8]
Decoded: TypeAlias = NDArray[np.uint8 | np.uint16]
"""uint8, 0..255; or uint16, 0..65535, of a model with a value range."""

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
_DEEP_MODES = {"I;16": "u2", "I;16L": "u2", "I;16B": "u2", "I;16N": "u2", "I": "i4", "F": "f4"}
"""Pillow's modes of one channel and more than 8 bits, to NumPy's types."""


def decode(
    picture: Picture,
    *,
    channels: int = 3,
    value_range: tuple[float, float] | None = None,
    shrink_to: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    allow_urls: bool = True,
) -> Decoded:
    """Returns the picture as uint8 [H, W, channels], 0..255; it may share memory with an array that was given.

    Paths, http(s) URLs, bytes and PIL images become RGB for `channels=3` and grey for `channels=1` (Pillow's "L" of
    that RGB: ITU-R 601 luma). They are turned as their EXIF says; values outside 2..8 say nothing. Transparency is
    laid on white, palettes and CMYK become RGB as Pillow does it, 16-bit samples keep their high byte (Pillow's rule
    for 16-bit colour; its plain conversion of 16-bit grey saturates to white). An animation gives its first frame.

    Arrays are [H, W, C] or grey [H, W], tensors [C, H, W] or grey [H, W], of uint8, or uint16 whose high byte is
    kept. C is `channels`, taken as it is, or 1, 3 or 4 (RGBA) where `channels` is 1 or 3. So are .npy files, .npz files
    of one array and TIFFs of more than four channels.

    With `value_range`, (low, high), the result is uint16 and nothing is cut to 8 bits: samples of 16 bits or more,
    whole numbers or floats, are placed in the range (`deep.quantize`), and 8-bit pictures are refused.

    `shrink_to` lets a JPEG be decoded at a half, a quarter or an eighth, as long as its sides keep so many pixels:
    several times as fast, and near but not equal to the whole picture made smaller.

    Raises ImageError, in one line that names the picture: nothing there, not one of FORMATS, beyond `limits` (known
    from the header, before decoding), truncated or broken, an array of another type or shape. ConfigError where a TIFF
    takes tifffile and it isn't installed.
    """
    name = describe(picture)

    def convert(held: Held, file: IO[bytes] | None) -> Decoded:
        if value_range is not None:
            if _rawmode(held) == "LA;16B":
                raise ImageError(f"{name}: 16-bit grey with alpha isn't read at full depth; save it without alpha")
            return quantize(_samples(held, file, name, limits), value_range, channels, name)
        if _is_deep(held, file):
            logger.info("%s: deeper than the 8 bits that the model reads; the high bytes are kept", name)
        if isinstance(held, np.ndarray):
            return _from_array(held, name, channels)
        if channels not in (1, 3):
            raise ImageError(
                f"{name}: {channels} channels can't come from a picture of colours; give a uint8 array "
                f"[H, W, {channels}]"
            )
        if shrink_to is not None and file is not None:
            held.draft(None, (shrink_to, shrink_to))  # only JPEG's reader does something
        return _to_array(_upright(held, name, limits, _to_rgb), channels)

    return opened(picture, name, convert, limits, allow_urls, deep=value_range is not None)


@dataclass(frozen=True)
class Header:
    """What a picture says of itself before it is decoded."""

    format: str
    """One of FORMATS; empty for a picture in memory."""
    mode: str
    """Pillow's word for its samples: RGB, L, CMYK, I;16, ...; of arrays the NumPy type."""
    width: int
    """In pixels as they are stored, before any turn."""
    height: int
    channels: int
    dtype: np.dtype[Any]
    is_array: bool
    """Samples of channels of its own, not 8-bit colours that Pillow knows."""
    orientation: int = 1
    """EXIF's 1..8, the turn that makes it upright; other values say nothing."""

    @property
    def turned(self) -> bool:
        """Whether its pixels are stored otherwise than it is to be seen."""
        return self.orientation in _TURNS

    @property
    def deep(self) -> bool:
        """Whether it holds more than 8 bits can."""
        return self.dtype.itemsize > 1


def read_header(picture: Picture) -> Header:
    """What `picture`, no URL, says of itself, mostly without decoding it; raises ImageError where it isn't one."""
    return opened(picture, describe(picture), _header, DEFAULT_LIMITS, False, deep=True)


def samples_of(picture: Picture, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[Any]:
    """The samples of `picture`, no URL, as they are stored: [H, W, C] or [H, W]; errors as `decode`."""
    name = describe(picture)
    return opened(picture, name, lambda held, file: _samples(held, file, name, limits), limits, False, deep=True)


def _header(held: Held, file: IO[bytes] | None) -> Header:
    if isinstance(held, np.ndarray):
        height, width, channels = (*held.shape, 1, 1, 1)[:3]
        return Header("", str(held.dtype), width, height, channels, held.dtype, True)
    deep = _is_deep(held, file)
    dtype = np.dtype(_DEEP_MODES.get(held.mode, np.uint16 if deep else np.uint8))
    return Header(
        next((known for known in FORMATS if known.upper() == held.format), ""),
        held.mode,
        held.width,
        held.height,
        len(held.getbands()),
        dtype,
        deep,
        _orientation(held),
    )


def _is_deep(held: Held, file: IO[bytes] | None) -> bool:
    if isinstance(held, np.ndarray):
        return held.dtype.itemsize > 1
    return held.mode in _DEEP_MODES or (file is not None and _rawmode(held) in DEEP_COLOUR)


def _rawmode(image: Held) -> Any:
    """How Pillow unpacks the picture: of a PNG that isn't loaded yet, its depth."""
    tiles = getattr(image, "tile", None)
    return tiles[0].args if tiles else None


def _upright(
    image: Image.Image, name: str, limits: Limits, convert: Callable[[Image.Image, str], Image.Image]
) -> Image.Image:
    """Loaded, converted and turned as its EXIF says."""
    # A TIFF's tiles can be larger than the picture they say they make.
    for width, height in (image.size, getattr(image, "_tile_size", image.size)):
        check_size(width, height, name, limits)
    try:
        image.load()
        turn = _TURNS.get(_orientation(image))
        converted = convert(image, name)
        return converted if turn is None else converted.transpose(turn)
    except ImageError:
        raise
    except Exception as error:  # decoders of broken data raise a dozen kinds
        raise broken(name, image.format or image.mode, error) from error


def _samples(held: Held, file: IO[bytes] | None, name: str, limits: Limits) -> NDArray[Any]:
    """As stored: [H, W, C] or [H, W]."""
    if isinstance(held, np.ndarray):
        return held
    if held.mode in _DEEP_MODES:
        return np.asarray(_upright(held, name, limits, _native))
    if file is None or _rawmode(held) not in DEEP_COLOUR:
        return np.asarray(_upright(held, name, limits, _to_rgb))
    high = np.asarray(_upright(held, name, limits, _native), np.uint16)
    with open_low_bytes(file) as image:
        joined: NDArray[np.uint16] = high << 8 | np.asarray(_upright(image, name, limits, _native))
    return joined


def _native(image: Image.Image, name: str) -> Image.Image:
    """In the machine's byte order, which `transpose` asks for."""
    return Image.fromarray(np.asarray(image).astype(_DEEP_MODES[image.mode])) if image.mode in _DEEP_MODES else image


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
            f"{name} holds {list(array.shape)}, no pixels of {counts} channels as the model takes them; an array is "
            "[H, W, C], a tensor [C, H, W], none of them 0"
        )
    image = Image.fromarray(array[..., 0] if held == 1 else np.ascontiguousarray(array))
    return _to_array(_to_rgb(image, name), channels)
