"""Pictures of one size, decoded once into memory, or each time they are asked for. No torch in here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from vitkit.data.samples import Samples
from vitkit.errors import ConfigError, DataError, ImageError, list_faults
from vitkit.image.decode import Decoded, decode
from vitkit.image.preprocess import Preprocess, fit

__all__ = [
    "MemoryStore",
    "Progress",
    "Store",
    "StreamStore",
    "check_storable",
    "make_store",
    "map_threads",
    "memory_limit",
    "stored_size",
]

Progress = Callable[[int, int], None]
"""Called now and then with the pictures done and those in all."""

Result = TypeVar("Result")

CHUNK = 32
"""Pictures a thread reads in one go."""


class Store(Protocol):
    """Pictures by position; who asks can't tell where they are kept."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every picture."""

    @property
    def in_memory(self) -> bool:
        """False where `take` reads and decodes, so that worker processes help."""

    def __len__(self) -> int: ...

    def take(self, indices: NDArray[np.int64]) -> Decoded:
        """Returns uint8 or uint16 [B, H, W, C] for positions [B]."""


@dataclass(frozen=True, eq=False)
class MemoryStore:
    """Pictures in one array."""

    pixels: Decoded
    """[n, H, W, C]"""
    in_memory = True

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every picture."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def __len__(self) -> int:
        """n."""
        return len(self.pixels)

    def take(self, indices: NDArray[np.int64]) -> Decoded:
        """Returns uint8 or uint16 [B, H, W, C] for positions [B]."""
        return self.pixels[indices]


@dataclass(frozen=True, eq=False)
class StreamStore:
    """Pictures that are decoded and fitted each time."""

    samples: Samples
    preprocess: Preprocess
    shrink: bool = False
    """Whether JPEGs at least twice as large are decoded smaller: fast, and near but not equal to `fit` of the whole."""
    in_memory = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every picture."""
        return self.preprocess.size

    def __len__(self) -> int:
        """n."""
        return len(self.samples)

    def take(self, indices: NDArray[np.int64]) -> Decoded:
        """Returns uint8 or uint16 [B, H, W, C] for positions [B]; raises ImageError that names the picture."""
        return np.stack([self.read(int(at)) for at in indices])

    def read(self, at: int) -> Decoded:
        """Picture `at`, uint8 or uint16 [H, W, C]; raises ImageError that names it."""
        wanted = self.preprocess
        try:
            pixels = decode(
                self.samples.pictures[at],
                channels=wanted.channels,
                value_range=wanted.value_range,
                shrink_to=max(wanted.resize_size or wanted.size) if self.shrink and wanted.resize != "none" else None,
                allow_urls=False,
            )
            return fit(wanted, pixels)
        except ImageError as error:
            name = self.samples.describe(at)
            raise ImageError(str(error) if name in str(error) else f"{name}: {error}") from error


def stored_size(preprocess: Preprocess) -> tuple[int, int]:
    """(height, width) at which pictures are kept for training: before the centre crop, so that crops can be drawn."""
    height, width = preprocess.resize_size or preprocess.size
    return max(height, preprocess.size[0]), max(width, preprocess.size[1])


def memory_limit() -> int:
    """The bytes that a set may take in memory: a quarter of the machine's, at most 4 GiB; 1 GiB where it isn't told.

    Of all memory and not of what is free: that would depend on what was read before.
    """
    try:
        return min(2**32, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 2**30


def check_storable(preprocess: Preprocess) -> None:
    """Raises ConfigError for order "rescale_first", whose pictures are no whole numbers after their resize."""
    if preprocess.order != "resize_first":
        raise ConfigError(
            "order 'rescale_first' keeps no whole pixels to train on; train with order 'resize_first', and save that"
        )


def make_store(
    samples: Samples,
    preprocess: Preprocess,
    *,
    training: bool,
    memory_limit_bytes: int | None = None,
    check: bool = True,
    on_progress: Progress | None = None,
) -> Store:
    """Decodes every picture once: into memory where they fit into `memory_limit_bytes`, else only to see that it can.

    For training a picture is fitted as for evaluation up to before its centre crop (`stored_size`), and a JPEG twice as
    large or larger is decoded at a half, quarter or eighth; otherwise it is the evaluation's own `fit`. None for the
    limit stands for `memory_limit()`. `check=False` leaves the pass over streamed pictures out, where it was made
    before.

    Raises DataError that names the pictures that can't be read, ConfigError for order "rescale_first".
    """
    check_storable(preprocess)
    if training:
        preprocess = replace(preprocess, size=stored_size(preprocess))
    stream = StreamStore(samples, preprocess, shrink=training)
    shape = (len(samples), *preprocess.size, preprocess.channels)
    limit = memory_limit() if memory_limit_bytes is None else memory_limit_bytes
    if np.prod(shape, dtype=object) * preprocess.pixel_type.itemsize <= limit:
        pixels: Decoded = np.empty(shape, preprocess.pixel_type)
        _read_all(stream, pixels, on_progress)
        return MemoryStore(pixels)
    if check:
        _read_all(stream, None, on_progress)
    return stream


def _read_all(stream: StreamStore, pixels: Decoded | None, on_progress: Progress | None) -> None:
    """Reads every picture, into `pixels` if given; raises DataError that names all those that can't be read."""

    def read(start: int) -> list[str]:
        faults = []
        for at in range(start, min(start + CHUNK, len(stream))):
            try:
                picture = stream.read(at)
                if pixels is not None:
                    pixels[at] = picture
            except ImageError as error:
                faults.append(str(error))
        return faults

    faults: list[str] = []
    chunks = map_threads(read, range(0, len(stream), CHUNK), 1 if stream.samples.lazy else None)
    for done, found in enumerate(chunks, start=1):
        faults += found
        if on_progress is not None:
            on_progress(min(done * CHUNK, len(stream)), len(stream))
    if faults:
        raise DataError(
            f"{stream.samples.name}: {len(faults)} of {len(stream)} pictures can't be read; replace or remove them: "
            f"{list_faults(faults)}"
        )


def map_threads(read: Callable[[int], Result], places: range, threads: int | None) -> Iterator[Result]:
    """In order, by threads: Pillow decodes and resizes without the interpreter's lock."""
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        try:
            yield from pool.map(read, places)
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C shouldn't wait for the rest
