"""Pixels equal timm's evaluation transform and transformers' Pillow processors on real photos, bit for bit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_data_config
from transformers import AutoImageProcessor
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.dinov3_vit.image_processing_dinov3_vit import DINOv3ViTImageProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from vitkit.image.decode import Pixels, decode
from vitkit.image.preprocess import Preprocess, apply, fit, normalize
from vitkit.image.sources import from_timm, from_transformers, to_timm, to_transformers

pytestmark = pytest.mark.peer

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

TIMM_SETTINGS: dict[str, dict[str, Any]] = {
    "crop .9 bicubic": {"input_size": (3, 224, 224), "crop_pct": 0.9, "interpolation": "bicubic", **HALF},
    "crop .875 bilinear": {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bilinear", **IMAGENET},
    "timm's defaults, odd size": {"input_size": (3, 225, 225)},
    "squash": {"input_size": (3, 240, 240), "crop_pct": 1.0, "crop_mode": "squash", **HALF},
    "384, no margin": {"input_size": (3, 384, 384), "crop_pct": 1.0, "crop_mode": "center", **HALF},
    "not square": {"input_size": (3, 160, 257), "crop_pct": 0.95, "crop_mode": "center", **IMAGENET},
}

# The class, and a preprocessor_config.json as the Hub has them.
PROCESSORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ViT, size a number": (
        ViTImageProcessorPil,
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    ),
    "Swin, bicubic": (
        ViTImageProcessorPil,
        {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": 160, "width": 129},
            "resample": 3,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    ),
    "BEiT, crop_size without effect": (
        BeitImageProcessorPil,
        {
            "feature_extractor_type": "BeitFeatureExtractor",
            "size": 224,
            "crop_size": 200,
            "do_center_crop": False,
            "resample": 2,
        },
    ),
    "DINOv2": (
        BitImageProcessorPil,
        {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": 256},
            "crop_size": {"height": 224, "width": 224},
            "resample": 3,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    ),
    "DeiT, odd margin": (
        DeiTImageProcessorPil,
        {"feature_extractor_type": "DeiTFeatureExtractor", "size": 255, "crop_size": 220, "resample": 3},
    ),
    "CLIP, its defaults but an odd crop": (
        CLIPImageProcessorPil,
        {"image_processor_type": "CLIPImageProcessorFast", "size": 224, "crop_size": 221},
    ),
}
SMALL_PROCESSORS: dict[str, tuple[Any, dict[str, Any]]] = {
    **PROCESSORS,
    "SigLIP": (SiglipImageProcessorPil, {"image_processor_type": "SiglipImageProcessor"}),
    "ConvNeXT, crops": (ConvNextImageProcessorPil, {"image_processor_type": "ConvNextImageProcessor", "size": 224}),
    "ConvNeXT, squashes": (
        ConvNextImageProcessorPil,
        {"image_processor_type": "ConvNextFeatureExtractor", "size": {"shortest_edge": 384}},
    ),
    "pads": (BitImageProcessorPil, {"image_processor_type": "BitImageProcessor", "size": 64, "crop_size": 131}),
    "does not resize": (
        BitImageProcessorPil,
        {"image_processor_type": "BitImageProcessor", "do_resize": False, "crop_size": 57},
    ),
}
OTHER_SCALES: dict[str, dict[str, Any]] = {
    "neither rescales nor normalises": {
        "image_processor_type": "ViTImageProcessor",
        "do_rescale": False,
        "do_normalize": False,
    },
    "rescales to 0..2": {
        "image_processor_type": "ViTImageProcessor",
        "rescale_factor": 1 / 127.5,
        "image_mean": [1, 1, 1],
        "image_std": [1, 1, 1],
    },
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """timm's transform is many small operations, over which torch's threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def photos(folder: Path) -> dict[str, Pixels]:
    """The 200 photos and 18 EXIF pictures, decoded once."""
    paths = [
        *sorted((folder / "data/photos").glob("*.JPEG")),
        *sorted((folder / "data/exif-orientation").glob("*.jpg")),
    ]
    assert len(paths) == 218
    return {path.name: decode(path) for path in paths}


def small_pictures() -> list[Pixels]:
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 9), (7, 1), (61, 60), (60, 61), (131, 97), (97, 263), (400, 301)]
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def timm_pixels(transform: Any, rgb: Pixels) -> tuple[NDArray[Any], NDArray[Any]]:
    """Their uint8 [h, w, C] after the last step that gives a PIL image, and their float32 [C, h, w]."""
    value: Any = Image.fromarray(rgb)
    for step in transform.transforms:
        value = step(value)
        if isinstance(value, Image.Image):
            fitted = np.asarray(value)
    return fitted, value.numpy()


def processor_pixels(processor: Any, rgb: Pixels) -> tuple[NDArray[Any], NDArray[Any]]:
    """Their uint8 [h, w, C] after resize and crop, and their float32 [C, h, w] from that."""
    fitted = processor(Image.fromarray(rgb), do_rescale=False, do_normalize=False)["pixel_values"][0]
    fitted = np.ascontiguousarray(np.moveaxis(fitted, 0, -1))
    values = processor(Image.fromarray(fitted), do_resize=False, do_center_crop=False)["pixel_values"][0]
    return fitted, np.asarray(values)


def timm_transform(cfg: dict[str, Any]) -> Any:
    return create_transform(**resolve_data_config(pretrained_cfg=cfg), is_training=False)


def check(preprocess: Preprocess, rgb: Pixels, theirs: tuple[NDArray[Any], NDArray[Any]]) -> None:
    fitted, values = theirs
    ours = fit(preprocess, rgb)
    assert fitted.dtype == np.uint8
    assert np.array_equal(ours, fitted)
    assert np.array_equal(normalize(preprocess, ours), values)


