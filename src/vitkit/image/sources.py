"""timm's pretrained_cfg and the Hub's preprocessor_config.json to a Preprocess and back, defaults and all; OpenCLIP's.

Sources: timm 1.0.31, data/config.py and transforms_imagenet_eval in data/transforms_factory.py; transformers 5.23.0,
the `*ImageProcessorPil` classes and image_processing_backends.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vitkit.errors import ConfigError, nearest
from vitkit.image.preprocess import Preprocess

__all__ = ["PROCESSOR_OF_MODEL", "from_openclip", "from_timm", "from_transformers", "to_timm", "to_transformers"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


def from_timm(cfg: Mapping[str, Any]) -> Preprocess:
    """What timm's evaluation transform does for a pretrained_cfg, whose absent keys mean timm's own defaults.

    The test_input_size and test_crop_pct that a cfg may hold as well are not looked at, as timm doesn't by default.
    Raises ConfigError for crop_mode "border" and for anything that isn't timm's.
    """
    channels, height, width = _sequence(cfg, "input_size", 3) or (3, 224, 224)
    crop_pct = cfg.get("crop_pct") or 0.875
    crop_mode = cfg.get("crop_mode") or "center"
    if crop_mode not in ("center", "squash"):
        raise ConfigError(f"crop_mode is {crop_mode!r} (timm's pretrained_cfg); supported: center, squash")
    if not isinstance(crop_pct, int | float) or not crop_pct > 0:
        raise ConfigError(f"crop_pct is {crop_pct!r} (timm's pretrained_cfg); it must be a number larger than 0")
    mean, std = (
        tuple(values) * channels if len(values) == 1 else tuple(values)
        for values in (_sequence(cfg, "mean") or IMAGENET_MEAN, _sequence(cfg, "std") or IMAGENET_STD)
    )
    if len(mean) != channels:
        raise ConfigError(f"mean has {len(mean)} values for {channels} channels (timm's pretrained_cfg); give each one")
    resize_size = math.floor(height / crop_pct), math.floor(width / crop_pct)
    squash = crop_mode == "squash"
    return Preprocess(
        size=(height, width),
        resize="squash" if squash else "shortest",
        resize_size=resize_size,
        crop="none" if squash and resize_size == (height, width) else "center_round",
        interpolation=cfg.get("interpolation") or "bicubic",
        mean=mean,
        std=std,
    )


def from_openclip(cfg: Mapping[str, Any], size: tuple[int, int]) -> Preprocess:
    """What OpenCLIP's evaluation transform does for a preprocess_cfg and a model's size; absent keys mean its own.

    Raises ConfigError for resize_mode "longest" and for anything that isn't OpenCLIP's.
    """
    mode, interpolation = cfg.get("resize_mode") or "shortest", cfg.get("interpolation") or "bicubic"
    if mode not in ("shortest", "squash") or interpolation not in ("bicubic", "bilinear"):
        raise ConfigError(
            f"resize_mode is {mode!r}, interpolation {interpolation!r} (open_clip_config.json, preprocess_cfg); "
            "supported: shortest or squash, bicubic or bilinear"
        )
    statistics = {"mean": cfg.get("mean") or OPENAI_MEAN, "std": cfg.get("std") or OPENAI_STD}
    crop = {"crop_pct": 1.0, "crop_mode": "squash" if mode == "squash" else "center"}
    return from_timm({"input_size": (3, *size), "interpolation": interpolation, **crop, **statistics})


def to_timm(preprocess: Preprocess) -> dict[str, Any] | None:
    """The pretrained_cfg keys that make timm build the same transform, or None where timm has no words for it."""
    size, resized = preprocess.size, preprocess.resize_size
    if resized is None or preprocess.order != "resize_first" or not preprocess.antialias or preprocess.value_range:
        return None
    if not _crops_alike(preprocess, "center_round"):
        return None
    crop_pct = _crop_pct(size, resized)
    if crop_pct is None:
        return None
    return {
        "input_size": [preprocess.channels, *size],
        "interpolation": preprocess.interpolation,
        "crop_pct": crop_pct,
        "crop_mode": "squash" if preprocess.resize == "squash" else "center",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }


def _crop_pct(size: tuple[int, int], resized: tuple[int, int]) -> float | None:
    """The shortest decimal with floor(side / crop_pct) = resized side for both sides; None where there's none."""
    largest = min(side / full for side, full in zip(size, resized, strict=True))
    for digits in range(1, 17):
        scale = 10.0**digits
        crop_pct = math.floor(largest * scale) / scale
        if crop_pct and all(math.floor(s / crop_pct) == r for s, r in zip(size, resized, strict=True)):
            return crop_pct
    return None


