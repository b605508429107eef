"""Pictures beyond 8-bit colour: .npy and .npz files, TIFF of any channels and depth, 16-bit PNG; and their one scale.

A model of such pictures has a value range, (low, high): samples are placed in it, low at 0 and high at 65,535, and cut
off beyond. Formats: NEP 1 (numpy.lib.format), TIFF 6.0, PNG (third edition), whose 16-bit colour Pillow cuts to 8 bits.
"""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import PngImagePlugin, TiffImagePlugin

from vitkit.errors import ConfigError, ImageError
from vitkit.image.limits import Limits, check_bytes, check_size

__all__ = ["DEEP_COLOUR", "FULL_SCALE", "open_low_bytes", "quantize", "read_npz", "read_numpy", "read_tiff"]

FULL_SCALE = 65_535
"""What the upper end of a value range becomes: uint16's largest."""

MAX_SAMPLES_PER_PIXEL = 1024
"""Beyond the channels of hyperspectral cameras (some 400): a larger number is a broken header."""

DEEP_COLOUR = ("RGB;16B", "RGBA;16B")
"""How Pillow unpacks a PNG of 16-bit colour; of 16-bit grey with alpha it gives the high bytes alone."""

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"

_SAMPLES_PER_PIXEL, _BITS, _PHOTOMETRIC, _DESCRIPTION = 277, 258, 262, 270  # TIFF tags
_UNPACKERS: dict[int, Callable[[], Any]] = {
    8: zlib.decompressobj,
    32946: zlib.decompressobj,
    34925: lzma.LZMADecompressor,
}  # by TIFF's compression
HIGHEST_RATIO = 10_000
"""That these reach, rounded up: zlib 1,032, LZMA some 7,000."""
_SEPARATED = 5  # photometric interpretation: CMYK and other inks


def quantize(values: NDArray[Any], value_range: tuple[float, float], channels: int, name: str) -> NDArray[np.uint16]:
    """Samples [H, W] or [H, W, C] as uint16 [H, W, channels]: `value_range` becomes 0..FULL_SCALE, cut off beyond.

    Grey becomes three equal channels and colour its luma where `channels` is 3 or 1. Raises ImageError for 8-bit
    samples, whose place in the range isn't known, for other channels and for values that aren't finite.
    """
    low, high = value_range
    if values.dtype.itemsize == 1 or values.dtype.kind not in "uif":
        raise ImageError(
            f"{name} holds {values.dtype}; the model reads deeper samples, {low:g} to {high:g}: give the original depth"
        )
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or not values.size:
        raise ImageError(f"{name} is {list(values.shape)}; a picture is [H, W, C] or [H, W], none of them 0")
    if not np.isfinite(values).all():
        raise ImageError(f"{name} holds values that aren't finite; fill in what has no value")
    if values.shape[2] == 3 and channels == 1:
        values = (values @ np.array(LUMA))[..., None]
    if values.shape[2] == 1 and channels == 3:
        values = np.repeat(values, 3, axis=2)
    if values.shape[2] != channels:
        raise ImageError(f"{name} has {values.shape[2]} channels; the model takes {channels}")
    if value_range == (0, FULL_SCALE) and values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return np.array(values, np.uint16, order="C")
    unit = (values.astype(np.float64) - low) / (high - low)
    return np.rint(np.clip(unit, 0, 1) * FULL_SCALE).astype(np.uint16)


def read_numpy(file: IO[bytes], name: str, limits: Limits) -> NDArray[Any]:
    """The array of a .npy file, [H, W, C] or [H, W], its header checked first; nothing is unpickled."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read_header.get(version, np.lib.format.read_array_header_2_0)(file)
        if len(shape) not in (2, 3) or math.prod(shape[2:]) > MAX_SAMPLES_PER_PIXEL or dtype.kind not in "uif":
            raise ImageError(f"{name} holds {dtype} {list(shape)}; a picture is numbers [H, W, C] or [H, W]")
        check_size(shape[1], shape[0], name, limits)
        check_bytes(math.prod(shape) * dtype.itemsize, name, limits)
        file.seek(0)
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except ImageError:
        raise
    except Exception as error:  # NumPy's reader of broken headers raises a dozen kinds
        said = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} is a broken or truncated NumPy file ({said}); replace it") from error
    return array


def read_npz(file: IO[bytes], name: str, limits: Limits) -> NDArray[Any]:
    """The one array of a .npz file."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            if len(members) != 1:
                raise ImageError(
                    f"{name} holds {len(members)} arrays; a picture is one: save each in a file of its own"
                )
            check_bytes(members[0].file_size, name, limits)  # which a header alone can fill
            with archive.open(members[0]) as member:
                return read_numpy(member, name, limits)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise ImageError(f"{name} is a broken .npz file ({error}); replace it") from error


