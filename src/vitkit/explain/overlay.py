"""Maps drawn over pictures, with numpy and Pillow alone."""

from __future__ import annotations

import textwrap

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vitkit.errors import ImageError
from vitkit.image.decode import Pixels

__all__ = ["colour", "draw_pair", "enlarge", "overlay"]

# Every 16th colour of matplotlib's magma, which is perceptually uniform (van der Walt and Smith, 2015; CC0).
MAGMA = (
    "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 f56b5c fc8961 fea772 fec488 fde2a3 "
    "fcfdbf"
)
TABLE = np.array([list(bytes.fromhex(entry)) for entry in MAGMA.split()], np.float32)

SHOWN = 224  # pixels: smaller pictures are enlarged to at least this shortest side
TINY = 64  # pixels: below, a pixel is something to be seen, and so is a patch; smoothing would invent pictures
FAINTEST, STRONGEST = 0.45, 0.85  # share of the colour over the picture, where the map is 0 and where it is largest
INK, FAINT, PAPER = (28, 28, 30), (110, 110, 116), (255, 255, 255)


def colour(values: NDArray[np.floating]) -> Pixels:
    """Values 0..1 of any shape to colours uint8 [..., 3], dark to bright."""
    places = np.clip(values, 0, 1) * (len(TABLE) - 1)
    channels = [np.interp(places, np.arange(len(TABLE)), TABLE[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def enlarge(picture: Pixels) -> Pixels:
    """uint8 [H, W, C] to RGB [H', W', 3] of a shortest side of at least 224: tiny pictures by whole, sharp pixels.

    One channel is grey; channels that aren't red, green and blue are averaged to grey.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or 0 in picture.shape:
        raise ImageError(f"a picture is {picture.dtype} {list(picture.shape)}; allowed: uint8 [H, W, C]")
    if picture.shape[2] != 3:
        grey = picture.mean(axis=2, keepdims=True).round().astype(np.uint8)
        picture = np.repeat(grey, 3, axis=2)
    short = min(picture.shape[:2])
    times = -(-SHOWN // short)
    if times == 1:
        return picture
    size = (picture.shape[1] * times, picture.shape[0] * times)
    resample = Image.Resampling.NEAREST if short < TINY else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(picture).resize(size, resample))


def overlay(picture: Pixels, values: NDArray[np.floating]) -> Pixels:
    """The map [h, w] in colours over the picture uint8 [H, W, C] whose patches it weighs; RGB, sized as by `enlarge`.

    The brightest colour is the map's largest value, black is 0. Patches are squares on tiny pictures, else interpolated
    bilinearly. The picture below is grey, so that every colour is the map's.
    """
    shown = enlarge(picture)
    height, width = shown.shape[:2]
    resample = Image.Resampling.NEAREST if min(picture.shape[:2]) < TINY else Image.Resampling.BILINEAR
    scaled = (values / max(float(values.max()), 1e-30)).astype(np.float32)
    heat = np.asarray(Image.fromarray(scaled).resize((width, height), resample))[..., None]
    grey = np.asarray(Image.fromarray(shown).convert("L"), np.float32)[..., None]
    strength = FAINTEST + (STRONGEST - FAINTEST) * heat
    mixed = (1 - strength) * grey + strength * colour(heat[..., 0])
    return mixed.round().astype(np.uint8)


def draw_pair(picture: Pixels, values: NDArray[np.floating], title: str, note: str) -> Image.Image:
    """The picture, its overlay beside it, and below them a strip with a title and, fainter, a note."""
    left, right = Image.fromarray(enlarge(picture)), Image.fromarray(overlay(picture, values))
    gap = max(4, left.width // 56)
    width = left.width + gap + right.width
    size = max(13, width // 32)
    lines = [(line, INK, size) for line in _wrap(title, width - 2 * gap, size)]
    small = round(0.8 * size)
    lines += [(line, FAINT, small) for line in _wrap(note, width - 2 * gap, small)]
    leading = 1.35
    strip = round(sum(leading * points for _, _, points in lines)) + 2 * gap
    page = Image.new("RGB", (width, left.height + strip), PAPER)
    page.paste(left, (0, 0))
    page.paste(right, (left.width + gap, 0))
    draw, top = ImageDraw.Draw(page), float(left.height + gap)
    for line, ink, points in lines:
        draw.text((gap, top), line, fill=ink, font=ImageFont.load_default(points))
        top += leading * points
    return page


def _wrap(text: str, width: int, points: int) -> list[str]:
    """Lines no wider than `width` pixels, by the font's own measure of the whole text."""
    length = ImageFont.load_default(points).getlength(text)
    letters = int(len(text) * width / max(length, 1) * 0.94)
    return textwrap.wrap(text, max(letters, 8), max_lines=3, placeholder=" …")
