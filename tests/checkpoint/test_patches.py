"""Another patch size: kernels by the pseudo-inverse of resizing, positions once, said in the notes, kept when saved."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vitkit
from small import NAMES, PREPROCESS, SMALL, picture, picture_file, randomise, relative, small_folder
from vitkit import ConfigError, SwinTransformer
from vitkit.api.train import train
from vitkit.cli import main
from vitkit.model.embed import resample_patches
from vitkit.model.mae import MaskedAutoencoder


def resize(patches: Tensor, size: int) -> Tensor:
    """Patches [..., p, p] of another size, each by itself."""
    flat = patches.reshape(-1, 1, *patches.shape[-2:])
    return F.interpolate(flat, (size, size), mode="bicubic", antialias=True).reshape(*patches.shape[:-2], size, size)


def joined(patches: Tensor) -> Tensor:
    """Patches [B, C, h, w, p, p] as pictures [B, C, h*p, w*p]."""
    return patches.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def test_kernels_answer_to_enlarged_patches_as_they_did_to_the_patches() -> None:
    kernels, patches = torch.randn(5, 3, 6, 6).double(), torch.randn(7, 3, 6, 6).double()
    expected = torch.einsum("nchw,dchw->nd", patches, kernels)
    for size in (7, 8, 12, 15):
        found = torch.einsum("nchw,dchw->nd", resize(patches, size), resample_patches(kernels, size))
        assert relative(found, expected) < 1e-12


@pytest.mark.parametrize("size", [1, 4, 7, 11])
def test_on_reduced_patches_no_kernel_comes_nearer(size: int) -> None:
    """Over patches of independent pixels the mean squared error is |w - B^T v|^2: least squares."""
    kernels = torch.randn(2, 1, 12, 12).double()
    matrix = resize(torch.eye(144).double().reshape(144, 12, 12), size).flatten(1)  # B^T, [144, size^2]
    best = torch.linalg.lstsq(matrix, kernels.flatten(1).T, driver="gelsd").solution.T
    assert relative(resample_patches(kernels, size).flatten(1), best) < 1e-10


def test_a_picture_and_its_patches_enlarged_together_get_the_same_tokens(tmp_path: Path) -> None:
    """So far as the picture is enlarged patch by patch; the grid, and with it the positions, stay."""
    vit = vitkit.load(small_folder(tmp_path / "m"), device="cpu")
    larger = vitkit.load(tmp_path / "m", image_size=64, patch_size=16, device="cpu")
    assert larger.spec.grid == vit.spec.grid == (4, 4)
    assert larger.report.notes == (
        "patches: 8 changed to 16, on request, kernels resized by the pseudo-inverse",
        "size: 32x32 changed to 64x64, on request",
    )
    patches = torch.randn(2, 3, 4, 4, 8, 8)
    with torch.no_grad():
        assert relative(larger.module(joined(resize(patches, 16))), vit.module(joined(patches))) < 1e-5


def test_a_swin_transformer_too(tmp_path: Path) -> None:
    swin = SwinTransformer(
        image_size=32, patch_size=4, num_classes=7, embed_dim=8, depths=(1, 1), num_heads=(2, 2), window_size=4
    )
    randomise(swin)
    swin.save_pretrained(tmp_path / "m", preprocess=PREPROCESS)
    larger = vitkit.load(tmp_path / "m", image_size=64, patch_size=8, device="cpu")
    patches = torch.randn(2, 3, 8, 8, 4, 4)
    with torch.no_grad():
        assert relative(larger.module(joined(resize(patches, 8))), swin(joined(patches))) < 1e-5


def test_at_the_same_size_the_grid_changes_and_saving_keeps_it(tmp_path: Path) -> None:
    vit = vitkit.load(small_folder(tmp_path / "m"), patch_size=4, device="cpu")
    assert (vit.spec.image_size, vit.spec.patch_size, vit.spec.grid) == ((32, 32), 4, (8, 8))
    (note,) = vit.report.notes
    assert note.startswith("patches: 8 changed to 4, on request, kernels resized by the pseudo-inverse, ")
    assert note.endswith("positions resampled (bicubic_antialias)")
    assert vit.card.preprocess == PREPROCESS and vit.class_names == NAMES
    out = str(tmp_path / "finer")
    assert main(["convert", str(tmp_path / "m"), "-o", out, "--patch-size", "4"]) == 0
    assert main(["verify", out]) == 0
    again = vitkit.load(out, device="cpu")
    assert np.array_equal(again.embed(picture()), vit.embed(picture())) and not again.report.notes
    assert vitkit.load(out, patch_size=4, device="cpu").report.notes == ()


def test_patches_that_cannot_change_are_said(tmp_path: Path) -> None:
    small = {**SMALL, "num_classes": 0}
    sizes: dict[str, Any] = {"decoder_dim": 24, "decoder_depth": 1, "decoder_heads": 3, "decoder_mlp_dim": 40}
    MaskedAutoencoder(**small, **sizes).save_pretrained(tmp_path / "mae", preprocess=PREPROCESS)
    hybrid = vitkit.VisionTransformer(**{**small, "stem_depths": (1,), "patch_size": 8})
    hybrid.save_pretrained(tmp_path / "hybrid", preprocess=PREPROCESS)
    for name, patch_size, said in [
        ("mae", 4, r"patch_size 4 is asked for, but the decoder of a masked autoencoder paints patches of 8 and 3"),
        ("hybrid", 4, "the patches are cut from what a stem makes"),
        ("plain", 5, "image_size 32x32 is not a multiple of patch_size 5"),
        ("plain", 0, "patch_size is 0, not a whole number"),
    ]:
        if name == "plain" and not (tmp_path / name).exists():
            small_folder(tmp_path / name)
        with pytest.raises(ConfigError, match=said):
            vitkit.load(tmp_path / name, patch_size=patch_size)
    assert vitkit.load(tmp_path / "hybrid", patch_size=8).report.notes == ()
    with pytest.raises(ConfigError, match="in_channels 1 is asked for, but the decoder"):
        vitkit.load(tmp_path / "mae", in_channels=1)


@pytest.mark.parametrize("start", ["checkpoint", "new"])
def test_training_starts_with_other_patches_and_resumes_with_them(start: str, tmp_path: Path) -> None:
    for number in range(12):
        picture_file(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", 32, 32, seed=number)
    options: dict[str, Any] = {"image_size": 32} if start == "new" else {"model": small_folder(tmp_path / "m")}
    settings = {"epochs": 1, "batch_size": 4}
    run = train(tmp_path / "data", patch_size=16, settings=settings, output=tmp_path / "run", **options)
    assert vitkit.load(run.model, device="cpu").spec.patch_size == 16
    assert train(resume=run.folder).scores == run.scores
    with pytest.raises(ConfigError, match="patch_size: 16, now 8"):
        train(resume=run.folder, patch_size=8)
