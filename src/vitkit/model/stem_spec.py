"""What a ResNet's convolutions are, without building them: for a hybrid's stem, its stride, channels and counts.

Kolesnikov et al., 2020, arXiv:1912.11370. `depths` are the blocks of each stage, a stem's are bottlenecks; empty: the
root alone, a convolution and a pooling; None: no stem, for which all of this is as if the pixels went on as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

__all__ = [
    "EXPANSION",
    "ROOT_SIDE",
    "WIDTH",
    "Convolution",
    "Depths",
    "convolutions",
    "stem_channels",
    "stem_macs",
    "stem_parameters",
    "stem_stride",
]

Depths: TypeAlias = tuple[int, ...] | None

WIDTH, ROOT_SIDE = 64, 7
"""Channels and side of the root's kernels; a stage has twice the width of the one before."""
EXPANSION = 4
"""A bottleneck block's outputs per unit of width."""


class Convolution(NamedTuple):
    """A convolution without bias."""

    in_channels: int
    out_channels: int
    side: int
    halvings: int
    """How often the picture's sides have been halved, rounded up, in its output."""

    @property
    def parameters(self) -> int:
        """Its numbers."""
        return self.in_channels * self.out_channels * self.side**2

    def macs(self, image_size: tuple[int, int]) -> int:
        """Its multiply-accumulates on one picture."""
        total = self.parameters
        for side in image_size:
            total *= -(-side // 2**self.halvings)
        return total


def convolutions(
    depths: tuple[int, ...], in_channels: int, *, width: int = WIDTH, basic: bool = False
) -> Iterator[Convolution]:
    """Those of the root and of stages of bottleneck blocks, or of `basic` ones: two convolutions, no expansion."""
    yield Convolution(in_channels, width, ROOT_SIDE, 1)
    channels, halvings = width, 2  # the pooling's
    for stage, depth in enumerate(depths):
        inner = width * 2**stage
        outer = inner if basic else EXPANSION * inner
        for block in range(depth):
            before, halvings = halvings, halvings + (stage > 0 and block == 0)
            if channels != outer:
                yield Convolution(channels, outer, 1, halvings)
            if basic:
                yield Convolution(channels, inner, 3, halvings)
                yield Convolution(inner, inner, 3, halvings)
            else:
                yield Convolution(channels, inner, 1, before)
                yield Convolution(inner, inner, 3, halvings)
                yield Convolution(inner, outer, 1, halvings)
            channels = outer


def stem_stride(depths: Depths) -> int:
    """Side in pixels of what one position of the stem's output stands for."""
    return 1 if depths is None else 4 * 2 ** max(len(depths) - 1, 0)


def stem_channels(depths: Depths, in_channels: int) -> int:
    """Channels of the stem's output."""
    if depths is None:
        return in_channels
    return EXPANSION * WIDTH * 2 ** (len(depths) - 1) if depths else WIDTH


def stem_parameters(depths: Depths, in_channels: int) -> int:
    """Learned numbers of the stem, in closed form: a norm follows every convolution."""
    if depths is None:
        return 0
    return sum(one.parameters + 2 * one.out_channels for one in convolutions(depths, in_channels))


def stem_macs(depths: Depths, in_channels: int, image_size: tuple[int, int]) -> int:
    """Multiply-accumulates of the stem's convolutions on one picture."""
    return 0 if depths is None else sum(one.macs(image_size) for one in convolutions(depths, in_channels))
