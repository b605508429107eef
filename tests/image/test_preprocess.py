"""Preprocess is checked when it is made, survives files, and gives the pixels of closed forms and of Pillow."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitkit.config import from_dict, to_dict
from vitkit.errors import ConfigError, ImageError
from vitkit.image.preprocess import Preprocess, apply, fit, normalize
from vitkit.image.sources import from_timm, from_transformers, to_timm, to_transformers

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make(**changes: Any) -> Preprocess:
    fields: dict[str, Any] = {
        "size": 8,
        "resize": "squash",
        "crop": "none",
        "interpolation": "bilinear",
        "mean": MEAN,
        "std": STD,
    }
    return Preprocess(**{**fields, **changes})


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_sizes_become_pairs_and_statistics_tuples_of_floats() -> None:
    preprocess = make(size=8, mean=[0, 0, 0], std=[1, 1, 1])
    assert preprocess.size == preprocess.resize_size == (8, 8)
    assert preprocess.mean == (0.0, 0.0, 0.0) and isinstance(preprocess.mean[0], float)
    assert preprocess.channels == 3
    assert make(size=[4, 6]).size == (4, 6)
    assert make(resize="none", crop="center_floor").resize_size is None
    assert hash(make()) == hash(make(resize_size=(8, 8)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 0}, "size is 0;"),
        ({"size": True}, "size is True;"),
        ({"size": (8, -1)}, "size is (8, -1);"),
        ({"size": (8, 8, 8)}, "size is (8, 8, 8);"),
        ({"size": 8.0}, "size is 8.0;"),
        ({"size": 10**6}, "within 1..65535"),
        ({"resize_size": "big", "crop": "center_round"}, "resize_size is 'big';"),
        ({"resize": "longest"}, "resize is 'longest'; allowed: shortest, squash, none"),
        ({"crop": "corner"}, "crop is 'corner'"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'"),
        ({"order": "whenever"}, "order is 'whenever'"),
        ({"mean": (0.5,)}, "mean has 1 values and std 3"),
        ({"mean": (), "std": ()}, "mean is ()"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean is (0.5, 0.5, nan)"),
        ({"std": (1, 1, float("inf"))}, "std is (1, 1, inf)"),
        ({"std": (1, 0, 1)}, "std is (1.0, 0.0, 1.0)"),
        ({"std": "0.5"}, "std is '0.5'"),
        ({"resize": "none", "resize_size": 8}, "leave one of them out"),
        ({"resize": "shortest"}, "set crop"),
        ({"resize_size": 10}, "resize_size (10, 10) isn't size (8, 8)"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**changes)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


settings = st.fixed_dictionaries(
    {
        "size": st.tuples(st.integers(1, 40), st.integers(1, 40)),
        "resize": st.sampled_from(["shortest", "squash"]),
        "resize_size": st.tuples(st.integers(1, 40), st.integers(1, 40)),
        "crop": st.sampled_from(["center_round", "center_floor"]),
        "interpolation": st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
        "order": st.sampled_from(["resize_first", "rescale_first"]),
    }
)


@given(settings)
def test_a_preprocess_survives_json(fields: dict[str, Any]) -> None:
    preprocess = make(**fields)
    assert from_dict(Preprocess, json.loads(json.dumps(to_dict(preprocess))), origin="test") == preprocess


def test_files_may_give_a_side_for_a_square_and_no_resize_size() -> None:
    data = {key: value for key, value in to_dict(make()).items() if key not in ("resize_size", "order")}
    assert from_dict(Preprocess, {**data, "size": 8}, origin="test") == make()
    with pytest.raises(ConfigError, match=r"m\.toml: .*size is '8'"):
        from_dict(Preprocess, {**data, "size": "8"}, origin="m.toml")
    with pytest.raises(ConfigError, match=r"m\.toml: std is"):
        from_dict(Preprocess, {**data, "std": [0, 0, 0]}, origin="m.toml")


@given(settings, st.integers(1, 30), st.integers(1, 30))
def test_every_picture_from_1x1_on_gets_the_models_size(fields: dict[str, Any], height: int, width: int) -> None:
    preprocess = make(**fields)
    values = apply(preprocess, noise(height, width))
    assert values.shape == (3, *preprocess.size)
    assert values.dtype == np.float32 and values.flags.c_contiguous and np.isfinite(values).all()
    if preprocess.order == "resize_first":
        fitted = fit(preprocess, noise(height, width))
        assert fitted.dtype == np.uint8 and fitted.flags.writeable and fitted.flags.c_contiguous
        assert np.array_equal(normalize(preprocess, fitted), values)


def test_normalising_is_the_formula_in_float32_for_batches_too() -> None:
    preprocess = make()
    pixels = np.stack([noise(8, 5), noise(8, 5)[::-1]])
    exact = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    values = normalize(preprocess, pixels)
    assert values.shape == (2, 3, 8, 5) and values.dtype == np.float32 and values.flags.c_contiguous
    assert np.abs(values - np.moveaxis(exact, -1, 1)).max() < 1e-6
    assert np.array_equal(normalize(preprocess, pixels[0]), values[0])
    assert normalize(preprocess, pixels[:0]).shape == (0, 3, 8, 5)


def test_the_two_crop_rules_part_at_odd_margins_and_paddings() -> None:
    ramp = np.repeat(np.arange(7, dtype=np.uint8)[None, :, None], 1, axis=0)
    one = {"resize": "none", "mean": (0,), "std": (1,)}

    def cropped(width: int, crop: str) -> list[int]:
        return fit(make(size=(1, width), crop=crop, **one), ramp)[0, :, 0].tolist()

    assert cropped(4, "center_round") == [2, 3, 4, 5]  # 1.5 goes to 2
    assert cropped(4, "center_floor") == [1, 2, 3, 4]
    assert cropped(6, "center_round") == [0, 1, 2, 3, 4, 5]  # 0.5 goes to 0
    assert cropped(10, "center_round") == [0, *range(7), 0, 0]
    assert cropped(10, "center_floor") == [0, 0, *range(7), 0]


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_any_number_of_channels_is_resized_band_by_band(channels: int) -> None:
    preprocess = make(size=(5, 6), mean=(0.5,) * channels, std=(0.5,) * channels, interpolation="bicubic")
    pixels = noise(11, 13, channels)
    fitted = fit(preprocess, pixels)
    for band in range(channels):
        expected = Image.fromarray(pixels[..., band]).resize((6, 5), Image.Resampling.BICUBIC)
        assert np.array_equal(fitted[..., band], np.asarray(expected))
    assert apply(preprocess, pixels).shape == (channels, 5, 6)


def test_rescaling_first_resizes_floats() -> None:
    preprocess = make(size=4, interpolation="box", order="rescale_first", mean=(0, 0, 0), std=(1, 1, 1))
    pixels = noise(8, 8)
    means = pixels.reshape(4, 2, 4, 2, 3).mean((1, 3)) / 255  # a box filter is the mean, not rounded
    assert np.abs(apply(preprocess, pixels) - np.moveaxis(means, -1, 0)).max() < 1e-6
    assert np.abs(fit(preprocess, pixels) - means).max() < 1e-6


@pytest.mark.parametrize("shape", [(1, 65_535), (65_535, 1)])
def test_thin_pictures_are_refused_before_they_grow(shape: tuple[int, int]) -> None:
    with pytest.raises(ImageError) as caught:
        fit(make(size=224, resize="shortest", resize_size=256, crop="center_round"), noise(*shape))
    assert "16,776,960" in str(caught.value) and "crop it first" in str(caught.value)
    assert fit(make(size=16), noise(*shape)).shape == (16, 16, 3)


def test_wrong_pictures_are_refused_with_their_shape() -> None:
    for wrong in (noise(8, 8, 4), noise(8, 8)[0], noise(8, 8).astype(np.float32), np.zeros((0, 8, 3), np.uint8)):
        for function in (fit, apply):
            with pytest.raises(ImageError) as caught:
                function(make(), wrong)
            assert str(list(wrong.shape)) in str(caught.value)
    with pytest.raises(ImageError, match="float32"):
        normalize(make(), noise(8, 8).astype(np.float32))
    with pytest.raises(ImageError, match="give one of 8 x 8"):
        fit(make(resize="none"), noise(8, 9))
    assert np.array_equal(fit(make(resize="none"), noise(8, 8)), noise(8, 8))


def test_what_comes_back_is_not_the_callers_memory() -> None:
    pixels = noise(8, 8)
    fit(make(), pixels)[:] = 0
    for order in ("resize_first", "rescale_first"):
        apply(make(order=order), pixels)[:] = 0
    assert np.array_equal(pixels, noise(8, 8))


@given(settings)
def test_configurations_of_timm_and_transformers_come_back_equal_or_are_declined(fields: dict[str, Any]) -> None:
    preprocess = make(**fields)
    for said, read in ((to_timm(preprocess), from_timm), (to_transformers(preprocess), from_transformers)):
        if said is not None:
            again = read(json.loads(json.dumps(said)))
            if again != preprocess:  # where both crop rules, or no crop, cut the same pixels
                assert preprocess.resize == "squash"
                for shape in ((9, 31), (40, 7)):
                    assert np.array_equal(fit(again, noise(*shape)), fit(preprocess, noise(*shape)))


def test_what_timm_or_transformers_cannot_say_is_declined() -> None:
    crop = {"resize": "shortest", "size": 8, "resize_size": 11}
    assert to_timm(make(**crop, crop="center_floor")) is None
    assert to_transformers(make(**crop, crop="center_round")) is None
    assert to_timm(make(order="rescale_first")) is None
    assert to_timm(make(resize="none")) is None
    assert to_timm(make(size=(8, 4), resize="shortest", resize_size=(8, 9), crop="center_round")) is None
    assert to_transformers(make(size=(8, 4), resize="shortest", crop="center_floor")) is None
    assert to_transformers(make(mean=(0.5,), std=(0.5,))) is None
    assert to_transformers(make(order="rescale_first", resize_size=12, crop="center_floor")) is None


def test_crop_pct_is_the_shortest_decimal_that_gives_the_size() -> None:
    for size, resized, crop_pct in (
        (224, 248, 0.9),
        (224, 256, 0.875),
        (384, 384, 1.0),
        (518, 518, 1.0),
        (224, 235, 0.95),
    ):
        said = to_timm(make(size=size, resize="shortest", resize_size=resized, crop="center_round"))
        assert said is not None and said["crop_pct"] == crop_pct


def test_a_ramp_of_one_timm_channel_statistic_is_repeated() -> None:
    assert from_timm({"input_size": [5, 8, 8], "mean": [0.5], "std": [0.25]}).mean == (0.5,) * 5
    with pytest.raises(ConfigError, match="3 values for 5 channels"):
        from_timm({"input_size": [5, 8, 8]})


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ({"crop_mode": "border"}, "crop_mode is 'border'"),
        ({"crop_pct": -1}, "crop_pct is -1"),
        ({"input_size": [3, 224]}, "input_size is [3, 224]"),
        ({"interpolation": "random"}, "interpolation is 'random'"),
    ],
)
def test_what_timm_says_and_we_do_not_know_is_an_error(cfg: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_timm(cfg)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ({}, "image_processor_type is 'None'"),
        ({"image_processor_type": "ViTImageProcesor"}, "nearest: ViTImageProcessor; known: ViTImageProcessor, "),
        ({"image_processor_type": "ViTImageProcessor", "do_pad": True}, "do_pad is True"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 9}}, "size is {'longest_edge': 9}"),
        ({"image_processor_type": "ViTImageProcessor", "size": "224"}, "size is '224'"),
        ({"image_processor_type": "ViTImageProcessor", "resample": 9}, "resample is 9"),
        ({"image_processor_type": "ViTImageProcessor", "do_center_crop": True}, "crop_size is None"),
        ({"image_processor_type": "ViTImageProcessor", "image_mean": "x"}, "image_mean is 'x'"),
        ({"image_processor_type": "CLIPImageProcessor", "do_center_crop": False}, "set crop"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": [9, 9]}, "needs a shortest_edge"),
    ],
)
def test_what_transformers_says_and_we_do_not_know_is_an_error(cfg: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_transformers(cfg)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_pictures_need_no_torch() -> None:
    code = (
        "import sys, vitkit.image.decode, vitkit.image.fetch, vitkit.image.listing, vitkit.image.sources\n"
        "sys.exit(any(name.split('.')[0] in ('torch', 'torchvision', 'timm') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
