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
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.dinov3_vit.image_processing_dinov3_vit import DINOv3ViTImageProcessor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from vitkit.checkpoint.families import TRANSFORMERS
from vitkit.image.decode import Pixels, decode
from vitkit.image.preprocess import Preprocess, apply, fit, normalize
from vitkit.image.sources import PROCESSOR_OF_MODEL, from_timm, from_transformers, to_timm, to_transformers

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

IMAGENET_STATISTICS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF_STATISTICS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
OPENAI_STATISTICS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
OLD = {"do_resize": True, "do_normalize": True, "size": 224}
OLD_VIT = {**OLD, "feature_extractor_type": "ViTFeatureExtractor", "resample": 2}
OLD_CROP = {**OLD, "do_center_crop": True, "crop_size": 224, "resample": 3}
OLD_BEIT = {
    **OLD,
    **HALF_STATISTICS,
    "feature_extractor_type": "BeitFeatureExtractor",
    "do_center_crop": False,
    "crop_size": 224,  # without effect
    "resample": 2,
}
NEW = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 0.00392156862745098,
    "resample": 3,
}
SQUARE = {"height": 224, "width": 224}

# Repositories of the Hub: config.json's model_type, and preprocessor_config.json.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    # Names neither a class nor a filter.
    "google/vit-base-patch16-224": ("vit", {**OLD, **HALF_STATISTICS}),
    "google/vit-base-patch16-384": ("vit", {**OLD, **HALF_STATISTICS, "size": 384}),
    "facebook/dino-vits16": ("vit", {**OLD_VIT, **IMAGENET_STATISTICS}),
    "facebook/vit-mae-base": ("vit_mae", {**OLD_VIT, **IMAGENET_STATISTICS}),
    "microsoft/swin-tiny-patch4-window7-224": ("swin", {**OLD_VIT, **IMAGENET_STATISTICS, "resample": 3}),
    "microsoft/beit-base-patch16-224": ("beit", OLD_BEIT),
    "microsoft/beit-base-patch16-384": ("beit", {**OLD_BEIT, "crop_size": 384, "size": 384}),
    "facebook/data2vec-vision-base-ft1k": ("data2vec-vision", OLD_BEIT),
    "facebook/deit-base-distilled-patch16-224": (
        "deit",
        {**OLD_CROP, **IMAGENET_STATISTICS, "feature_extractor_type": "DeiTFeatureExtractor", "size": 256},
    ),
    "openai/clip-vit-base-patch32": (
        "clip",
        {**OLD_CROP, **OPENAI_STATISTICS, "feature_extractor_type": "CLIPFeatureExtractor"},
    ),
    "google/siglip-base-patch16-224": (
        "siglip",
        {**NEW, **HALF_STATISTICS, "image_processor_type": "SiglipImageProcessor", "size": SQUARE},
    ),
    "microsoft/swinv2-tiny-patch4-window8-256": (
        "swinv2",
        {
            **NEW,
            **IMAGENET_STATISTICS,
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": 256, "width": 256},
        },
    ),
    "facebook/dinov2-base": (
        "dinov2",
        {
            **NEW,
            **IMAGENET_STATISTICS,
            "image_processor_type": "BitImageProcessor",
            "do_convert_rgb": True,
            "do_center_crop": True,
            "crop_size": SQUARE,
            "size": {"shortest_edge": 256},
        },
    ),
    # Its one processor resizes floats, with torch.
    "facebook/dinov3-vitb16-pretrain-lvd1689m": (
        "dinov3_vit",
        {
            **NEW,
            **IMAGENET_STATISTICS,
            "image_processor_type": "DINOv3ViTImageProcessorFast",
            "do_center_crop": None,
            "crop_size": None,
            "do_convert_rgb": None,
            "resample": 2,
            "size": SQUARE,
        },
    ),
}
# What no repository asks for, but files may: the class of the model's type, and the file.
ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "not square": ("swin", {**NEW, "image_processor_type": "ViTImageProcessor", "size": {"height": 160, "width": 129}}),
    "odd margin": (
        "deit",
        {**OLD_CROP, "feature_extractor_type": "DeiTFeatureExtractor", "size": 255, "crop_size": 220},
    ),
    "its defaults but an odd crop": ("clip", {"image_processor_type": "CLIPImageProcessorFast", "crop_size": 221}),
    "crop_size that would show": ("beit", {**OLD_BEIT, "crop_size": 200}),
    "ConvNeXT crops": ("resnet", {"image_processor_type": "ConvNextImageProcessor", "size": 224}),
    "ConvNeXT squashes": (
        "resnet",
        {"feature_extractor_type": "ConvNextFeatureExtractor", "size": {"shortest_edge": 384}},
    ),
    "pads": ("bit", {"image_processor_type": "BitImageProcessor", "size": 64, "crop_size": 131}),
    "does not resize": ("bit", {"image_processor_type": "BitImageProcessor", "do_resize": False, "crop_size": 57}),
    **{f"the defaults of {kind}": (kind, {}) for kind in PROCESSOR_OF_MODEL if kind != "dinov3_vit"},
}
FLOAT_RESIZE = 1e-4
"""torch computes the weights of its filters in float32, Pillow in float64: 7.6e-5 on the photo where it shows most."""
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


