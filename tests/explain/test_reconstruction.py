"""Reconstructions: what is hidden, painted and shown, by seed, from Python and the command line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from small import PREPROCESS, SMALL, picture, picture_file, randomise, small_folder
from vitkit import ConfigError, EngineError, ImageError, Predictor, Preprocess
from vitkit.cli import main
from vitkit.image.decode import Pixels
from vitkit.model.mae import MaskedAutoencoder

DECODER: dict[str, Any] = {"decoder_dim": 24, "decoder_depth": 2, "decoder_heads": 3, "decoder_mlp_dim": 40}


def mae_folder(folder: Path, preprocess: Preprocess = PREPROCESS, **changes: Any) -> Path:
    """A native checkpoint of a random masked autoencoder of 16 patches."""
    mae = MaskedAutoencoder(**{**SMALL, "num_classes": 0, **DECODER, **changes})
    randomise(mae)
    mae.save_pretrained(folder, preprocess=preprocess)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mae_folder(tmp_path_factory.mktemp("models") / "mae")


@pytest.fixture(scope="module")
def mae(folder: Path) -> Predictor:
    return vitkit.load(folder, device="cpu")


def squares(shown: Pixels) -> Pixels:
    """A picture [32, 32, C] as its patches [4, 4, 8, 8, C]."""
    return shown.reshape(4, 8, 4, 8, -1).transpose(0, 2, 1, 3, 4)


def test_hidden_patches_are_the_mean_colour_and_painted_from_the_prediction(mae: Predictor) -> None:
    found = mae.reconstruct(picture())
    assert found.mask.sum() == 12 and found.mask.shape == (4, 4)
    for shown in (found.original, found.masked, found.reconstructed, found.painted):
        assert shown.dtype == np.uint8 and shown.shape == (32, 32, 3)
    mean = np.round(255 * np.array(PREPROCESS.mean))
    assert (squares(found.masked)[found.mask] == mean).all()
    for shown in (found.masked, found.painted):
        assert np.array_equal(squares(shown)[~found.mask], squares(found.original)[~found.mask])
    assert np.array_equal(squares(found.painted)[found.mask], squares(found.reconstructed)[found.mask])
    assert (squares(found.reconstructed) != squares(found.original)).any(axis=(2, 3, 4)).all()
    assert found.caption == f"12 of 16 patches hidden, mean squared error {found.loss:.4g}"


def test_the_seed_draws_the_patches_and_nothing_else_does(mae: Predictor) -> None:
    torch.manual_seed(1)
    first = mae.reconstruct(picture(), seed=3)
    torch.manual_seed(2)
    again, other = mae.reconstruct(picture(), seed=3), mae.reconstruct(picture(), seed=4)
    assert np.array_equal(first.painted, again.painted) and first.loss == again.loss
    assert np.array_equal(mae.reconstruct(picture(seed=1), seed=3).mask, first.mask)
    assert not np.array_equal(other.mask, first.mask)


def test_any_share_may_be_hidden_none_too(mae: Predictor) -> None:
    half = mae.reconstruct(picture(), mask_ratio=0.5)
    assert half.mask.sum() == 8
    none = mae.reconstruct(picture(), mask_ratio=0)
    assert (none.loss, none.caption) == (None, "0 of 16 patches hidden")
    assert np.array_equal(none.painted, none.original) and np.array_equal(none.masked, none.original)


def test_it_works_at_another_size_in_low_precision_and_on_one_or_many_channels(tmp_path: Path, folder: Path) -> None:
    wide = vitkit.load(folder, image_size=(32, 48), device="cpu", dtype="bfloat16").reconstruct(picture())
    assert wide.mask.shape == (4, 6) and wide.painted.shape == (32, 48, 3)
    for channels in (1, 5):
        statistics = {"mean": (0.5,) * channels, "std": (0.5,) * channels}
        preprocess = dataclasses.replace(PREPROCESS, **statistics)
        mae_folder(tmp_path / str(channels), preprocess, in_channels=channels)
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, channels), dtype=np.uint8)
        found = vitkit.load(tmp_path / str(channels), device="cpu").reconstruct(pixels)
        assert found.painted.shape == (32, 32, 1)
        found.save(tmp_path / "mae.png")


def test_what_cannot_be_reconstructed_is_said(mae: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a ViT has no decoder to reconstruct pictures with"):
        vitkit.load(small_folder(tmp_path / "vit"), device="cpu").reconstruct(picture())
    for options, said in [({"mask_ratio": 1.0}, "mask_ratio is 1.0"), ({"seed": -1}, "seed is -1; allowed")]:
        with pytest.raises(ConfigError, match=said):
            mae.reconstruct(picture(), **options)
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        mae.reconstruct("gone.jpg")
    damaged = vitkit.load(mae_folder(tmp_path / "mae"), device="cpu")
    with torch.no_grad():
        damaged.module.decoder.pred.bias.fill_(torch.nan)
    with pytest.raises(EngineError, match="aren't finite"):
        damaged.reconstruct(picture())


def test_the_png_shows_four_pictures_in_a_row(mae: Predictor, tmp_path: Path) -> None:
    found = mae.reconstruct(picture())
    found.save(tmp_path / "mae.png")
    with Image.open(tmp_path / "mae.png") as image:
        sheet = np.asarray(image)
    side, gap = 224, 12
    for number, shown in enumerate((found.original, found.masked, found.reconstructed, found.painted)):
        left = gap + number * (side + gap)
        assert np.array_equal(sheet[gap : gap + side : 7, left : left + side : 7], shown)
    assert sheet.shape[1] == 4 * (side + gap) + gap
    with pytest.raises(ConfigError, match=r"end in \.png"):
        found.save(tmp_path / "mae.jpg")


def test_the_command_writes_what_python_shows(
    mae: Predictor, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = picture_file(tmp_path / "p" / "a.png"), picture_file(tmp_path / "p" / "b.jpg", seed=1)
    found = mae.reconstruct(one, mask_ratio=0.5, seed=7)
    found.save(tmp_path / "python.png")
    options = ["-m", str(folder), "--mask-ratio", "0.5", "--seed", "7"]
    assert main(["reconstruct", str(one), "-o", str(tmp_path / "mae.png"), *options]) == 0
    assert capsys.readouterr().out.splitlines()[1].strip() == found.caption
    assert (tmp_path / "mae.png").read_bytes() == (tmp_path / "python.png").read_bytes()
    assert main(["reconstruct", str(one), str(other), "-o", str(tmp_path / "all"), "--json", *options]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(row["output"]).name for row in rows] == ["a-reconstructed.png", "b-reconstructed.png"]
    facts = {"mask_ratio": 0.5, "seed": 7, "hidden": 8, "loss": found.loss, "engine": "torch float32 on cpu"}
    assert rows[0] == {"picture": str(one), "output": rows[0]["output"], **facts, "model": str(folder)}


def test_the_command_refuses_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, vit = picture_file(tmp_path / "a.png"), small_folder(tmp_path / "vit")
    for options, said in [
        (["-o", str(tmp_path / "mae.png"), "-m", str(vit)], "a ViT has no decoder"),
        (["-o", str(one), "-m", str(vit)], "is the picture itself"),
        (["-o", str(tmp_path / "mae.png")], "Missing option '--model'"),
    ]:
        assert main(["reconstruct", str(one), *options]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "mae.png").exists()
