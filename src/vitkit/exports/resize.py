"""Resizing and cropping inside a graph: whole pictures of any size in, the crops of `image.preprocess.fit` out.

A resize is two products with matrices that hold Pillow's weights (src/libImaging/Resample.c), made inside the graph by
plain arithmetic on the picture's size: no runtime's own Resize operator, of which no two agree, is asked. Only the rows
and columns that the crop keeps are computed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.exports.graph import CropGraph
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel

__all__ = ["Fit", "PictureGraph", "first_kept"]


class PictureGraph(CropGraph):
    """A model with all of its preprocessing inside: upright decoded pictures, of any one size, to what it says."""

    form = "pictures"

    def __init__(self, module: ImageModel, preprocess: Preprocess) -> None:
        super().__init__(module, preprocess)
        self.fit = Fit(preprocess)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Pictures [B, H, W, C] of `Preprocess.pixel_type` to "embedding" and "logits", as CropGraph's."""
        return super().forward(self.fit(pictures))

    @property
    def size_step(self) -> int:
        """H and W may be anything."""
        return 1

    @property
    def least_steps(self) -> int:
        """From 1 on."""
        return 1

    def example(self, count: int, size: tuple[int, int] | None = None, *, seed: int = 0) -> NDArray[Any]:
        """Pictures of noise [count, H, W, C]; where no `size` is said, of one that isn't resized."""
        wanted = self.preprocess
        shape = (count, *(size or wanted.resize_size or wanted.size), wanted.channels)
        return np.random.default_rng(seed).integers(0, wanted.full_scale, shape, wanted.pixel_type, endpoint=True)


class Fit(nn.Module):
    """`image.preprocess.fit` for a batch of pictures of one size, within 2 of 255 of it.

    Raises ConfigError for a Preprocess that leaves a picture's size as it is.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        if preprocess.resize == preprocess.crop == "none":
            raise ConfigError("the preprocessing neither resizes nor crops, so there is nothing to put into the graph")
        self.preprocess = preprocess

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, H, W, C] of `pixel_type` to float32 [B, h, w, C], the values of `fitted_type`."""
        preprocess = self.preprocess
        held = [torch.scalar_tensor(side, dtype=torch.int64) for side in pictures.shape[1:3]]
        resized = _resized_size(preprocess, held)
        down, across = (
            self._weights(torch.arange(pictures.shape[axis + 1]), held[axis], resized[axis], axis) for axis in (0, 1)
        )
        values = pictures.permute(0, 3, 1, 2).float()
        if preprocess.order == "rescale_first":
            values = values / preprocess.full_scale
        across = across.T.contiguous()  # [W, w]
        return self._products(values, down, across, _columns_first(held, resized)).permute(0, 2, 3, 1)

    def _products(self, values: Tensor, down: Tensor, across: Tensor, columns_first: Tensor) -> Tensor:
        """[..., H, W] to [..., h, w], in Pillow's order wherever that can be seen by more than rounding."""

        def rows_first(values: Tensor, down: Tensor, across: Tensor) -> Tensor:
            return self._rounded(down @ self._between(values @ across))

        def columns_before(values: Tensor, down: Tensor, across: Tensor) -> Tensor:
            return self._rounded(self._between(down @ values) @ across)

        if not (COLUMNS_MAY_COME_FIRST and self._whole_between and self.preprocess.interpolation in OVERSHOOTING):
            return rows_first(values, down, across)
        if torch.compiler.is_exporting():
            chosen: Tensor = torch.cond(columns_first, columns_before, rows_first, (values, down, across))
            return chosen
        return (columns_before if columns_first else rows_first)(values, down, across)

    def _weights(self, pixels: Tensor, held: Tensor, resized: Tensor, axis: int) -> Tensor:
        """The matrix that makes the results kept by the crop of an axis's pixels, float32 [kept, pixels]."""
        preprocess = self.preprocess
        wanted = preprocess.size[axis]
        kept = torch.arange(wanted) + first_kept(preprocess, resized, wanted)
        scale = held.double() / resized.double()
        if preprocess.interpolation == "nearest":
            weights = (pixels == _nearest(scale, resized, kept)[:, None]).double()
        else:
            weights = self._filtered(pixels, scale, kept)
        padding = (kept < 0) | (kept >= resized)
        return torch.where(padding[:, None], 0.0, weights).float()

    def _filtered(self, pixels: Tensor, scale: Tensor, kept: Tensor) -> Tensor:
        """The filter, stretched over what a smaller result covers, around each kept result's middle; rows' sums are 1.

        In Pillow's doubles and order: where a box ends on a pixel's middle, their rounding decides.
        """
        support, curve = FILTERS[self.preprocess.interpolation]
        stretch = scale.clamp_min(1) if self.preprocess.antialias else torch.ones_like(scale)
        reach = support * stretch
        middles = (kept.double()[:, None] + 0.5) * scale
        covered = (pixels >= (middles - reach + 0.5).floor()) & (pixels < (middles + reach + 0.5).floor())
        weights = torch.where(covered, curve((pixels - middles + 0.5) * (1 / stretch)), 0.0)
        weights = weights / weights.sum(1, keepdim=True)
        return (weights * WEIGHT_STEPS).round() / WEIGHT_STEPS if self._whole_between else weights

    @property
    def _eight_bits(self) -> bool:
        return self.preprocess.order == "resize_first" and self.preprocess.full_scale == 255

    @property
    def _whole_between(self) -> bool:
        """Whether Pillow holds whole numbers between the two passes."""
        return self._eight_bits and self.preprocess.antialias

    def _between(self, values: Tensor) -> Tensor:
        return self._rounded(values) if self._whole_between else values

    def _rounded(self, values: Tensor) -> Tensor:
        """To whole numbers as Pillow does for this kind of pixels; floats stay as they are."""
        preprocess = self.preprocess
        if preprocess.order == "rescale_first":
            return values
        if not self._eight_bits:
            values = values.round()
        else:
            values = (values + (0.5 if preprocess.antialias else TRUNCATION_SLACK)).floor()
        return values.clamp(0, preprocess.full_scale)


