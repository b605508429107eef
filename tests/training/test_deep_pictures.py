"""Pictures of 16 bits, of floats and of five channels are learnt from, and answered about as they were in training."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

import vitkit
from small import PREPROCESS, picture_file, small_folder
from vitkit import Preprocess
from vitkit.api.train import train
from vitkit.data.augment import Augmentation, AugmentSpec
from vitkit.data.depth import find_value_range
from vitkit.data.sources.arrays import read_arrays
from vitkit.data.sources.folder import read_folder
from vitkit.data.store import make_store
from vitkit.errors import ConfigError, DataError
from vitkit.image.decode import decode
from vitkit.image.preprocess import fit

SETTINGS = {"epochs": 2, "batch_size": 8, "dtype": "float32"}


def bright_sides(count: int, channels: int, low: float, high: float, dtype: str, *, step: float = 0.3) -> NDArray[Any]:
    """Left or right half brighter, by turns, by a `step` of the range: [n, 16, 16, C] within low..high."""
    rng = np.random.default_rng(0)
    unit = rng.uniform(0.4, 0.4 + step, (count, 16, 16, channels))
    unit[::2, :, :8] += step
    unit[1::2, :, 8:] += step
    unit[:, 0, 0], unit[:, 0, 1] = 0, 1
    return np.asarray(low + unit * (high - low), dtype)


def write(folder: Path, pictures: NDArray[Any], kind: str) -> Path:
    for at, picture in enumerate(pictures):
        path = folder / "ab"[at % 2] / f"{at}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "npy":
            np.save(path, picture)
        elif kind == "png":
            Image.fromarray(picture[..., 0]).save(path)
        else:
            options = {"planarconfig": "contig"} if picture.shape[2] > 1 else {}
            tifffile.imwrite(path, picture, photometric="minisblack", **options)
    return folder


KINDS = {
    "16-bit grey PNG": ("png", 1, 0, 4095, "uint16", (0.0, 4095.0)),
    "16-bit TIFF of five channels": ("tif", 5, 0, 65535, "uint16", (0.0, 65535.0)),
    "float TIFF": ("tif", 1, -3, 5, "float32", (-3.0, 5.0)),
    "8-bit arrays of five channels": ("npy", 5, 0, 255, "uint8", None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_they_train_and_round_trip_through_a_checkpoint(kind: str, tmp_path: Path) -> None:
    ending, channels, low, high, dtype, value_range = KINDS[kind]
    pictures = bright_sides(24, channels, low, high, dtype)
    folder = write(tmp_path / "data", pictures, ending)
    result = train(folder, output=tmp_path / "run", settings=SETTINGS)
    run = json.loads((tmp_path / "run" / "run.json").read_text())["run"]
    assert run["preprocess"].get("value_range") == (None if value_range is None else list(value_range))
    assert run["spec"]["spec"]["in_channels"] == channels

    loaded = vitkit.load(result.model)
    files = sorted(folder.glob("*/*"))
    logits = [answer.logits for answer in loaded.answers(files)]
    assert vitkit.load(result.model).classify(files[0])[0].probability == loaded.classify(files[0])[0].probability
    by_hand = loaded.module(np_to_model(loaded, pictures[int(files[0].stem)])).detach().numpy()
    assert logits[0] is not None and np.allclose(by_hand, logits[0], rtol=1e-4, atol=1e-5)
    loaded.module.save_pretrained(tmp_path / "again")
    again = [answer.logits for answer in vitkit.load(tmp_path / "again").answers(files)]
    assert np.array_equal(logits, again)
    assert loaded.explain(files[0]).overlay().dtype == np.uint8
    assert all(stage.agrees for stage in vitkit.verify(tmp_path / "again").stages)


def np_to_model(predictor: Any, picture: NDArray[Any]) -> Any:
    """The picture at its own size, by the plainest arithmetic."""
    low, high = predictor.card.preprocess.value_range or (0, 255)
    unit = (picture.astype(np.float64) - low) / (high - low)
    return torch.from_numpy((unit - 0.5) / 0.5).float().permute(2, 0, 1)[None]


def test_what_8_bits_cannot_show_is_in_the_pixels(tmp_path: Path) -> None:
    folder = write(tmp_path, bright_sides(40, 1, 0, 65535, "uint16", step=0.001), "png")
    samples = read_folder(folder)
    pixels = make_store(samples, preprocess(1, (0, 65535)), training=False).take(np.arange(40))
    assert pixels.dtype == np.uint16
    left, right = pixels[:, 2:, :8].mean((1, 2, 3)), pixels[:, 2:, 8:].mean((1, 2, 3))
    assert ((left > right + 32) == (samples.labels == 0)).all()  # an eighth of a step of 8 bits
    assert ((left < right - 32) == (samples.labels == 1)).all()


def preprocess(channels: int, value_range: tuple[float, float] | None) -> Preprocess:
    return Preprocess(
        size=16,
        resize="squash",
        crop="none",
        interpolation="bicubic",
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        value_range=value_range,
    )


@pytest.mark.parametrize(
    ("pictures", "wanted"),
    [
        ([np.uint16([[3, 900]]), np.uint16([[1023, 0]])], (0, 1023)),
        ([np.uint16([[3, 1024]])], (0, 2047)),
        ([np.uint16([[0, 0]])], (0, 1)),
        ([np.int16([[-1024, 5]]), np.int16([[3000, 0]])], (-1024, 3000)),
        ([np.int32([[7, 70000]])], (0, 131071)),
        ([np.float32([[0.2, 0.7]])], (0, 1)),
        ([np.float32([[0.2, np.nan]]), np.float64([[1.5, -2.5]])], (-2.5, 1.5)),
        ([np.float32([[7, 7]])], (7, 8)),
    ],
)
def test_the_range_holds_all_there_is(pictures: list[NDArray[Any]], wanted: tuple[float, float]) -> None:
    assert find_value_range(read_arrays(pictures, [0] * len(pictures), "a")) == wanted


def test_pictures_of_other_depth_and_channels_are_all_named_before_the_first_step(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for part in ("train", "val"):
        write(folder / part, bright_sides(12, 5, 0, 65535, "uint16"), "tif")
    Image.new("RGB", (16, 16)).save(folder / "val" / "a" / "rgb.png")
    np.save(folder / "val" / "b" / "four.npy", np.zeros((16, 16, 4), np.uint16))
    with pytest.raises(DataError) as refusal:
        train(folder, output=tmp_path / "run", settings=SETTINGS)
    assert "rgb.png holds uint8; the model reads deeper samples, 0 to 65535" in str(refusal.value)
    assert "four.npy has 4 channels; the model takes 5" in str(refusal.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stray", ["a/00.png", "b/zz.png"])
def test_mixed_depths_are_one_error_wherever_the_odd_one_stands(stray: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for at in range(24):
        picture_file(folder / "ab"[at % 2] / f"{at + 10}.png", 16, 16, seed=at)
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(folder / stray)
    with pytest.raises(DataError) as refusal:
        train(folder, output=tmp_path / "run", settings=SETTINGS)
    wanted = rf".*{stray} hold more than 8 bits, and .*\.png.* 8; a model reads one of both: save all in one depth"
    assert re.search(wanted, str(refusal.value)) and "holds uint8" not in str(refusal.value)


def test_a_run_goes_on_in_its_range_and_another_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", bright_sides(24, 1, 0, 1000, "uint16"), "png")
    run = train(folder, output=tmp_path / "run", settings=SETTINGS, value_range=(0, 2000)).folder
    assert vitkit.load(run / "model").card.preprocess.value_range == (0, 2000)
    train(resume=run)
    with pytest.raises(ConfigError, match=r"preprocess.value_range: \(0.0, 2000.0\), now \(0.0, 1000.0\)"):
        train(resume=run, value_range=(0, 1000))


def test_a_checkpoint_of_8_bits_learns_from_16(tmp_path: Path) -> None:
    small_folder(tmp_path / "start")
    folder = write(tmp_path / "data", bright_sides(24, 1, 0, 65535, "uint16"), "png")
    result = train(folder, model=tmp_path / "start", output=tmp_path / "run", settings=SETTINGS)
    card = vitkit.load(result.model).card
    assert card.preprocess.value_range == (0, 65535) and card.preprocess.channels == 3


def test_augmentation_sees_the_same_picture_whatever_its_depth() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 5), dtype=np.uint8)
    deep = pixels.astype(np.uint16) * 257
    for spec in (AugmentSpec(), AugmentSpec(crop_scale=(0.3, 1), flip=0.5, rotate=20, brightness=0.3, contrast=0.3)):
        augmentation = Augmentation(spec, (16, 16), (12, 12))
        record = augmentation.draw(0, 0, np.arange(4))
        seen = [augmentation.apply(record, torch.from_numpy(each)) for each in (pixels, deep)]
        assert torch.allclose(*seen, rtol=0, atol=1e-6)


def test_a_large_jpeg_is_decoded_smaller_for_training_alone(tmp_path: Path) -> None:
    for name, side in (("large", 400), ("small", 100)):
        picture_file(tmp_path / "a" / f"{name}.jpg", side, side + 20)
    samples, wanted = read_folder(tmp_path), dataclasses.replace(PREPROCESS, size=64, resize_size=64)
    for limit in (None, 0):
        trained = make_store(samples, wanted, training=True, memory_limit_bytes=limit).take(np.arange(2))
        judged = make_store(samples, wanted, training=False, memory_limit_bytes=limit).take(np.arange(2))
        exact = [fit(wanted, decode(picture)) for picture in samples.pictures]
        assert np.array_equal(judged, exact) and np.array_equal(trained[1], exact[1])
        difference = np.abs(trained[0].astype(int) - exact[0])
        assert 0 < difference.max() < 16 and difference.mean() < 2
