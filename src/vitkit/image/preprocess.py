"""How a picture becomes the pixels a model was trained on: stored with the weights, one `apply` for every use.

The arithmetic is that of timm's evaluation transform (timm 1.0, data/transforms_factory.py, on torchvision and Pillow)
and of transformers' Pillow processors (transformers 5.23, image_processing_backends.py), to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitkit.errors import ConfigError, ImageError
from vitkit.image.decode import DEFAULT_LIMITS, Decoded

__all__ = ["Fitted", "Preprocess", "apply", "crop_start", "fit", "normalize", "resized_size"]

Fitted: TypeAlias = NDArray[Any]
"""uint8 or uint16, as decoded; or float32 in 0..1, of a model whose pictures are rescaled before they are resized."""

Values = TypeVar("Values", bound=np.generic)

# A side alone stands for a square when a Preprocess is made or read; every instance holds (height, width).
if TYPE_CHECKING:
    Size: TypeAlias = tuple[int, int]
else:
    Size = int | tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Resize, crop and normalise, as data. Sizes are (height, width) in pixels.

    size: of the result.
    resize: "shortest" keeps the picture's shape and lets it just cover `resize_size`; for a square that is the
        shortest side, the other one rounded down (torchvision, transformers), else both are rounded (timm).
        "squash" gives exactly `resize_size`. "none" leaves the picture as it is.
    resize_size: None stands for `size`; None for good where `resize` is "none".
    crop: the centre, at round-half-even((held - size) / 2) (timm, torchvision) or floor((held - size) / 2)
        (transformers); a smaller picture is padded with zeros, where an odd one goes after or before the picture
        respectively. "none" asks that resizing gave `size`.
    interpolation: Pillow's filter of that name.
    antialias: without it, which "bilinear" alone knows, a smaller picture is made of the four pixels nearest to each
        point, however many lie between the points (TensorFlow's tf.image.resize).
    mean, std: per channel, on the scale where a pixel is 0..1; their length is the number of channels.
    order: "resize_first" resizes whole numbers and rounds, "rescale_first" resizes float32 in 0..1 (DINOv3).
    value_range: None for pictures of 8 bits, whose 0..255 are 0..1. For deeper ones (16 bits, floats) the (low, high)
        that are 0 and 1; they are held as uint16, and what lies beyond is cut off.
    """

    size: Size
    resize: Literal["shortest", "squash", "none"]
    resize_size: Size | None = None
    crop: Literal["center_round", "center_floor", "none"]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: Literal["resize_first", "rescale_first"] = "resize_first"
    antialias: bool = True
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # frozen: only here, to normalise
        set_field(self, "size", _pair("size", self.size))
        if self.resize_size is not None:
            set_field(self, "resize_size", _pair("resize_size", self.resize_size))
        elif self.resize != "none":
            set_field(self, "resize_size", self.size)
        set_field(self, "mean", _floats("mean", self.mean))
        set_field(self, "std", _floats("std", self.std))
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if self.value_range is not None:
            set_field(self, "value_range", _floats("value_range", self.value_range))
            if len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]:
                raise ConfigError(f"value_range is {self.value_range}; give (low, high), the low one smaller")
        if len(self.mean) != len(self.std):
            raise ConfigError(f"mean has {len(self.mean)} values and std {len(self.std)}; give one per channel")
        if min(self.std) <= 0:
            raise ConfigError(f"std is {self.std}; every value must be larger than 0")
        if not self.antialias and self.interpolation != "bilinear":
            raise ConfigError(f"antialias is False, but interpolation {self.interpolation!r} has it; use 'bilinear'")
        if self.resize == "none" and self.resize_size is not None:
            raise ConfigError(f"resize_size is {self.resize_size} but resize is 'none'; leave one of them out")
        if self.resize == "shortest" and self.crop == "none":
            raise ConfigError("resize 'shortest' gives pictures of any shape; set crop to center_round or center_floor")
        if self.resize == "squash" and self.crop == "none" and self.resize_size != self.size:
            raise ConfigError(f"resize_size {self.resize_size} isn't size {self.size}; set crop, or make them equal")

    @property
    def channels(self) -> int:
        """C, the number of channels."""
        return len(self.mean)

    @property
    def pixel_type(self) -> np.dtype[Any]:
        """What decoded pictures are held as: uint8, or uint16 where there is a value range."""
        return np.dtype(np.uint8 if self.value_range is None else np.uint16)

    @property
    def fitted_type(self) -> np.dtype[Any]:
        """What resized and cropped pictures are held as: `pixel_type`, or float32 in 0..1 of what is rescaled first."""
        return self.pixel_type if self.order == "resize_first" else np.dtype(np.float32)

    @property
    def full_scale(self) -> int:
        """The largest pixel, 1 on the scale of `mean` and `std`."""
        return int(np.iinfo(self.pixel_type).max)