def float_pixels(processor: Any, rgb: Pixels) -> NDArray[Any]:
    """Of a processor that resizes floats with torch: float32 [C, h, w]."""
    picture = torch.from_numpy(np.moveaxis(rgb, -1, 0).copy())
    return np.asarray(processor(picture, return_tensors="np")["pixel_values"][0])


def auto_processor(folder: Path, model_type: str, cfg: dict[str, Any]) -> Any:
    """What transformers takes for a repository with these files: its Pillow processor, or DINOv3's one."""
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "preprocessor_config.json").write_text(json.dumps(cfg))
    return AutoImageProcessor.from_pretrained(folder, backend="torchvision" if model_type == "dinov3_vit" else "pil")


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
@pytest.mark.parametrize("repository", PUBLISHED)
def test_photos_equal_transformers_processors(repository: str, shared: Path, tmp_path: Path) -> None:
    model_type, cfg = PUBLISHED[repository]
    preprocess = from_transformers(cfg, model_type=model_type)
    processor = auto_processor(tmp_path, model_type, cfg)
    for rgb in photos(shared).values():
        if preprocess.order == "rescale_first":
            assert np.abs(apply(preprocess, rgb) - float_pixels(processor, rgb)).max() <= FLOAT_RESIZE
        else:
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


@pytest.mark.parametrize("setting", ODD)
def test_small_and_thin_pictures_equal_transformers_also_where_they_are_padded(setting: str, tmp_path: Path) -> None:
    model_type, cfg = ODD[setting]
    preprocess = from_transformers(cfg, model_type=model_type)
    processor = auto_processor(tmp_path, model_type, cfg)
    for rgb in small_pictures():
        check(preprocess, rgb, processor_pixels(processor, rgb))


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
        theirs = float_pixels(processor, rgb)
        assert np.abs(apply(preprocess, rgb) - theirs).max() <= FLOAT_RESIZE
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


@pytest.mark.parametrize("setting", ODD)
def test_auto_image_processor_loads_what_to_transformers_says(setting: str, tmp_path: Path) -> None:
    model_type, cfg = ODD[setting]
    preprocess = from_transformers(cfg, model_type=model_type)
    said = to_transformers(preprocess)
    assert said is not None
    assert from_transformers(said) == preprocess
    processor = auto_processor(tmp_path, model_type, said)
    assert type(processor).__name__ == f"{said['image_processor_type']}Pil"
    rgb = small_pictures()[-1]
    check(preprocess, rgb, processor_pixels(processor, rgb))


def test_a_file_that_names_no_class_is_read_by_that_of_the_models_type() -> None:
    for model_type, kind in PROCESSOR_OF_MODEL.items():
        theirs = IMAGE_PROCESSOR_MAPPING_NAMES[model_type]
        assert theirs["torchvision"] == kind
    kinds = {dialect.kind for dialect in TRANSFORMERS}
    assert kinds & set(IMAGE_PROCESSOR_MAPPING_NAMES) <= set(PROCESSOR_OF_MODEL)
