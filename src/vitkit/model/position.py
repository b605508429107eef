"""Where tokens are: positions added to them, added to their attention, or turning queries and keys.

With the policies by which learned tables follow another grid of patches.

Libraries disagree about resampling (antialiasing, corner alignment), and the same weights answer differently under
each, so the policy is a field of the spec and comes with the checkpoint's source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "NOWHERE",
    "POLICIES",
    "Places",
    "RelativeBias",
    "relative_pairs",
    "resample_grid",
    "resample_positions",
    "resample_relative",
    "rotate",
    "rotation",
    "sincos_positions",
]


class Policy(NamedTuple):
    """Arguments of `torch.nn.functional.interpolate`."""

    mode: str
    antialias: bool = False
    align_corners: bool | None = False
    offset: float = 0.0
    """The scale is (new + offset) / old, not new / old."""


# bicubic: transformers' ViT, DeiT, BEiT, DINOv2, MAE. bicubic_antialias: timm, transformers' DINOv2 with registers.
# bicubic_align_corners: torchvision. bilinear: timm's reader of .npz files. bilinear_align_corners: Google's vit_jax
# and big_vision (scipy.ndimage.zoom of order 1, whose samples run from corner to corner). bicubic_offset: Meta's DINO
# and DINOv2 without registers (dinov2/models/vision_transformer.py, interpolate_offset).
POLICIES: Mapping[str, Policy] = {
    "bicubic": Policy("bicubic"),
    "bicubic_antialias": Policy("bicubic", antialias=True),
    "bicubic_align_corners": Policy("bicubic", align_corners=True),
    "bicubic_offset": Policy("bicubic", offset=0.1),
    "bilinear": Policy("bilinear"),
    "bilinear_align_corners": Policy("bilinear", align_corners=True),
    "nearest": Policy("nearest", align_corners=None),
}


def resample_grid(table: Tensor, old: tuple[int, int], new: tuple[int, int], policy: str) -> Tensor:
    """Resamples a table [1, h*w, D] of patch positions from grid `old` to grid `new`, in float32; same dtype out."""
    if old == new:
        return table
    chosen = POLICIES[policy]
    plane = table.float().reshape(1, *old, -1).permute(0, 3, 1, 2)  # [1, D, h, w]
    if chosen.offset:
        factors = [(side + chosen.offset) / before for side, before in zip(new, old, strict=True)]
        plane = F.interpolate(plane, scale_factor=factors, mode=chosen.mode, align_corners=chosen.align_corners)
    else:
        plane = F.interpolate(
            plane, size=new, mode=chosen.mode, align_corners=chosen.align_corners, antialias=chosen.antialias
        )
    return plane.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)  # [1, h'*w', D]


def resample_positions(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], policy: str, *, num_prefix: int
) -> Tensor:
    """As `resample_grid`, for a table [1, P + h*w, D] whose first `num_prefix` rows are the prefix tokens' and stay."""
    if old == new:
        return table
    prefix, patches = table[:, :num_prefix], table[:, num_prefix:]
    return torch.cat([prefix, resample_grid(patches, old, new, policy)], dim=1)