_CHOICES = {
    "resize": ("shortest", "squash", "none"),
    "crop": ("center_round", "center_floor", "none"),
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"),
    "order": ("resize_first", "rescale_first"),
}


def apply(preprocess: Preprocess, rgb: Decoded) -> NDArray[np.float32]:
    """Turns a decoded picture, [H, W, C] of `pixel_type`, into a model's input, float32 [C, h, w].

    Raises ImageError for another dtype or channel count, for a picture that resizing would make larger than
    178,956,970 pixels, and for one of another size where neither resize nor crop is set.
    """
    return normalize(preprocess, fit(preprocess, rgb))


def fit(preprocess: Preprocess, rgb: Decoded) -> Fitted:
    """Resizes and crops [H, W, C] of `pixel_type` to [h, w, C] = size of `fitted_type`, in memory of its own.

    Errors as `apply`.
    """
    _check(preprocess, rgb)
    pixels: Fitted = rgb
    if preprocess.order == "rescale_first":
        pixels = rgb.astype(np.float32)
        pixels /= np.float32(preprocess.full_scale)
    return np.array(_crop(preprocess, _resize(preprocess, pixels)), order="C")


def normalize(preprocess: Preprocess, pixels: Fitted) -> NDArray[np.float32]:
    """Turns [..., h, w, C] of `fitted_type` into (x / full_scale - mean) / std, float32 [..., C, h, w], contiguous.

    Computed in float32 in this order: timm and transformers give the same bits. (A table of 256 values a channel
    gives them too, but measured slower.) Floats are on the scale 0..1 already.
    """
    if pixels.dtype != preprocess.fitted_type or pixels.ndim < 3 or pixels.shape[-1] != preprocess.channels:
        raise ImageError(
            f"pixels are {pixels.dtype} {list(pixels.shape)}; the model takes {preprocess.fitted_type} "
            f"[..., H, W, {preprocess.channels}]"
        )
    values = np.moveaxis(pixels, -1, -3).astype(np.float32, order="C")
    if preprocess.order == "resize_first":
        values /= np.float32(preprocess.full_scale)
    return _standardize(preprocess, values)


