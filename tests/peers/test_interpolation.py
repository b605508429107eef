"""Each policy for positions on another grid against the result of the library it comes from, and of its formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.model.position import POLICIES, relative_pairs, resample_grid, resample_relative

pytestmark = pytest.mark.peer

Grid: TypeAlias = tuple[int, int]
Reference: TypeAlias = Callable[[Tensor, Grid, Grid], Tensor]
"""From a table [1, h*w, D] of one grid to that of another."""

TOLERANCE = 1e-5
SQUARE = (14, 14)
UP = [(24, 24), (17, 30), (32, 21)]
DOWN = [(7, 7), (9, 5), (4, 13)]


def transformers_vit(table: Tensor, old: Grid, new: Grid) -> Tensor:
    from transformers import ViTConfig
    from transformers.models.vit.modeling_vit import ViTEmbeddings

    width = table.shape[-1]
    embeddings = ViTEmbeddings(ViTConfig(image_size=old[0], patch_size=1, hidden_size=width, num_attention_heads=1))
    embeddings.position_embeddings.data = torch.cat([torch.zeros(1, 1, width), table], dim=1)
    tokens = torch.zeros(1, 1 + math.prod(new), width)
    return embeddings.interpolate_pos_encoding(tokens, *new).detach()[:, 1:]


def timm(table: Tensor, old: Grid, new: Grid) -> Tensor:
    from timm.layers import resample_abs_pos_embed

    return resample_abs_pos_embed(table, list(new), list(old), num_prefix_tokens=0)


def timm_npz(table: Tensor, old: Grid, new: Grid) -> Tensor:
    from timm.layers import resample_abs_pos_embed

    return resample_abs_pos_embed(
        table, list(new), list(old), num_prefix_tokens=0, interpolation="bilinear", antialias=False
    )


def torchvision(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Made of the function for squares: bicubic is one matrix for the rows and one for the columns."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    def matrix(before: int, after: int) -> Tensor:
        """[after, before]: what becomes of planes that are 1 in one row."""
        planes = torch.eye(before)[:, None].expand(-1, before, -1).reshape(1, before * before, before)
        state = {"encoder.pos_embedding": torch.cat([torch.zeros(1, 1, before), planes], dim=1)}
        resized = interpolate_embeddings(after, 1, state)["encoder.pos_embedding"]  # type: ignore[arg-type]
        return resized[0, 1:].reshape(after, after, before)[:, 0]

    plane = table.reshape(*old, -1)
    rows, columns = (matrix(before, after) for before, after in zip(old, new, strict=True))
    return torch.einsum("yh,xw,hwd->yxd", rows, columns, plane).reshape(1, -1, table.shape[-1])


def dinov2(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """facebookresearch/dinov2, models/vision_transformer.py: interpolate_pos_encoding with interpolate_offset 0.1."""
    side = int(math.sqrt(table.shape[1]))
    scale = (float(new[0] + 0.1) / side, float(new[1] + 0.1) / side)
    plane = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    return F.interpolate(plane, scale_factor=scale, mode="bicubic").permute(0, 2, 3, 1).reshape(1, -1, table.shape[-1])


def zoom(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """vit_jax and big_vision."""
    from scipy import ndimage

    factors = (new[0] / old[0], new[1] / old[1], 1)
    resized = ndimage.zoom(table.reshape(*old, -1).numpy(), factors, order=1)
    return torch.from_numpy(resized).reshape(1, -1, table.shape[-1])


def cubic(offset: float) -> Reference:
    """Keys' kernel with a = -0.75 in float64, the border repeated; Meta's scale is (new + offset) / old."""

    def weight(distance: float) -> float:
        d, a = abs(distance), -0.75
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    def matrix(before: int, after: int) -> np.ndarray:
        rows = np.zeros((after, before))
        for i in range(after):
            place = (i + 0.5) * before / (after + offset) - 0.5
            for tap in range(math.floor(place) - 1, math.floor(place) + 3):
                rows[i, min(max(tap, 0), before - 1)] += weight(place - tap)
        return rows

    def resample(table: Tensor, old: Grid, new: Grid) -> Tensor:
        rows, columns = (matrix(before, after) for before, after in zip(old, new, strict=True))
        result = np.einsum("yh,xw,hwd->yxd", rows, columns, table.reshape(*old, -1).double().numpy())
        return torch.from_numpy(result).float().reshape(1, -1, table.shape[-1])

    return resample


def nearest(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """The entry at floor(place * old / new)."""
    rows, columns = (torch.arange(after) * before // after for before, after in zip(old, new, strict=True))
    return table.reshape(*old, -1)[rows][:, columns].reshape(1, -1, table.shape[-1])


REFERENCES: list[tuple[str, Reference]] = [
    ("bicubic", transformers_vit),
    ("bicubic", cubic(0.0)),
    ("bicubic_antialias", timm),
    ("bicubic_align_corners", torchvision),
    ("bicubic_offset", dinov2),
    ("bicubic_offset", cubic(0.1)),
    ("bilinear", timm_npz),
    ("bilinear_align_corners", zoom),
    ("nearest", nearest),
]


@pytest.mark.parametrize("new", UP + DOWN, ids=str)
@pytest.mark.parametrize(("policy", "reference"), REFERENCES)
def test_a_policy_is_its_librarys(policy: str, reference: Reference, new: Grid) -> None:
    table = torch.randn(1, math.prod(SQUARE), 8)
    expected = reference(table, SQUARE, new)
    torch.testing.assert_close(resample_grid(table, SQUARE, new, policy), expected, atol=TOLERANCE, rtol=0)


ANY_GRID = [pair for pair in REFERENCES if pair[1] not in (transformers_vit, dinov2)]


@pytest.mark.parametrize("new", [(9, 6), (3, 11)], ids=str)
@pytest.mark.parametrize(("policy", "reference"), ANY_GRID)
def test_it_is_also_from_a_grid_that_is_not_square(policy: str, reference: Reference, new: Grid) -> None:
    table = torch.randn(1, 5 * 8, 8)
    expected = reference(table, (5, 8), new)
    torch.testing.assert_close(resample_grid(table, (5, 8), new, policy), expected, atol=TOLERANCE, rtol=0)


def rows(grid: Grid) -> int:
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


@pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("new", [*UP, *DOWN, (14, 20), (1, 5)], ids=str)
@pytest.mark.parametrize("old", [SQUARE, (5, 8), (2, 2)], ids=str)
def test_geometric_is_timms_for_beit(old: Grid, new: Grid) -> None:
    from timm.layers import resize_rel_pos_bias_table

    table = torch.randn(rows(old), 3)
    expected = resize_rel_pos_bias_table(table, new, (rows(new), 3), old)
    torch.testing.assert_close(resample_relative(table, old, new, "geometric"), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("new", UP + DOWN, ids=str)
def test_bilinear_is_transformers_for_beit(new: Grid) -> None:
    from transformers import BeitConfig
    from transformers.models.beit.modeling_beit import BeitRelativePositionBias

    theirs = BeitRelativePositionBias(BeitConfig(image_size=SQUARE[0], patch_size=1, num_attention_heads=3))
    table = theirs.relative_position_bias_table.data.normal_()
    ours = resample_relative(table, SQUARE, new, "bilinear")[relative_pairs(new)]  # [N, N, A]
    torch.testing.assert_close(ours.permute(2, 0, 1)[None], theirs(new).detach(), atol=TOLERANCE, rtol=0)


def test_every_policy_is_compared() -> None:
    assert {policy for policy, _ in REFERENCES} | {"geometric"} == set(POLICIES)
