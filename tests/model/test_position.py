"""What holds for every resampling policy; the sine-cosine table and the rotation against their definitions."""

import cmath
import math

import pytest
import torch
import torch.nn.functional as F

from vitkit.model.position import POLICIES, resample_grid, resample_positions, rotate, rotation, sincos_positions

SIZES = [((14, 14), (24, 24)), ((14, 14), (7, 9)), ((4, 6), (9, 5)), ((37, 37), (16, 16))]


@pytest.mark.parametrize("policy", POLICIES)
def test_an_equal_grid_is_left_alone(policy: str) -> None:
    table = torch.randn(1, 1 + 24, 8)
    assert resample_positions(table, (4, 6), (4, 6), policy, num_prefix=1) is table


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_prefix_rows_stay_and_rows_run_line_by_line(old: tuple[int, int], new: tuple[int, int]) -> None:
    table = torch.randn(1, 2 + math.prod(old), 8)
    out = resample_positions(table, old, new, "bicubic", num_prefix=2)
    assert out.shape == (1, 2 + math.prod(new), 8)
    assert torch.equal(out[:, :2], table[:, :2])
    # A table that only counts rows keeps counting rows.
    rows = torch.arange(old[0]).float().repeat_interleave(old[1])[None, :, None]
    grown = resample_grid(rows, old, new, "bilinear_align_corners").reshape(new)
    expected = torch.linspace(0, old[0] - 1, new[0])[:, None].expand(new)
    torch.testing.assert_close(grown, expected)


def test_policies_differ_from_each_other() -> None:
    table = torch.randn(1, 225, 8)
    for new in ((7, 7), (25, 25)):
        results = [resample_grid(table, (15, 15), new, policy) for policy in POLICIES]
        for i, a in enumerate(results):
            for b in results[:i]:
                # Antialiasing acts only where the grid shrinks; bicubic kernels differ (a = -0.75 and -0.5) as well.
                assert not torch.allclose(a, b, atol=1e-3)


def test_low_precision_tables_are_resampled_in_float32() -> None:
    table = torch.randn(1, 16, 8)
    out = resample_grid(table.bfloat16(), (4, 4), (6, 6), "bicubic")
    assert out.dtype == torch.bfloat16
    expected = F.interpolate(table.bfloat16().float().reshape(1, 4, 4, 8).permute(0, 3, 1, 2), (6, 6), mode="bicubic")
    torch.testing.assert_close(out, expected.flatten(2).transpose(1, 2).bfloat16())


def test_sincos_is_its_definition() -> None:
    table = sincos_positions((3, 5), 16)[0].reshape(3, 5, 16)
    for row in range(3):
        for column in range(5):
            expected = []
            for position in (column, row):
                angles = [position / 10000 ** (i / 4) for i in range(4)]
                expected += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            torch.testing.assert_close(table[row, column], torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.peer
def test_sincos_is_that_of_mae_in_transformers() -> None:
    from transformers import ViTMAEConfig, ViTMAEModel

    config = ViTMAEConfig(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=56, patch_size=8
    )
    theirs = ViTMAEModel(config).embeddings
    theirs.patch_embeddings.projection._is_hf_initialized = False
    theirs.initialize_weights()
    expected = theirs.position_embeddings
    torch.testing.assert_close(sincos_positions((7, 7), 48), expected[:, 1:].detach(), atol=1e-6, rtol=0)


def test_rotation_is_its_definition() -> None:
    x = torch.randn(1, 1, 2 + 3 * 5, 8, dtype=torch.float64)
    turned = rotate(x, rotation((3, 5), 8, num_prefix=2))
    assert torch.equal(turned[:, :, :2], x[:, :, :2])
    for row in range(3):
        for column in range(5):
            centre = 2 * (row + 0.5) / 3 - 1, 2 * (column + 0.5) / 5 - 1
            angles = [2 * math.pi * place / period for place in centre for period in (1, 10)]  # 100 to the 0 and 1/2
            before, after = (tensor[0, 0, 2 + 5 * row + column].tolist() for tensor in (x, turned))
            for i, angle in enumerate(angles):
                expected = complex(before[i], before[i + 4]) * cmath.exp(1j * angle)
                assert complex(after[i], after[i + 4]) == pytest.approx(expected, abs=5e-6)


def test_low_precision_is_turned_in_float32() -> None:
    x, turn = torch.randn(2, 3, 1 + 24, 16).bfloat16(), rotation((4, 6), 16, num_prefix=1)
    turned = rotate(x, turn)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(x.float(), turn).bfloat16())
