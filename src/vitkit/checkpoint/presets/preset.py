"""What a preset is, and what several families build theirs with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vitkit.image.preprocess import Preprocess
from vitkit.image.sources import HALF, IMAGENET_MEAN, IMAGENET_STD
from vitkit.model.spec import ModelSpec, VitSpec

PAPER = "Dosovitskiy et al. 2021, arXiv:2010.11929, table 1"
AUGREG = "Steiner et al. 2022, arXiv:2106.10270, table 2"
DINO = "Caron et al. 2021, arXiv:2104.14294 (S/8, B/8)"

IMAGENET = IMAGENET_MEAN, IMAGENET_STD

TINY, SMALL = (192, 12, 3, 768), (384, 12, 6, 1536)
MEDIUM, BASE = (512, 12, 8, 2048), (768, 12, 12, 3072)
LARGE, HUGE = (1024, 24, 16, 4096), (1280, 32, 16, 5120)

PLAIN: Mapping[str, Any] = {"statistics": IMAGENET}


@dataclass(frozen=True)
class Preset:
    """A published model: what it is, how its pictures are prepared, and where both are written."""

    model: ModelSpec
    preprocess: Preprocess
    source: str
    hub_id: str | None
    """A Hub repository with weights of this shape."""
    licence: str | None
    top1: float | None
    """Published ImageNet-1k top-1 in percent: timm's results-imagenet.csv for `hub_id`, torchvision's, the paper's.

    Zero-shot for two towers, whose classes are texts.
    """
    imagenet1k: bool
    """Whether the 1,000 outputs are ImageNet-1k's classes in wnid order."""
    timm: str = "VisionTransformer"
    """timm's class of the architecture that has the preset's name; "" where timm has no such architecture."""


def cropped(
    size: int,
    shortest: int,
    *,
    interpolation: Literal["bilinear", "bicubic"] = "bicubic",
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET,
) -> Preprocess:
    """The shorter side resized to `shortest`, and a square of `size` from the middle."""
    return Preprocess(
        size=(size, size),
        resize="shortest",
        resize_size=(shortest, shortest),
        crop="center_round",
        interpolation=interpolation,
        mean=statistics[0],
        std=statistics[1],
    )


def vit_spec(width: tuple[int, int, int, int], patch: int, size: int, **fields: Any) -> VitSpec:
    """A ViT of the given (embed_dim, depth, num_heads, mlp_dim), and other fields of the spec."""
    embed_dim, depth, num_heads, mlp_dim = width
    return VitSpec(
        image_size=(size, size),
        patch_size=patch,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_dim=mlp_dim,
        **fields,
    )


def timm_vit(
    width: tuple[int, int, int, int],
    patch: int,
    size: int,
    source: str,
    tag: str | None,
    top1: float | None = None,
    *,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = (HALF, HALF),
    crop_pct: float | None = None,
    licence: str = "apache-2.0",
    timm: str = "VisionTransformer",
    **fields: Any,
) -> Preset:
    """A ViT as timm publishes it: bicubic, crop 0.9 at 224, 1.0 at other sizes, or `crop_pct`."""
    shortest = math.floor(size / (crop_pct or (0.9 if size == 224 else 1.0)))
    return Preset(
        model=ModelSpec(arch="vit", spec=vit_spec(width, patch, size, **fields)),
        preprocess=cropped(size, shortest, statistics=statistics),
        source=source,
        hub_id=f"timm/{tag}" if tag else None,
        licence=licence if tag else None,
        top1=top1,
        imagenet1k=tag is not None and tag.endswith("in1k"),
        timm=timm,
    )
