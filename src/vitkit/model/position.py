"""Position embeddings: the fixed 2-D sine-cosine table, and the policies by which learned tables follow another grid.

Libraries disagree about resampling (antialiasing, corner alignment), and the same weights answer differently under
each, so the policy is a field of the spec and comes with the checkpoint's source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["POLICIES", "resample_grid", "resample_positions", "sincos_positions"]


class Policy(NamedTuple):
    """Arguments of `torch.nn.functional.interpolate`."""

    mode: str
    antialias: bool = False
    align_corners: bool | None = False


# bicubic: transformers' ViT, DeiT, BEiT, DINOv2, MAE. bicubic_antialias: timm, transformers' DINOv2 with registers.
# bicubic_align_corners: torchvision. bilinear: timm's reader of .npz files. bilinear_align_corners: Google's vit_jax
# and big_vision (scipy.ndimage.zoom of order 1, whose samples run from corner to corner).
POLICIES: Mapping[str, Policy] = {
    "bicubic": Policy("bicubic"),
    "bicubic_antialias": Policy("bicubic", antialias=True),
    "bicubic_align_corners": Policy("bicubic", align_corners=True),
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