def read_tiff(file: IO[bytes], name: str, limits: Limits, *, deep: bool) -> NDArray[Any] | None:
    """The samples [H, W, C] or [H, W] of a TIFF that Pillow has no mode for, and of 16-bit colour if `deep`.

    That is one of more than 4 channels, of pages that are planes of one array (tifffile, ImageJ), or of 64-bit samples;
    None for any other, also a broken one, whose faults are Pillow's to tell. The channels are the axis that the file
    says; of pages the shorter one of the first and last. Raises ConfigError without tifffile.
    """
    if not _takes_tifffile(file, deep):
        return None
    try:
        import tifffile
    except ImportError:
        raise ConfigError(
            f"{name} is a TIFF of many channels or deep samples, which takes tifffile; pip install 'vitkit[tiff]'"
        ) from None
    file.seek(0)
    try:
        with tifffile.TiffFile(file) as tiff:
            series = tiff.series[0]
            sides = sorted(series.shape)
            check_size(sides[-1], sides[-2] if len(sides) > 1 else 1, name, limits)
            for shape in (series.shape, series.keyframe.chunks):  # tiles can be larger than what they make
                check_bytes(math.prod(shape) * series.dtype.itemsize, name, limits)
            for page in filter(None, series.pages):
                _check_segments(file, page, name, limits)
            array, axes = np.asarray(series.asarray()), series.axes
    except ImageError:
        raise
    except Exception as error:  # readers of broken data raise a dozen kinds
        said = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} is a TIFF that can't be read ({said}); save it anew, say with deflate") from error
    return _channels_last(array, axes, name)


def _check_segments(file: IO[bytes], page: Any, name: str, limits: Limits) -> None:
    """Raises ImageError for a page's strip or tile that unpacks beyond `limits`: it holds more than the page says."""
    unpacker = _UNPACKERS.get(page.keyframe.compression)
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        if unpacker is not None and size * HIGHEST_RATIO > limits.max_array_bytes:
            file.seek(offset)
            check_bytes(len(unpacker().decompress(file.read(size), limits.max_array_bytes + 1)), name, limits)


def _takes_tifffile(file: IO[bytes], deep: bool) -> bool:
    file.seek(0)
    header = file.read(8)
    try:
        header += file.read(8) if 43 in header[2:4] else b""  # BigTIFF
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        if tags.get(_PHOTOMETRIC) == _SEPARATED:
            return False
        channels, bits = tags.get(_SAMPLES_PER_PIXEL, 1), max(tags.get(_BITS, (1,)))
        planes = bool(tags.next) and str(tags.get(_DESCRIPTION, "")).startswith(('{"shape"', "ImageJ="))
    except Exception:  # as Pillow will say when it reads the picture
        return False
    return channels > 4 or planes or bits == 64 or (deep and channels > 1 and bits > 8)


def _channels_last(array: NDArray[Any], axes: str, name: str) -> NDArray[Any]:
    """[H, W, C] of what tifffile read, `axes` a letter for each axis."""
    kept = [at for at, side in enumerate(array.shape) if side > 1 or axes[at] in "YX"]
    axes = "".join(axes[at] for at in kept)
    array = array.reshape([array.shape[at] for at in kept])
    if array.ndim == 2:
        return array
    if array.ndim != 3:
        raise ImageError(f"{name} holds {list(array.shape)}; a picture is height, width and channels")
    named = [axes.index(letter) for letter in "SC" if letter in axes]
    channel = named[0] if named else 0 if array.shape[0] < array.shape[2] else 2
    return np.moveaxis(array, channel, -1)


def open_low_bytes(file: IO[bytes]) -> PngImagePlugin.PngImageFile:
    """A PNG of DEEP_COLOUR with the low bytes where Pillow gives the high ones: read as if a sample's were swapped."""
    file.seek(0)
    image = PngImagePlugin.PngImageFile(file, "")
    image.tile = [tile._replace(args=str(tile.args).replace("16B", "16L")) for tile in image.tile]
    return image
