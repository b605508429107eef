"""Kernels for another patch size are timm's, and so are the answers of a model that is loaded with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.layers import resample_patch_embed

import vitkit
from peers.families.row import timm_folder
from small import relative
from vitkit.model.embed import resample_patches

pytestmark = pytest.mark.peer

TOLERANCE = 1e-5


@pytest.mark.parametrize(("old", "new"), [(16, 8), (16, 12), (16, 15), (16, 17), (16, 32), (14, 16), (32, 7), (4, 1)])
def test_kernels_are_those_of_resample_patch_embed(old: int, new: int) -> None:
    kernels = torch.randn(6, 3, old, old)
    assert relative(resample_patches(kernels, new), resample_patch_embed(kernels, [new, new])) < TOLERANCE


@pytest.mark.parametrize(("patch", "size"), [(8, 64), (32, 64), (12, 96), (16, 64)])
def test_a_checkpoint_loaded_with_other_patches_answers_as_in_timm(patch: int, size: int, tmp_path: Path) -> None:
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 11}
    source = timm_folder(tmp_path / "m", timm.create_model("vit_tiny_patch16_224", img_size=64, **sizes))
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=size, patch_size=patch, **sizes).eval()
    theirs.load_state_dict(checkpoint_filter_fn(source.state_dict(), theirs))
    ours = vitkit.load(tmp_path / "m", patch_size=patch, image_size=size, device="cpu").module
    pixels = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert relative(ours(pixels), theirs(pixels)) < TOLERANCE
