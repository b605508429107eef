"""One pass over the pictures: which can be read, what stands in their headers, and small grey copies to compare."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitkit.data.digests import digest_of
from vitkit.data.doctor.findings import Finding
from vitkit.data.samples import Samples
from vitkit.errors import ImageError
from vitkit.image.decode import Header, Picture, Pixels, decode, describe, read_header, samples_of

__all__ = ["THUMBNAIL", "Look", "Progress", "check_pictures", "look", "visible_pixels"]

Progress = Callable[[int, int], None]
"""Called with the pictures done and those in all."""

THUMBNAIL = 32
"""Pixels a side of the grey copies."""
COLOURS = 8
"""Pixels a side of the coloured ones."""
TINY = 8
"""Pixels a side: below, nothing can be told; the smallest set in use, scikit-learn's digits, has 8."""
SMALLER = 8
"""How many times smaller than usual a picture's longer side is where it is taken for a thumbnail."""
HUGE = 40_000_000
"""Pixels."""
FLAT = 2
"""Grey levels from the darkest to the brightest spot of a picture of one colour, at most."""


@dataclass(frozen=True, eq=False)
class Look:
    """What one pass shows of n pictures."""

    errors: dict[int, str]
    """Position -> why it can't be read."""
    digests: tuple[bytes, ...]
    """SHA-256; empty where it can't be read."""
    headers: tuple[Header | None, ...]
    """None where it can't be read."""
    sizes: NDArray[np.int64]
    """Height and width as it is seen, [n, 2]; 0 where it can't be read."""
    thumbnails: NDArray[np.uint8]
    """Squeezed to [n, THUMBNAIL, THUMBNAIL], grey."""
    colours: NDArray[np.uint8]
    """Squeezed to [n, COLOURS, COLOURS, 3]."""

    def flat(self) -> NDArray[np.bool_]:
        """Which pictures are of one colour, [n]; those that can't be read are too."""
        return np.asarray(np.ptp(self.thumbnails, axis=(1, 2)) <= FLAT)


def look(samples: Samples, *, on_progress: Progress | None = None) -> Look:
    """Reads every picture once, by threads, and keeps about a kilobyte of each."""
    count = len(samples)
    errors: dict[int, str] = {}
    digests = [b""] * count
    headers: list[Header | None] = [None] * count
    sizes = np.zeros((count, 2), np.int64)
    thumbnails = np.zeros((count, THUMBNAIL, THUMBNAIL), np.uint8)
    colours = np.zeros((count, COLOURS, COLOURS, 3), np.uint8)

    def read(at: int) -> None:
        try:
            picture = samples.pictures[at]
            pixels = visible_pixels(picture)
            headers[at] = read_header(picture)
            digests[at] = digest_of(picture)
        except ImageError as error:
            errors[at] = str(error)
            return
        sizes[at] = pixels.shape[:2]
        image = Image.fromarray(pixels)
        thumbnails[at] = np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
        colours[at] = np.asarray(image.resize((COLOURS, COLOURS), Image.Resampling.BOX))

    with ThreadPoolExecutor(1 if samples.lazy else os.cpu_count()) as pool:  # Pillow decodes without Python's lock
        for done, _ in enumerate(pool.map(read, range(count)), start=1):
            if on_progress is not None:
                on_progress(done, count)
    return Look(errors, tuple(digests), tuple(headers), sizes, thumbnails, colours)


def visible_pixels(picture: Picture) -> Pixels:
    """The picture as a person sees it, uint8 [H, W, 3]; the mean of channels that aren't colours, its range stretched.

    Raises ImageError where it can't be read.
    """
    header = read_header(picture)
    if not header.deep and (not header.is_array or header.channels in (1, 3, 4)):
        return np.asarray(decode(picture, allow_urls=False), np.uint8)
    samples = samples_of(picture).astype(np.float64)
    grey = samples.reshape(*samples.shape[:2], -1).mean(axis=2)
    if not np.isfinite(grey).all():
        raise ImageError(f"{describe(picture)} holds values that aren't finite; mend or remove it")
    stretched = (grey - grey.min()) * (255 / max(np.ptp(grey), 1e-12))
    return np.repeat(stretched.astype(np.uint8)[..., None], 3, axis=2)


def check_pictures(samples: Samples, seen: Look) -> list[Finding]:
    """What is wrong with, or odd about, single pictures."""
    longer, shorter = seen.sizes.max(axis=1), seen.sizes.min(axis=1)
    readable = shorter > 0
    usual = float(np.median(longer[readable])) if readable.any() else 0.0
    tiny = readable & (shorter < TINY)
    which = {
        "tiny": tiny,
        "blank": readable & ~tiny & seen.flat(),
        "small": readable & ~tiny & (longer * SMALLER <= usual),
        "huge": seen.sizes.prod(axis=1) > HUGE,
        "turned": np.array([header is not None and header.turned for header in seen.headers], bool),
        "cmyk": np.array([header is not None and header.mode == "CMYK" for header in seen.headers], bool),
    }
    findings = [Finding("unreadable", seen.errors[at], (at,)) for at in sorted(seen.errors)]
    for kind, mask in which.items():
        for at in np.flatnonzero(mask).tolist():
            height, width = seen.sizes[at]
            findings.append(Finding(kind, f"{samples.describe(at)} ({width} x {height})", (at,)))
    return findings