COLUMNS_MAY_COME_FIRST = int(PIL.__version__.split(".")[0]) >= 13
"""Since then Pillow resizes along the columns first where the height shrinks much more than the width."""

OVERSHOOTING = ("bicubic", "lanczos")
"""Filters with negative weights: what they make beyond 0..255 is cut off after each pass, so their order shows."""

WEIGHT_STEPS = 2**22
"""Pillow's weights for 8 bits are whole numbers of this part."""

TRUNCATION_SLACK = 1e-3
"""Pillow's transform drops what is behind the point: float32 must not fall below a whole number that doubles reach."""


def _resized_size(preprocess: Preprocess, held: list[Tensor]) -> list[Tensor]:
    """(height, width) after resizing, int64 []: as in image.preprocess, for a size known when the graph runs."""
    wanted = preprocess.resize_size
    if wanted is None:
        return held
    if preprocess.resize == "squash":
        return [torch.scalar_tensor(side, dtype=torch.int64) for side in wanted]
    if wanted[0] == wanted[1]:
        shortest = torch.minimum(*held)
        return [side * wanted[0] // shortest for side in held]
    sides = [side.double() for side in held]
    ratio = torch.minimum(sides[0] / wanted[0], sides[1] / wanted[1])
    return [(side / ratio).round().long() for side in sides]


def first_kept(preprocess: Preprocess, resized: Tensor, wanted: int) -> Tensor:
    """Where the crop begins, int64 []; below 0 where the picture is padded."""
    spare = resized - wanted
    half = (resized + wanted) // 2 - wanted  # floor(spare / 2), of positive numbers: runtimes disagree on others
    if preprocess.crop != "center_round":
        return half
    # An odd spare's half goes to the even neighbour; padding's odd one goes after.
    return half + (spare - 2 * half) * torch.where(spare < 0, 1, half % 2)


def _columns_first(held: list[Tensor], resized: list[Tensor]) -> Tensor:
    """Whether Pillow 13 resizes along the columns before the rows, bool []."""
    (height, width), (new_height, new_width) = held, resized
    return (height > new_height) & (height - new_height > 2 * (width - new_width))


def _nearest(scale: Tensor, resized: Tensor, kept: Tensor) -> Tensor:
    """The pixel on which each kept result's middle lies, int64 [kept]."""
    count = int(resized.item())
    steps = torch.cat([scale[None] * 0.5, scale.expand(count - 1)])
    middles = steps.cumsum(0)  # as Pillow adds them up, to the bit: a middle may lie on the edge of two pixels
    return middles[kept.clamp(0, count - 1)].floor().long()


def _box(at: Tensor) -> Tensor:
    return ((at > -0.5) & (at <= 0.5)).double()


def _triangle(at: Tensor) -> Tensor:
    return 1 - at.abs()


def _hamming(at: Tensor) -> Tensor:
    return _sinc(at) * (0.54 + 0.46 * torch.cos(math.pi * at))


def _cubic(at: Tensor) -> Tensor:
    """Keys' cubic with a = -0.5."""
    x = at.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, far)


def _lanczos(at: Tensor) -> Tensor:
    return _sinc(at) * _sinc(at / 3)


def _sinc(at: Tensor) -> Tensor:
    x = math.pi * torch.where(at == 0, 1.0, at)
    return torch.where(at == 0, 1.0, torch.sin(x) / x)


FILTERS = {
    "box": (0.5, _box),
    "bilinear": (1.0, _triangle),
    "hamming": (1.0, _hamming),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, _lanczos),
}
"""How far each of Pillow's filters reaches, in pixels of whichever is smaller, result or picture; and its curve."""
