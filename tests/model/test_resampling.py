"""Matrices for symbolic sizes, against what torch itself resamples."""

from __future__ import annotations

import pytest
import torch

from vitkit.model.position import POLICIES
from vitkit.model.resampling import MATRICES, resample_plane

SIZES = ((1, 1), (3, 9), (5, 7), (7, 5), (9, 15), (13, 5), (27, 31))
"""Odd sides, as planes of differences have them; those of places may be even too."""


def test_there_is_a_matrix_for_each_policy() -> None:
    assert MATRICES.keys() == POLICIES.keys()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [*SIZES, (8, 6), (6, 16), (4, 4)])
def test_a_product_with_matrices_is_torchs_resampling(policy: str, size: tuple[int, int]) -> None:
    if policy == "geometric" and not all(side % 2 and side > 1 for side in size):
        return
    plane = torch.randn(1, 3, 7, 9)
    expected = POLICIES[policy](plane, size)
    assert expected.shape[2:] == size
    assert (resample_plane(plane, size, policy) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_plane_of_the_same_size_stays_to_the_bit(policy: str) -> None:
    plane = torch.randn(1, 3, 7, 9)
    assert torch.equal(resample_plane(plane, (7, 9), policy), plane)