def _crops_alike(preprocess: Preprocess, crop: str) -> bool:
    """Whether the crop cuts the same pixels as `crop` would, for every picture."""
    if preprocess.crop in ("none", crop):
        return True
    if preprocess.resize != "squash" or preprocess.resize_size is None:
        return False
    spares = [held - wanted for held, wanted in zip(preprocess.resize_size, preprocess.size, strict=True)]
    return all(round(spare / 2) == spare // 2 if spare >= 0 else spare % 2 == 0 for spare in spares)


@dataclass(frozen=True)
class _Processor:
    """What one of transformers' image processors does where its configuration is silent."""

    size: dict[str, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    square: bool = True  # a bare number for size is a square, else the shortest edge
    crop_size: int | None = None
    crops: bool = False
    crop_pct: float | None = None  # ConvNeXT's own way to resize and crop
    rescale_first: bool = False


_SQUARE, _SHORTEST = {"height": 224, "width": 224}, {"shortest_edge": 224}
_CLIP = _Processor(_SHORTEST, "bicubic", OPENAI_MEAN, OPENAI_STD, square=False, crop_size=224, crops=True)
_PROCESSORS = {
    "ViTImageProcessor": _Processor(_SQUARE, "bilinear", HALF, HALF),
    "DeiTImageProcessor": _Processor({"height": 256, "width": 256}, "bicubic", HALF, HALF, crop_size=224, crops=True),
    "BeitImageProcessor": _Processor(_SQUARE, "bicubic", HALF, HALF, crop_size=224),
    "BitImageProcessor": _CLIP,
    "CLIPImageProcessor": _CLIP,
    "SiglipImageProcessor": _Processor(_SQUARE, "bicubic", HALF, HALF, square=False),
    "ConvNextImageProcessor": _Processor({"shortest_edge": 384}, "bicubic", HALF, HALF, square=False, crop_pct=0.875),
    "DINOv3ViTImageProcessor": _Processor(_SQUARE, "bilinear", IMAGENET_MEAN, IMAGENET_STD, rescale_first=True),
}
PROCESSOR_OF_MODEL = {
    "beit": "BeitImageProcessor",
    "bit": "BitImageProcessor",
    "clip": "CLIPImageProcessor",
    "data2vec-vision": "BeitImageProcessor",
    "deit": "DeiTImageProcessor",
    "dinov2": "BitImageProcessor",
    "dinov3_vit": "DINOv3ViTImageProcessor",
    "resnet": "ConvNextImageProcessor",
    "siglip": "SiglipImageProcessor",
    "swin": "ViTImageProcessor",
    "swinv2": "ViTImageProcessor",
    "vit": "ViTImageProcessor",
    "vit_mae": "ViTImageProcessor",
}
"""What AutoImageProcessor takes for config.json's model_type where preprocessor_config.json names no class."""


def from_transformers(cfg: Mapping[str, Any], *, model_type: str | None = None) -> Preprocess:
    """What transformers' Pillow processor does for a preprocessor_config.json; absent keys mean its class's defaults.

    Knows the processors of the ViT family, by image_processor_type or the older feature_extractor_type, with or
    without Fast and Pil; files older than both are read by the class of `model_type`. A step that is switched off
    leaves its keys without effect; unusual rescaling is folded into mean and std. Raises ConfigError for another
    processor, for steps that have no counterpart here (padding, flipped channels, a longest edge) and where the
    result's size would depend on the picture.
    """
    origin = "preprocessor_config.json"
    named = cfg.get("image_processor_type") or cfg.get("feature_extractor_type")
    name = str(named or PROCESSOR_OF_MODEL.get(model_type or ""))
    kind = name.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if kind not in _PROCESSORS:
        raise ConfigError(
            f"image_processor_type is {name!r} ({origin}){nearest(kind, _PROCESSORS)}; known: {', '.join(_PROCESSORS)}"
        )
    own = _PROCESSORS[kind]

    def get(key: str, default: Any) -> Any:
        value = cfg.get(key)
        return default if value is None else value

    for key in ("do_pad", "do_flip_channel_order"):
        if cfg.get(key):
            raise ConfigError(f"{key} is {cfg[key]!r} ({origin}), which isn't supported; leave it out")
    crops, resizes = get("do_center_crop", own.crops), get("do_resize", True)
    size = _sides("size", get("size", own.size), square=get("default_to_square", own.square))
    crop_size = _sides("crop_size", get("crop_size", own.crop_size)) if crops else None
    resize_size: tuple[int, int] | None = _pair(size)
    resize = "squash" if "height" in size else "shortest"
    if not resizes:
        resize, resize_size = "none", None
    elif own.crop_pct is not None:
        edge = size.get("shortest_edge")
        if edge is None or crops:
            raise ConfigError(
                f"size is {size} and do_center_crop {crops} ({origin}); {kind} needs a shortest_edge alone"
            )
        # Below 384 it crops, from there on it squashes.
        resize, crop_size = ("shortest", size) if edge < 384 else ("squash", None)
        edge = int(edge / get("crop_pct", own.crop_pct)) if edge < 384 else edge
        resize_size = edge, edge
    final = _pair(crop_size or size)
    mean, std = _statistics(cfg, own)
    return Preprocess(
        size=final,
        resize=resize,  # type: ignore[arg-type]  # Preprocess checks it
        resize_size=resize_size,
        crop="none" if crop_size is None or (resize == "squash" and resize_size == final) else "center_floor",
        interpolation=_interpolation(cfg.get("resample")) or own.interpolation,  # type: ignore[arg-type]
        mean=mean,
        std=std,
        order="rescale_first" if own.rescale_first else "resize_first",
    )


def to_transformers(preprocess: Preprocess) -> dict[str, Any] | None:
    """A preprocessor_config.json that gives the same pixels, or None where transformers has no processor for that.

    The same to the bit with its Pillow processors; where torchvision is installed, AutoImageProcessor takes the ones
    that resize with torchvision, which may differ by a level of 255.
    """
    resize, resized = preprocess.resize, preprocess.resize_size
    shortest = resize == "shortest"
    crops = preprocess.crop != "none"
    rescale_first = preprocess.order == "rescale_first"
    if (
        preprocess.channels != 3
        or preprocess.value_range
        or not preprocess.antialias
        or not _crops_alike(preprocess, "center_floor")
    ):
        return None
    if shortest and resized is not None and resized[0] != resized[1]:
        return None
    if rescale_first and (crops or resize != "squash"):
        return None
    if rescale_first:
        kind = "DINOv3ViTImageProcessorFast"
    elif shortest:
        kind = "BitImageProcessor"
    else:
        kind = "DeiTImageProcessor" if crops else "ViTImageProcessor"
    height, width = resized or preprocess.size
    cfg = {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": resize != "none",
        "size": {"shortest_edge": height} if shortest else {"height": height, "width": width},
        "resample": int(Image.Resampling[preprocess.interpolation.upper()]),
        "do_center_crop": crops,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    return cfg | {"crop_size": dict(zip(("height", "width"), preprocess.size, strict=True))} if crops else cfg


def _sequence(cfg: Mapping[str, Any], key: str, length: int | None = None) -> list[Any] | None:
    """The list under `key`, None where it is absent or empty (as timm takes it)."""
    value = cfg.get(key)
    if not value:
        return None
    if not isinstance(value, list | tuple) or len(value) != (length or len(value)):
        raise ConfigError(f"{key} is {value!r} (timm's pretrained_cfg); it must be a list of {length or 'numbers'}")
    return list(value)


def _sides(key: str, value: Any, *, square: bool = True) -> dict[str, int]:
    """The forms of transformers' sizes as {"height", "width"} or {"shortest_edge"}."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"height": value, "width": value} if square else {"shortest_edge": value}
    if isinstance(value, list | tuple) and len(value) == 2:
        return {"height": value[0], "width": value[1]}
    if isinstance(value, Mapping) and set(value) in ({"height", "width"}, {"shortest_edge"}):
        return dict(value)
    allowed = "a number, {height, width} or {shortest_edge}"
    raise ConfigError(f"{key} is {value!r} (preprocessor_config.json); supported: {allowed}")


def _pair(sides: dict[str, int]) -> tuple[int, int]:
    edge = sides.get("shortest_edge")
    return (sides["height"], sides["width"]) if edge is None else (edge, edge)


def _interpolation(resample: Any) -> str | None:
    if resample is None:
        return None
    try:
        return Image.Resampling(resample).name.lower()
    except ValueError:
        raise ConfigError(f"resample is {resample!r} (preprocessor_config.json); Pillow's filters are 0..5") from None


def _statistics(cfg: Mapping[str, Any], own: _Processor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and std on the scale 0..1, whatever scale the processor's own are on."""
    factor = 1.0 if cfg.get("do_rescale") is False else cfg.get("rescale_factor") or 1 / 255
    normalizes = cfg.get("do_normalize") is not False
    found = []
    for key, own_values, neutral in (("image_mean", own.mean, 0.0), ("image_std", own.std, 1.0)):
        values = cfg.get(key) if normalizes else neutral
        values = own_values if values is None else values
        values = (values,) * 3 if isinstance(values, int | float) else values
        try:
            found.append(tuple(value / (255 * factor) for value in values))
        except (TypeError, ZeroDivisionError):
            raise ConfigError(f"{key} is {values!r}, rescale_factor {factor!r} (preprocessor_config.json)") from None
    return found[0], found[1]
