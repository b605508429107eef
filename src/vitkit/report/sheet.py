"""Many pictures on one sheet, with captions: Pillow alone."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vitkit.errors import ConfigError
from vitkit.files import replace_file, writing

__all__ = ["sheet_picture", "tile_picture"]

SIDE = 128  # pixels: tiny pictures are enlarged by whole pixels to about this, large ones reduced to LARGEST
LARGEST = 224
SHARP_SIDE, SHARP_LARGEST = 256, 160  # of single pictures, which pages show about 100 wide
GAP = 12
LETTER, LEADING, LINES = 13, 17, 2  # pixels, pixels, most lines of a caption
INK, PAPER = (60, 60, 66), (255, 255, 255)


def sheet_picture(
    pictures: Sequence[NDArray[np.uint8]],
    captions: Sequence[str] = (),
    *,
    columns: int | None = None,
    file: str | os.PathLike[str] | None = None,
) -> bytes:
    """A PNG of pictures uint8 [H, W, C] in rows of `columns` (None: wider than high), each with its caption below.

    C is 1 (grey) or 3. Tiny pictures are enlarged by whole pixels. A caption has at most two lines of its picture's
    width, and is cut to them. Returns the PNG's bytes; writes them to `file` too, where given. Raises ConfigError
    without pictures, or for captions that don't match.
    """
    if not len(pictures):
        raise ConfigError("a sheet of no pictures can't be drawn; give at least one")
    if len(captions) not in (0, len(pictures)):
        raise ConfigError(f"a sheet has {len(captions)} captions for {len(pictures)} pictures; give one each, or none")
    tiles = [_tile(picture, SIDE, LARGEST) for picture in pictures]
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    per_row = min(columns or math.ceil(math.sqrt(1.6 * len(tiles))), len(tiles))
    font = ImageFont.load_default(LETTER)
    texts = [_wrap(caption, width, font) for caption in captions]
    strip = LEADING * max(map(len, texts), default=0)
    across, down = width + GAP, height + strip + GAP
    sheet = Image.new("RGB", (per_row * across + GAP, -(-len(tiles) // per_row) * down + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        left, top = GAP + number % per_row * across, GAP + number // per_row * down
        sheet.paste(tile, (left, top))
        for line, text in enumerate(texts[number] if captions else []):
            draw.text((left, top + tile.height + 3 + line * LEADING), text, fill=INK, font=font)
    png = _encode(sheet)
    if file is not None:
        with writing(file), replace_file(file) as part:
            Path(part).write_bytes(png)
    return png


def tile_picture(picture: NDArray[np.uint8]) -> bytes:
    """One picture uint8 [H, W, C] as a PNG for a page: tiny ones enlarged by whole pixels, large ones reduced."""
    return _encode(_tile(picture, SHARP_SIDE, SHARP_LARGEST))


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _tile(picture: NDArray[np.uint8], side: int, largest: int) -> Image.Image:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3) or 0 in picture.shape:
        raise ConfigError(f"a sheet's picture is {picture.dtype} {list(picture.shape)}; allowed: uint8 [H, W, 1 or 3]")
    tile = Image.fromarray(picture if picture.shape[2] == 3 else np.repeat(picture, 3, axis=2))
    times = side // max(tile.size)
    if times > 1:
        return tile.resize((tile.width * times, tile.height * times), Image.Resampling.NEAREST)
    tile.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return tile


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The text in lines of at most `width` pixels, the last one ended by "…" where two aren't enough."""
    lines: list[str] = []
    for word in re.split(r"\s+", text.strip(), flags=re.ASCII):  # not at no-break spaces
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and (len(lines) == LINES or font.getlength(longer) <= width):
            lines[-1] = longer
        else:
            lines.append(word)
    return [_cut(line.replace("\N{NO-BREAK SPACE}", " "), width, font) for line in lines]  # the font has none


def _cut(line: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line.rstrip()}…"
