"""What a ResNet stem of given depths is, without building it: stride, channels, counts (BiT's R50 has width 64).

Kolesnikov et al., 2020, arXiv:1912.11370. `depths` are the bottleneck blocks of each stage; empty: the root alone, a
convolution and a pooling; None: no stem, for which all of this is as if the pixels went on as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

__all__ = ["EXPANSION", "ROOT_SIDE", "WIDTH", "Depths", "stem_channels", "stem_macs", "stem_parameters", "stem_stride"]

Depths: TypeAlias = tuple[int, ...] | None

WIDTH, ROOT_SIDE = 64, 7
"""Channels and side of the root's kernels; a stage has twice the width of the one before."""
EXPANSION = 4
"""A bottleneck block's outputs per unit of width."""


def stem_stride(depths: Depths) -> int:
    """Side in pixels of what one position of the stem's output stands for."""
    return 1 if depths is None else 4 * 2 ** max(len(depths) - 1, 0)


def stem_channels(depths: Depths, in_channels: int) -> int:
    """Channels of the stem's output."""
    if depths is None:
        return in_channels
    return EXPANSION * WIDTH * 2 ** (len(depths) - 1) if depths else WIDTH


def stem_parameters(depths: Depths, in_channels: int) -> int:
    """Learned numbers of the stem, in closed form."""
    if depths is None:
        return 0
    root = in_channels * ROOT_SIDE**2 * WIDTH + 2 * WIDTH
    norms = sum(depth * 12 * width + 8 * width for depth, width, _ in _stages(depths))
    kernels = sum(i * w + 13 * w * w + 4 * i * w + (depth - 1) * 17 * w * w for depth, w, i in _stages(depths))
    return root + norms + kernels


def stem_macs(depths: Depths, in_channels: int, image_size: tuple[int, int]) -> int:
    """Multiply-accumulates of the stem's convolutions on one picture."""
    if depths is None:
        return 0
    area = image_size[0] * image_size[1]
    total = area // 4 * in_channels * ROOT_SIDE**2 * WIDTH
    for stage, (depth, w, i) in enumerate(_stages(depths)):
        positions = area // (4 * 2**stage) ** 2
        before = positions * (4 if stage else 1)  # the stride is in the block's second convolution
        total += before * i * w + positions * (13 * w * w + 4 * i * w + (depth - 1) * 17 * w * w)
    return total


def _stages(depths: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Each stage's depth, width and input channels."""
    for stage, depth in enumerate(depths):
        width = WIDTH * 2**stage
        yield depth, width, EXPANSION * width // 2 if stage else WIDTH