@pytest.mark.shared
@pytest.mark.parametrize("setting", TIMM_SETTINGS)
def test_photos_equal_timms_evaluation_transform(setting: str, shared: Path) -> None:
    cfg = TIMM_SETTINGS[setting]
    preprocess, transform = from_timm(cfg), timm_transform(cfg)
    for rgb in photos(shared).values():
        check(preprocess, rgb, timm_pixels(transform, rgb))


@pytest.mark.shared
@pytest.mark.parametrize("setting", PROCESSORS)
def test_photos_equal_transformers_pillow_processors(setting: str, shared: Path) -> None:
    kind, cfg = PROCESSORS[setting]
    preprocess, processor = from_transformers(cfg), kind(**cfg)
    for rgb in photos(shared).values():
        check(preprocess, rgb, processor_pixels(processor, rgb))


@pytest.mark.shared
def test_the_other_crop_rule_changes_pixels_of_real_photos(shared: Path) -> None:
    """Shows that the comparisons above can fail."""
    rounded = from_timm(TIMM_SETTINGS["crop .9 bicubic"])
    floored = dataclasses.replace(rounded, crop="center_floor")
    some = list(photos(shared).values())[:40]
    assert 0 < sum(not np.array_equal(fit(rounded, rgb), fit(floored, rgb)) for rgb in some) < 20


@pytest.mark.parametrize("setting", TIMM_SETTINGS)
def test_small_and_thin_pictures_equal_timm_also_where_they_are_padded(setting: str) -> None:
    for crop_pct in (TIMM_SETTINGS[setting].get("crop_pct"), 1.1):
        cfg = {**TIMM_SETTINGS[setting], "crop_pct": crop_pct}
        for rgb in small_pictures():
            check(from_timm(cfg), rgb, timm_pixels(timm_transform(cfg), rgb))


@pytest.mark.parametrize("setting", SMALL_PROCESSORS)
def test_small_and_thin_pictures_equal_transformers_also_where_they_are_padded(setting: str) -> None:
    kind, cfg = SMALL_PROCESSORS[setting]
    for rgb in small_pictures():
        check(from_transformers(cfg), rgb, processor_pixels(kind(**cfg), rgb))


@pytest.mark.parametrize("setting", OTHER_SCALES)
def test_other_scales_give_the_same_pixels_but_for_rounding(setting: str) -> None:
    cfg = OTHER_SCALES[setting]
    for rgb in small_pictures():
        values = processor_pixels(ViTImageProcessorPil(**cfg), rgb)[1]
        np.testing.assert_allclose(apply(from_transformers(cfg), rgb), values, rtol=3e-7, atol=3e-7)


def test_every_value_under_every_statistic_of_timm_normalises_to_the_same_bits_as_transformers() -> None:
    cfgs = [timm.get_pretrained_cfg(name).to_dict() for name in timm.list_models("vit_*patch16*", pretrained=True)]
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    statistics = {(tuple(cfg["mean"]), tuple(cfg["std"])) for cfg in cfgs}
    assert len(statistics) > 2
    for mean, std in statistics:
        preprocess = Preprocess(size=(256, 1), resize="none", crop="none", interpolation="box", mean=mean, std=std)
        processor = ViTImageProcessorPil(do_resize=False, image_mean=list(mean), image_std=list(std))
        assert np.array_equal(apply(preprocess, ramp), processor_pixels(processor, ramp)[1])


def test_dinov3_rescales_before_it_resizes() -> None:
    cfg = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 48, "width": 80}}
    preprocess = from_transformers(cfg)
    uint8_first = dataclasses.replace(preprocess, order="resize_first")
    processor = DINOv3ViTImageProcessor(**cfg)
    for rgb in small_pictures():
        theirs = processor(torch.from_numpy(np.moveaxis(rgb, -1, 0).copy()), return_tensors="np")["pixel_values"][0]
        # torch computes its filter weights in float32, Pillow in float64.
        assert np.abs(apply(preprocess, rgb) - theirs).max() <= 2e-5
    assert np.abs(apply(uint8_first, rgb) - theirs).max() > 1e-3


@pytest.mark.parametrize("setting", TIMM_SETTINGS)
def test_timm_builds_the_same_transform_from_what_to_timm_says(setting: str) -> None:
    preprocess = from_timm(TIMM_SETTINGS[setting])
    said = to_timm(preprocess)
    assert said is not None
    assert from_timm(json.loads(json.dumps(said))) == preprocess
    rgb = small_pictures()[-1]
    check(preprocess, rgb, timm_pixels(timm_transform(said), rgb))


def test_every_pretrained_cfg_of_timm_comes_back_with_its_crop_pct_or_an_equal_one() -> None:
    cfgs = [timm.get_pretrained_cfg(name).to_dict() for name in timm.list_models(pretrained=True)]
    taken = [cfg for cfg in cfgs if cfg["crop_mode"] != "border" and cfg["input_size"][0] == len(cfg["mean"])]
    assert len(taken) > 1000
    for cfg in taken:
        preprocess = from_timm(cfg)
        said = to_timm(preprocess)
        assert said is not None
        assert from_timm(said) == preprocess


@pytest.mark.parametrize("setting", SMALL_PROCESSORS)
def test_auto_image_processor_loads_what_to_transformers_says(setting: str, tmp_path: Path) -> None:
    preprocess = from_transformers(SMALL_PROCESSORS[setting][1])
    said = to_transformers(preprocess)
    assert said is not None
    assert from_transformers(said) == preprocess
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert type(processor).__name__ == f"{said['image_processor_type']}Pil"
    rgb = small_pictures()[-1]
    check(preprocess, rgb, processor_pixels(processor, rgb))
