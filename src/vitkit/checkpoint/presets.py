"""Published models by name: spec, preprocessing, source, licence, accuracy. Data only; `vitkit models` lists them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vitkit.errors import ConfigError, nearest
from vitkit.image.preprocess import Preprocess
from vitkit.model.spec import ModelSpec, VitSpec

__all__ = ["DEFAULT_MODEL", "PRESETS", "Preset", "find_preset"]

DEFAULT_MODEL = "google/vit-base-patch16-224"
"""What `vitkit classify` and its siblings load when no model is named."""

PAPER = "Dosovitskiy et al. 2021, arXiv:2010.11929, table 1"
AUGREG = "Steiner et al. 2022, arXiv:2106.10270, table 2"
SCALING = "Zhai et al. 2022, arXiv:2106.04560, table 2 (L/14)"
DINO = "Caron et al. 2021, arXiv:2104.14294 (S/8, B/8)"

HALF = (0.5, 0.5, 0.5)


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
    """Published ImageNet-1k validation top-1 of `hub_id`, in percent (timm's results-imagenet.csv)."""
    imagenet1k: bool
    """Whether the 1,000 outputs are ImageNet-1k's classes in wnid order."""
    timm: str = "VisionTransformer"
    """timm's class of the architecture that has the preset's name."""


def _vit(
    width: tuple[int, int, int, int], patch: int, size: int, source: str, tag: str | None, top1: float | None = None
) -> Preset:
    """A ViT of the given (embed_dim, depth, num_heads, mlp_dim), bicubic, crop 0.9 (1.0 at 384) as in timm."""
    embed_dim, depth, num_heads, mlp_dim = width
    spec = VitSpec(
        image_size=(size, size),
        patch_size=patch,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_dim=mlp_dim,
    )
    shortest = math.floor(size / (0.9 if size == 224 else 1.0))
    return Preset(
        model=ModelSpec(arch="vit", spec=spec),
        preprocess=Preprocess(
            size=(size, size),
            resize="shortest",
            resize_size=(shortest, shortest),
            crop="center_round",
            interpolation="bicubic",
            mean=HALF,
            std=HALF,
        ),
        source=source,
        hub_id=f"timm/{tag}" if tag else None,
        licence="apache-2.0" if tag else None,
        top1=top1,
        imagenet1k=tag is not None and tag.endswith("in1k"),
    )


TINY, SMALL = (192, 12, 3, 768), (384, 12, 6, 1536)
BASE, LARGE, HUGE = (768, 12, 12, 3072), (1024, 24, 16, 4096), (1280, 32, 16, 5120)

PRESETS: Mapping[str, Preset] = {
    "vit_tiny_patch16_224": _vit(TINY, 16, 224, AUGREG, "vit_tiny_patch16_224.augreg_in21k_ft_in1k", 75.45),
    "vit_tiny_patch16_384": _vit(TINY, 16, 384, AUGREG, "vit_tiny_patch16_384.augreg_in21k_ft_in1k"),
    "vit_small_patch32_224": _vit(SMALL, 32, 224, AUGREG, "vit_small_patch32_224.augreg_in21k_ft_in1k"),
    "vit_small_patch32_384": _vit(SMALL, 32, 384, AUGREG, "vit_small_patch32_384.augreg_in21k_ft_in1k"),
    "vit_small_patch16_224": _vit(SMALL, 16, 224, AUGREG, "vit_small_patch16_224.augreg_in21k_ft_in1k", 81.40),
    "vit_small_patch16_384": _vit(SMALL, 16, 384, AUGREG, "vit_small_patch16_384.augreg_in21k_ft_in1k"),
    "vit_small_patch8_224": _vit(SMALL, 8, 224, DINO, None),
    "vit_base_patch32_224": _vit(BASE, 32, 224, PAPER, "vit_base_patch32_224.augreg_in21k_ft_in1k"),
    "vit_base_patch32_384": _vit(BASE, 32, 384, PAPER, "vit_base_patch32_384.augreg_in21k_ft_in1k"),
    "vit_base_patch16_224": _vit(BASE, 16, 224, PAPER, "vit_base_patch16_224.augreg2_in21k_ft_in1k", 85.11),
    "vit_base_patch16_384": _vit(BASE, 16, 384, PAPER, "vit_base_patch16_384.augreg_in21k_ft_in1k", 86.01),
    "vit_base_patch8_224": _vit(BASE, 8, 224, DINO, "vit_base_patch8_224.augreg2_in21k_ft_in1k"),
    "vit_large_patch32_224": _vit(LARGE, 32, 224, PAPER, "vit_large_patch32_224.orig_in21k"),
    "vit_large_patch32_384": _vit(LARGE, 32, 384, PAPER, "vit_large_patch32_384.orig_in21k_ft_in1k"),
    "vit_large_patch16_224": _vit(LARGE, 16, 224, PAPER, "vit_large_patch16_224.augreg_in21k_ft_in1k"),
    "vit_large_patch16_384": _vit(LARGE, 16, 384, PAPER, "vit_large_patch16_384.augreg_in21k_ft_in1k"),
    "vit_large_patch14_224": _vit(LARGE, 14, 224, SCALING, None),
    "vit_huge_patch14_224": _vit(HUGE, 14, 224, PAPER, "vit_huge_patch14_224.orig_in21k"),
}


def find_preset(name: str) -> Preset:
    """The preset called `name`; a ConfigError with the nearest name otherwise."""
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown{nearest(name, PRESETS)}; list: vitkit models")
    return PRESETS[name]
