"""Where tokens are: positions added to them, added to their attention, or turning queries and keys.

With the policies by which learned tables follow another grid of patches.

Libraries disagree about resampling (antialiasing, corner alignment), and the same weights answer differently under
each, so the policy is a field of the spec and comes with the checkpoint's source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.model.resampling import between, resample_plane

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
    "rotation_periods",
    "sincos_positions",
]


def _offset(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic by the scale (new + 0.1) / old: the grid doesn't end where the table does."""
    factors = [(new + 0.1) / old for new, old in zip(size, plane.shape[2:], strict=True)]
    return F.interpolate(plane, scale_factor=factors, mode="bicubic")


def _geometric(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """Linear between distances that grow by a constant ratio away from the middle: near ones are kept, far ones spread.

    For planes of differences of places, whose sides are odd: of a grid that shrinks, the outer distances are cut off.
    """
    rows, columns = (
        between(_growing(old, new), torch.arange(-(new // 2), new // 2 + 1)).to(plane)
        for old, new in zip(plane.shape[2:], size, strict=True)
    )
    return rows @ plane @ columns.T


def _growing(old: int, new: int) -> Tensor:
    """float64 [old]: 0, +-1, +-(1 + q), +-(1 + q + q^2), ... with the q for which the last is new // 2, within bounds.

    Bounds and bisection are timm's, and unilm's before it: below 1.01 the distances stay nearly as they are.
    """
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if sum(q**i for i in range(old // 2)) > new // 2 else (q, high)
    outward = torch.tensor([q**i for i in range(old // 2)], dtype=torch.float64).cumsum(0)
    return torch.cat([-outward.flip(0), outward.new_zeros(1), outward])


# bicubic: transformers' ViT, DeiT, DINOv2, MAE. bicubic_antialias: timm, transformers' DINOv2 with registers.
# bicubic_align_corners: torchvision. bilinear: timm's reader of .npz files, transformers' BEiT. bilinear_align_corners:
# Google's vit_jax and big_vision (scipy.ndimage.zoom of order 1, whose samples run from corner to corner).
# bicubic_offset: Meta's DINO and DINOv2 without registers (dinov2/models/vision_transformer.py, interpolate_offset).
# geometric: timm's BEiT and Swin (timm/layers/pos_embed_rel.py, resize_rel_pos_bias_table).
POLICIES: Mapping[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "bicubic": partial(F.interpolate, mode="bicubic"),
    "bicubic_antialias": partial(F.interpolate, mode="bicubic", antialias=True),
    "bicubic_align_corners": partial(F.interpolate, mode="bicubic", align_corners=True),
    "bicubic_offset": _offset,
    "bilinear": partial(F.interpolate, mode="bilinear"),
    "bilinear_align_corners": partial(F.interpolate, mode="bilinear", align_corners=True),
    "nearest": partial(F.interpolate, mode="nearest"),
    "geometric": _geometric,
}
"""From a plane [1, D, h, w] to one of another size (h', w')."""


def resample_grid(table: Tensor, old: tuple[int, int], new: tuple[int, int], policy: str) -> Tensor:
    """Resamples a table [1, h*w, D] of patch positions from grid `old` to grid `new`, in float32; same dtype out."""
    if is_known(new) and old == new:
        return table
    plane = table.float().reshape(1, *old, -1).permute(0, 3, 1, 2)  # [1, D, h, w]
    plane = POLICIES[policy](plane, new) if is_known(new) else resample_plane(plane, new, policy)
    return plane.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)  # [1, h'*w', D]


def is_known(grid: tuple[int, int]) -> bool:
    """Whether a grid's sides are numbers; while a graph is traced for any size they are symbols."""
    return isinstance(grid[0], int) and isinstance(grid[1], int)


def resample_positions(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], policy: str, *, num_prefix: int
) -> Tensor:
    """As `resample_grid`, for a table [1, P + h*w, D] whose first `num_prefix` rows are the prefix tokens' and stay."""
    if is_known(new) and old == new:
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
    """Sines and cosines [N, D/A] by which queries and keys turn, as `rotation` gives them."""
    grid: tuple[int, int] = (0, 0)


NOWHERE = Places()


def relative_pairs(grid: tuple[int, int], *, device: torch.device | None = None) -> Tensor:
    """int64 [1 + h*w, 1 + h*w]: rows of a table [(2h-1)(2w-1) + 3, A] for every pair of class token and patches.

    The last three rows are class to patch, patch to class, class to class (BEiT, Bao et al., 2022; unilm's
    beit/modeling_finetune.py).
    """
    h, w = grid
    rows = torch.arange(h, device=device)[:, None].expand(h, w).flatten()
    columns = torch.arange(w, device=device).expand(h, w).flatten()
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
    """Resamples a table [(2h-1)(2w-1) + 3, A] of relative positions to another grid; its last three rows stay.

    A table is read as h rows of w, also of a grid that isn't square; transformers' BEiT takes w rows of h there.
    """
    if is_known(new) and old == new:
        return table
    before, after = ((2 * h - 1, 2 * w - 1) for h, w in (old, new))
    return torch.cat([resample_grid(table[None, :-3], before, after, policy)[0], table[-3:]])


ROPE_BASE = 100.0
"""DINOv3's longest period, in units of the picture's side (its rope_theta)."""


def rotation_periods(head_dim: int, *, device: torch.device | None = None) -> Tensor:
    """float32 [head_dim / 4]: ROPE_BASE^(2i / (head_dim / 2))."""
    return ROPE_BASE ** (torch.arange(head_dim // 4, dtype=torch.float32, device=device) * 4 / head_dim)


def rotation(
    grid: tuple[int, int], head_dim: int, *, num_prefix: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Sines and cosines, float32 [P + h*w, head_dim], of axial rotary positions (DINOv3, arXiv:2508.10104).

    Centres of patches run from -1 to 1 along either side. A quarter of the width turns by the row, a quarter by the
    column, at `rotation_periods`; the other half repeats them, its partner in `rotate`, for which the first half of the
    sines is negative. Prefix tokens turn by nothing.
    """
    h, w = grid
    periods = rotation_periods(head_dim, device=device)
    rows, columns = ((2 * torch.arange(side, dtype=torch.float32, device=device) + 1) / side - 1 for side in (h, w))
    places = torch.stack([rows[:, None].expand(h, w), columns.expand(h, w)], dim=2).flatten(0, 1)  # [h*w, 2]
    angles = F.pad((2 * math.pi * places[:, :, None] / periods).flatten(1), (0, 0, num_prefix, 0))
    sin, cos = angles.sin(), angles.cos()  # [P + h*w, head_dim / 2]
    return torch.cat([-sin, sin], dim=1), torch.cat([cos, cos], dim=1)


def rotate(x_BANd: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turns queries or keys [B, A, N, d] by `rotation`, in its float32 and back; a pair is (i, i + d/2)."""
    sin, cos = turn
    first, second = x_BANd.chunk(2, dim=-1)
    # Every block does this twice: in place, since time goes into memory here, not into arithmetic.
    return (x_BANd * cos).addcmul_(torch.cat([second, first], dim=-1), sin).to(x_BANd.dtype)