def sincos_positions(grid: tuple[int, int], dim: int, *, device: torch.device | None = None) -> Tensor:
    """The fixed table [1, h*w, D] of MAE (He et al., 2022): D/2 for the column, then D/2 for the row, sines first.

    Source: the authors' util/pos_embed.py, where the width goes first. Computed in float64, returned in float32.
    """
    h, w = grid
    frequency = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64, device=device) / (dim // 4))

    def encode(positions: Tensor) -> Tensor:
        angle = positions.to(torch.float64).flatten()[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)  # [h*w, D/2]

    rows, columns = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    return torch.cat([encode(columns), encode(rows)], dim=1)[None].float()


class Places(NamedTuple):
    """What attention is told of where the tokens are; nothing where positions were added to the tokens."""

    bias: Tensor | None = None
    """[1, A, N, N], added to the attention logits of every block."""
    pairs: Tensor | None = None
    """int64 [N, N], each pair's row in a block's own table of relative positions for `grid`."""
    rotation: tuple[Tensor, Tensor] | None = None
    """Sines and cosines [h*w, D/A], by which the patches' queries and keys turn."""
    grid: tuple[int, int] = (0, 0)


NOWHERE = Places()


def relative_pairs(grid: tuple[int, int], *, device: torch.device | None = None) -> Tensor:
    """int64 [1 + h*w, 1 + h*w]: rows of a table [(2h-1)(2w-1) + 3, A] for every pair of class token and patches.

    The last three rows are class to patch, patch to class, class to class (BEiT, Bao et al., 2022; unilm's
    beit/modeling_finetune.py).
    """
    h, w = grid
    rows = torch.arange(h, device=device).repeat_interleave(w)
    columns = torch.arange(w, device=device).repeat(h)
    down = rows[:, None] - rows + h - 1
    right = columns[:, None] - columns + w - 1
    pairs = F.pad(down * (2 * w - 1) + right, (1, 0, 1, 0))
    last = (2 * h - 1) * (2 * w - 1) + 2
    pairs[0, :], pairs[:, 0] = last - 2, last - 1
    pairs[0, 0] = last
    return pairs


class RelativeBias(nn.Module):
    """A learned bias for every difference of places, per head, added to the attention logits."""

    def __init__(self, grid: tuple[int, int], num_heads: int, policy: str) -> None:
        super().__init__()
        self.grid, self.policy = grid, policy
        self.table = nn.Parameter(torch.zeros((2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, num_heads))

    def forward(self, places: Places) -> Tensor:
        """The bias [1, A, N, N] of the pairs in `places`."""
        assert places.pairs is not None
        table = resample_relative(self.table, self.grid, places.grid, self.policy)
        return table[places.pairs.flatten()].view(*places.pairs.shape, -1).permute(2, 0, 1)[None].contiguous()


def resample_relative(table: Tensor, old: tuple[int, int], new: tuple[int, int], policy: str) -> Tensor:
    """Resamples a table [(2h-1)(2w-1) + 3, A] of relative positions to another grid; its last three rows stay."""
    if old == new:
        return table
    before, after = ((2 * h - 1, 2 * w - 1) for h, w in (old, new))
    return torch.cat([resample_grid(table[None, :-3], before, after, policy)[0], table[-3:]])


ROPE_BASE = 100.0
"""DINOv3's longest period, in units of the picture's side (its rope_theta)."""


def rotation(grid: tuple[int, int], head_dim: int, *, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Sines and cosines, float32 [h*w, head_dim], of axial rotary positions (DINOv3, arXiv:2508.10104).

    Centres of patches run from -1 to 1 along either side. A quarter of the width turns by the row, a quarter by the
    column, at periods ROPE_BASE^(2i / (head_dim / 2)); the other half repeats them, its partner in `rotate`.
    """
    h, w = grid
    periods = ROPE_BASE ** (torch.arange(head_dim // 4, dtype=torch.float32, device=device) * 4 / head_dim)
    rows, columns = ((2 * torch.arange(side, device=device) + 1) / side - 1 for side in (h, w))
    places = torch.stack([rows.repeat_interleave(w), columns.repeat(h)], dim=1)  # [h*w, 2]
    angles = (2 * math.pi * places[:, :, None] / periods).flatten(1).tile(2)
    return angles.sin(), angles.cos()


def rotate(x_BANd: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the last h*w of N queries or keys [B, A, N, d], pairs being (i, i + d/2); prefix tokens stay."""
    sin, cos = turn
    prefix = x_BANd.shape[2] - sin.shape[0]
    patches = x_BANd[:, :, prefix:]
    first, second = patches.chunk(2, dim=-1)
    turned = patches * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([x_BANd[:, :, :prefix], turned.to(x_BANd.dtype)], dim=2)
