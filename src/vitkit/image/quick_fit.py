"""Pictures decoded and fitted sooner: within 1 of 255 of `fit`, but where a large JPEG is decoded smaller.

The savings: a JPEG much larger than needed is decoded at a half, a quarter or an eighth, as its format allows, and only
what the centre crop keeps is resized. Which pixels a resize needs, and that 8-bit pictures are rounded between its two
passes, is Pillow's way (Resample.c).
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from vitkit.image.decode import Decoded, Picture, decode
from vitkit.image.preprocess import Fitted, Preprocess, crop_start, fit, resized_size

__all__ = ["decode_for", "fit_for", "quick_fit", "side_to_keep"]

SPARE = 2
"""A JPEG decoded smaller keeps at least so many pixels for each that resizing makes: then it is within 1 of 255 in the
mean (measured), and the model's answers don't change but where they were nearly even."""
SUPPORT = {"bilinear": 1, "bicubic": 2, "lanczos": 3}
"""Pillow's filters that are continuous, with their reach: a position off by a rounding error then changes little."""


def decode_for(preprocess: Preprocess, picture: Picture, *, exact: bool, allow_urls: bool = True) -> Decoded:
    """As `decode` for a model's preprocessing: [H, W, C], whole if `exact`, else a large JPEG smaller."""
    return decode(
        picture,
        channels=preprocess.channels,
        value_range=preprocess.value_range,
        shrink_to=None if exact else side_to_keep(preprocess),
        allow_urls=allow_urls,
    )


def fit_for(preprocess: Preprocess, pixels: Decoded, *, exact: bool) -> Fitted:
    """`fit` if `exact`, else `quick_fit`."""
    return fit(preprocess, pixels) if exact else quick_fit(preprocess, pixels)


def side_to_keep(preprocess: Preprocess) -> int | None:
    """How many pixels a side of a JPEG that is decoded smaller (`decode`'s `shrink_to`) keeps at least.

    None where it can't be: nothing is resized, or single pixels are picked, which decoding smaller would blend.
    """
    if preprocess.resize_size is None or preprocess.interpolation == "nearest" or not preprocess.antialias:
        return None
    return SPARE * max(preprocess.resize_size)


def quick_fit(preprocess: Preprocess, pixels: Decoded) -> Fitted:
    """As `fit`, [H, W, C] to [h, w, C], within 1 of 255; errors the same."""
    if not _knows(preprocess, pixels):
        return fit(preprocess, pixels)
    # Pillow makes the columns first, in whole numbers: they have to be the very same, or the rows made of them could be
    # off by 2. So they begin and end where a column made begins with a pixel, at positions that aren't rounded.
    # The two are asked for one by one, as Pillow would choose their order anew by the size of what is left.
    (full_height, full_width), (height, width) = resized_size(preprocess, pixels.shape[:2]), preprocess.size
    top, left = crop_start(preprocess, full_height, height), crop_start(preprocess, full_width, width)
    step = full_width // math.gcd(full_width, pixels.shape[1])
    begin, end = left // step * step, -(-(left + width) // step) * step
    reach = SUPPORT[preprocess.interpolation]
    columns, (first, last) = _needed(begin, end, pixels.shape[1] / full_width, pixels.shape[1], reach)
    rows, (upper, lower) = _needed(top, top + height, pixels.shape[0] / full_height, pixels.shape[0], reach)
    count = rows.stop - rows.start
    band = _resize(preprocess, pixels[rows, columns], (count, end - begin), (first, 0, last, count))
    return _resize(preprocess, band[:, left - begin :][:, :width], (height, width), (0, upper, width, lower))


def _knows(preprocess: Preprocess, pixels: Decoded) -> bool:
    """Whether resizing only what the crop keeps is worth its while and gives the same."""
    if (
        preprocess.resize != "shortest"
        or preprocess.order != "resize_first"
        or not preprocess.antialias
        or preprocess.interpolation not in SUPPORT
        or pixels.dtype != np.uint8
        or pixels.ndim != 3
        or pixels.shape[2] != preprocess.channels
        or preprocess.channels not in (1, 3)
        or not pixels.size
        or pixels.shape[0] > 2 * pixels.shape[1]  # of pictures so tall, Pillow 13 resizes the columns first
    ):
        return False
    resized = resized_size(preprocess, pixels.shape[:2])
    sides = zip(pixels.shape[:2], resized, preprocess.size, strict=True)
    return resized != pixels.shape[:2] and all(held >= made >= kept for held, made, kept in sides)


def _needed(begin: int, end: int, scale: float, held: int, reach: int) -> tuple[slice, tuple[float, float]]:
    """Of a line of `held` pixels, `scale` for each that is made: those that `begin` up to `end` are made of.

    And where, among these alone, that stretch begins and ends.
    """
    margin = reach * scale + 1
    first, last = begin * scale, min(end * scale, held)
    taken = slice(max(int(first - margin), 0), min(int(last + margin) + 1, held))
    return taken, (first - taken.start, last - taken.start)


def _resize(
    preprocess: Preprocess, pixels: Decoded, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Decoded:
    """The `box` (left, top, right, bottom) of [H, W, C] resized to `size`, (height, width)."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    made = image.resize(size[::-1], Image.Resampling[preprocess.interpolation.upper()], box=box)
    return np.array(made).reshape(*size, -1)