def _standardize(preprocess: Preprocess, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """In place on [..., C, h, w]."""
    values -= np.array(preprocess.mean, np.float32)[:, None, None]
    values /= np.array(preprocess.std, np.float32)[:, None, None]
    return values


def _check(preprocess: Preprocess, rgb: Decoded) -> None:
    if rgb.dtype != preprocess.pixel_type or rgb.ndim != 3 or rgb.shape[2] != preprocess.channels or not rgb.size:
        raise ImageError(
            f"the picture is {rgb.dtype} {list(rgb.shape)}; the model takes {preprocess.pixel_type} "
            f"[H, W, {preprocess.channels}]"
        )


def resized_size(preprocess: Preprocess, held: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture of size `held` after resizing; raises ImageError where that is too large."""
    height, width = _resized_size(preprocess, held)
    if height * width > DEFAULT_LIMITS.max_pixels:
        raise ImageError(
            f"a picture of {held[1]:,} x {held[0]:,} pixels becomes {width:,} x {height:,} when its shortest side is "
            f"resized; at most {DEFAULT_LIMITS.max_pixels:,} pixels are made: crop it first"
        )
    return height, width


def _resized_size(preprocess: Preprocess, held: tuple[int, int]) -> tuple[int, int]:
    wanted = preprocess.resize_size
    if wanted is None:
        return held
    if preprocess.resize == "squash":
        return wanted
    (height, width), (wanted_height, wanted_width) = held, wanted
    if wanted_height == wanted_width:
        short, long = sorted(held)
        longer = int(wanted_width * long / short)
        return (wanted_height, longer) if height <= width else (longer, wanted_width)
    ratio = min(height / wanted_height, width / wanted_width)
    return round(height / ratio), round(width / ratio)


def crop_start(preprocess: Preprocess, held: int, wanted: int) -> int:
    """Where the centre's `wanted` of `held` pixels in a line begin; `held` is at least `wanted`."""
    spare = held - wanted
    return round(spare / 2) if preprocess.crop == "center_round" else spare // 2


def _resize(preprocess: Preprocess, pixels: NDArray[Values]) -> NDArray[Values]:
    """[H, W, C] to [h, w, C], read-only where it isn't `pixels` itself."""
    held = pixels.shape[0], pixels.shape[1]
    if preprocess.resize == "none" or (size := resized_size(preprocess, held)) == held:
        return pixels
    height, width = size
    resample = Image.Resampling[preprocess.interpolation.upper()]

    def resized(band: NDArray[Values]) -> NDArray[Any]:
        image = Image.fromarray(band)
        if preprocess.antialias:
            return np.asarray(image.resize((width, height), resample))
        scale = (held[1] / width, 0, 0, 0, held[0] / height, 0)
        return np.asarray(image.transform((width, height), Image.Transform.AFFINE, scale, resample))

    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return resized(pixels)
    # Band by band: Pillow has no colour floats, and multiplies four bands as if the last were alpha.
    bands = np.moveaxis(pixels, -1, 0)
    if pixels.dtype == np.uint16:  # Pillow's own 16 bits know fewer filters
        made = np.stack([resized(band.astype(np.float32)) for band in bands], axis=-1)
        rounded: NDArray[Values] = np.rint(made.clip(0, np.iinfo(np.uint16).max)).astype(pixels.dtype)
        return rounded
    return np.stack([resized(band) for band in bands], axis=-1)


def _crop(preprocess: Preprocess, pixels: NDArray[Values]) -> NDArray[Values]:
    """[H, W, C] to [h, w, C] = size, cut or padded, a view where nothing is padded."""
    if preprocess.crop == "none":
        if pixels.shape[:2] != preprocess.size:
            raise ImageError(
                f"the picture has height x width {pixels.shape[0]} x {pixels.shape[1]} and is neither resized nor "
                f"cropped; give one of {preprocess.size[0]} x {preprocess.size[1]}"
            )
        return pixels
    rounds = preprocess.crop == "center_round"
    for axis, wanted in enumerate(preprocess.size):
        spare = pixels.shape[axis] - wanted
        if spare >= 0:
            start = crop_start(preprocess, pixels.shape[axis], wanted)
            pixels = pixels[start : start + wanted] if axis == 0 else pixels[:, start : start + wanted]
        else:
            before = -spare // 2 if rounds else (1 - spare) // 2
            padding = [(0, 0)] * 3
            padding[axis] = (before, -spare - before)
            pixels = np.pad(pixels, padding)
    return pixels


def _pair(name: str, value: object) -> tuple[int, int]:
    sides = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, tuple | list) else ()
    longest = DEFAULT_LIMITS.max_side
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= longest for side in sides):
        raise ConfigError(f"{name} is {value!r}; give a side or (height, width) in pixels, within 1..{longest}")
    return sides


def _floats(name: str, value: object) -> tuple[float, ...]:
    numbers = tuple(value) if isinstance(value, tuple | list) else ()
    if not numbers or not all(
        isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number) for number in numbers
    ):
        raise ConfigError(f"{name} is {value!r}; give one finite number per channel")
    return tuple(float(number) for number in numbers)
