"""What the convolutions of a ResNet or of a ViT's stem are, without building them: strides, channels and counts.

Kolesnikov et al., 2020, arXiv:1912.11370. `depths` are the blocks of each stage, a stem's are bottlenecks; empty: the
root alone, a convolution and a pooling.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

__all__ = [
    "EXPANSION",
    "ROOT_SIDE",
    "WIDTH",
    "Convolution",
    "Counts",
    "StemShape",
    "convolutions",
    "plain_layers",
    "plain_stem",
    "resnet_stem",
]

Counts: TypeAlias = tuple[int, ...] | None

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


class StemShape(NamedTuple):
    """What lies between the pixels and the patches, each convolution followed by a norm; nothing, as it stands."""

    convolutions: tuple[Convolution, ...] = ()
    stride: int = 1
    """Side in pixels of what one position of its output stands for."""
    channels: int = 0
    """Of its output."""

    @property
    def parameters(self) -> int:
        """Its learned numbers, in closed form."""
        return sum(one.parameters + 2 * one.out_channels for one in self.convolutions)

    def macs(self, image_size: tuple[int, int]) -> int:
        """Multiply-accumulates of its convolutions on one picture."""
        return sum(one.macs(image_size) for one in self.convolutions)


def resnet_stem(depths: Counts, in_channels: int) -> StemShape:
    """A hybrid's: a ResNet's root and stages of `depths` bottleneck blocks; the pixels as they are where it is None."""
    if depths is None:
        return StemShape(channels=in_channels)
    channels = EXPANSION * WIDTH * 2 ** (len(depths) - 1) if depths else WIDTH
    return StemShape(tuple(convolutions(depths, in_channels)), 4 * 2 ** max(len(depths) - 1, 0), channels)


def plain_layers(channels: tuple[int, ...], in_channels: int) -> tuple[tuple[int, int, int], ...]:
    """Channels in and out and the stride of each 3x3 convolution: 1 if both are as many, 2 else and of the first.

    So are the stems of Xiao et al., 2021, arXiv:2106.14881, section 4.
    """
    before = (in_channels, *channels[:-1])
    pairs = enumerate(zip(before, channels, strict=True))
    return tuple((fewer, more, 1 if layer and fewer == more else 2) for layer, (fewer, more) in pairs)


def plain_stem(channels: tuple[int, ...], in_channels: int) -> StemShape:
    """That of 3x3 convolutions of so many `channels`."""
    halvings, layers = 0, []
    for before, after, stride in plain_layers(channels, in_channels):
        halvings += stride - 1
        layers.append(Convolution(before, after, 3, halvings))
    return StemShape(tuple(layers), 2**halvings, channels[-1])
