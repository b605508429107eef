"""Published models by name: spec, preprocessing, source, licence, accuracy. Data only; `vitkit models` lists them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vitkit.errors import ConfigError, nearest
from vitkit.image.preprocess import Preprocess
from vitkit.image.sources import HALF, IMAGENET_MEAN, IMAGENET_STD, OPENAI_MEAN, OPENAI_STD
from vitkit.model.spec import MaeSpec, ModelSpec, VitSpec
from vitkit.model.swin_spec import SwinSpec

__all__ = ["DEFAULT_MODEL", "PRESETS", "Preset", "find_preset"]

DEFAULT_MODEL = "google/vit-base-patch16-224"
"""What `vitkit classify` and its siblings load when no model is named."""

PAPER = "Dosovitskiy et al. 2021, arXiv:2010.11929, table 1"
AUGREG = "Steiner et al. 2022, arXiv:2106.10270, table 2"
SCALING = "Zhai et al. 2022, arXiv:2106.04560, table 2 (L/14)"
DINO = "Caron et al. 2021, arXiv:2104.14294 (S/8, B/8)"
DINO2 = "Oquab et al. 2024, arXiv:2304.07193"
DINO2_REGISTERS = "Darcet et al. 2024, arXiv:2309.16588"
DINO3 = "Siméoni et al. 2025, arXiv:2508.10104"
BEIT = "Bao et al. 2022, arXiv:2106.08254"
BEIT2 = "Peng et al. 2022, arXiv:2208.06366"
DATA2VEC = "Baevski et al. 2022, arXiv:2202.03555, table 1"
DEIT = "Touvron et al. 2021, arXiv:2012.12877, table 1"
DEIT3 = "Touvron et al. 2022, arXiv:2204.07118"
MAE = "He et al. 2022, arXiv:2111.06377, table 3"
SWIN = "Liu et al. 2021, arXiv:2103.14030"
SWIN2 = "Liu et al. 2022, arXiv:2111.09883"
S3 = "Chen et al. 2021, arXiv:2111.14725"
CLIP = "Radford et al. 2021, arXiv:2103.00020"
OPENCLIP = "Cherti et al. 2022, arXiv:2212.07143"
SIGLIP = "Zhai et al. 2023, arXiv:2303.15343"
TORCHVISION = "torchvision 0.28, models/vision_transformer.py"
SWAG = "Singh et al. 2022, arXiv:2201.08371, in torchvision"

IMAGENET = IMAGENET_MEAN, IMAGENET_STD


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
    """Published ImageNet-1k top-1 in percent: timm's results-imagenet.csv for `hub_id`, torchvision's, the paper's."""
    imagenet1k: bool
    """Whether the 1,000 outputs are ImageNet-1k's classes in wnid order."""
    timm: str = "VisionTransformer"
    """timm's class of the architecture that has the preset's name; "" where timm has no such architecture."""


def _cropped(
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


def _spec(width: tuple[int, int, int, int], patch: int, size: int, **fields: Any) -> VitSpec:
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


def _vit(
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
        model=ModelSpec(arch="vit", spec=_spec(width, patch, size, **fields)),
        preprocess=_cropped(size, shortest, statistics=statistics),
        source=source,
        hub_id=f"timm/{tag}" if tag else None,
        licence=licence if tag else None,
        top1=top1,
        imagenet1k=tag is not None and tag.endswith("in1k"),
        timm=timm,
    )


def _torchvision(
    width: tuple[int, int, int, int],
    patch: int,
    size: int,
    top1: float,
    *,
    resize: int,
    interpolation: Literal["bilinear", "bicubic"] = "bicubic",
    source: str = SWAG,
    licence: str = "cc-by-nc-4.0",
) -> Preset:
    """A ViT as torchvision publishes it: its shorter side resized, cropped from the middle."""
    return Preset(
        model=ModelSpec(arch="vit", spec=_spec(width, patch, size, position_resample="bicubic_align_corners")),
        preprocess=_cropped(size, resize, interpolation=interpolation),
        source=source,
        hub_id=None,
        licence=licence,
        top1=top1,
        imagenet1k=True,
        timm="",
    )


def _mae(
    width: tuple[int, int, int, int],
    patch: int,
    hub_id: str | None,
    *,
    whole: bool = False,
    licence: str = "cc-by-nc-4.0",
    top1: float | None = None,
    **fields: Any,
) -> Preset:
    """MAE's encoder, or the whole autoencoder, at 224 as its authors evaluate it (their util/datasets.py)."""
    spec = _spec(width, patch, 224, position_resample="bicubic", **{"num_classes": 0, **fields})
    return Preset(
        model=ModelSpec(arch="mae", spec=MaeSpec(**vars(spec))) if whole else ModelSpec(arch="vit", spec=spec),
        preprocess=_cropped(224, 256),
        source=MAE,
        hub_id=hub_id,
        licence=licence,
        top1=top1,
        imagenet1k=bool(spec.num_classes),
        timm="",
    )


def _swin(
    embed_dim: int,
    third: int,
    size: int,
    tag: str,
    top1: float | None = None,
    *,
    source: str = SWIN,
    timm: str = "SwinTransformer",
    **fields: Any,
) -> Preset:
    """A Swin of depths (2, 2, third, 2) and heads 32 wide as timm publishes it: bicubic, crop 0.9, 1.0 at 384."""
    spec = SwinSpec(
        image_size=(size, size),
        embed_dim=embed_dim,
        depths=(2, 2, third, 2),
        num_heads=(embed_dim // 32, embed_dim // 16, embed_dim // 8, embed_dim // 4),
        window_padding="after_shift",
        position_resample="geometric",
        **fields,
    )
    return Preset(
        model=ModelSpec(arch="swin", spec=spec),
        preprocess=_cropped(size, math.floor(size / (1.0 if size == 384 else 0.9))),
        source=source,
        hub_id=f"timm/{tag}",
        licence="mit",
        top1=top1,
        imagenet1k=tag.endswith("in1k"),
        timm=timm,
    )


TINY, SMALL = (192, 12, 3, 768), (384, 12, 6, 1536)
MEDIUM, BASE = (512, 12, 8, 2048), (768, 12, 12, 3072)
LARGE, HUGE = (1024, 24, 16, 4096), (1280, 32, 16, 5120)
SO400M = (1152, 27, 16, 4304)
GIANT, HUGE_PLUS, SEVEN_BILLION = (1536, 40, 24, 4096), (1280, 32, 20, 5120), (4096, 40, 32, 8192)

PLAIN: Mapping[str, Any] = {"statistics": IMAGENET}
DISTILLED: Mapping[str, Any] = {**PLAIN, "timm": "VisionTransformerDistilled", "distillation_token": True}
THIRD: Mapping[str, Any] = {**PLAIN, "prefix_positions": False, "layer_scale": 1e-6}
PER_BLOCK: Mapping[str, Any] = {
    "position": "relative",
    "position_resample": "geometric",
    "qkv_bias": "qv",
    "layer_scale": 0.1,
    "pool": "mean",
    "final_norm": "pooled",
}
RELATIVE: Mapping[str, Any] = {**PER_BLOCK, "timm": "Beit"}
SMALL_SCALE: Mapping[str, Any] = {**RELATIVE, "layer_scale": 1e-5}
HEADLESS: Mapping[str, Any] = {**PLAIN, "num_classes": 0}
SECOND: Mapping[str, Any] = {**HEADLESS, "layer_scale": 1e-5}
REGISTERS: Mapping[str, Any] = {**SECOND, "num_registers": 4, "prefix_positions": False}
GATED: Mapping[str, Any] = {"gated_mlp": True, "activation": "silu"}
PACKED: Mapping[str, Any] = {**GATED, "timm": "VisionTransformer with SwiGLUPacked"}
ROTARY: Mapping[str, Any] = {
    **SECOND,
    "timm": "Eva",
    "licence": "dinov3-license",
    "num_registers": 4,
    "position": "rope",
    "qkv_bias": "none",
    "norm_eps": 1e-5,
    "pool": "mean",
}
BIASED: Mapping[str, Any] = {**ROTARY, "qkv_bias": "qv"}
VERSION2: Mapping[str, Any] = {"source": SWIN2, "timm": "SwinTransformerV2", "version": 2}
FROM12: Mapping[str, Any] = {**VERSION2, "pretrained_window_size": (12, 12, 12, 6)}
OPENAI: Mapping[str, Any] = {"pre_norm": True, "norm_eps": 1e-5, "statistics": (OPENAI_MEAN, OPENAI_STD)}
QUICK: Mapping[str, Any] = {**OPENAI, "activation": "quick_gelu"}
POOLED: Mapping[str, Any] = {"num_classes": 0, "class_token": False, "pool": "attention", "crop_pct": 0.9}
ROOT: Mapping[str, Any] = {"timm": "VisionTransformer on R", "stem_depths": ()}
R26: Mapping[str, Any] = {"timm": "VisionTransformer on R26", "stem_depths": (2, 2, 2, 2)}
R50: Mapping[str, Any] = {"timm": "VisionTransformer on R50", "stem_depths": (3, 4, 6, 3)}
R50_CUT: Mapping[str, Any] = {"timm": "VisionTransformer on R50 of three stages", "stem_depths": (3, 4, 9)}
FROM_SCRATCH: Mapping[str, Any] = {"interpolation": "bilinear", "source": TORCHVISION, "licence": "bsd-3-clause"}

AUTOENCODER: Mapping[str, Any] = {"whole": True, "licence": "apache-2.0"}
TUNED: Mapping[str, Any] = {"num_classes": 1000, "pool": "mean", "final_norm": "pooled"}

SQUASHED = Preprocess(
    size=(224, 224),
    resize="squash",
    resize_size=(224, 224),
    crop="none",
    interpolation="bicubic",
    mean=HALF,
    std=HALF,
)
DATA2VEC_HUB: Mapping[str, Any] = {"licence": "apache-2.0", "imagenet1k": True, "timm": ""}

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
    "vit_tiny_r_s16_p8_224": _vit(TINY, 32, 224, AUGREG, "vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k", 71.80, **ROOT),
    "vit_tiny_r_s16_p8_384": _vit(TINY, 32, 384, AUGREG, "vit_tiny_r_s16_p8_384.augreg_in21k_ft_in1k", 75.96, **ROOT),
    "vit_small_r26_s32_224": _vit(SMALL, 32, 224, AUGREG, "vit_small_r26_s32_224.augreg_in21k_ft_in1k", 81.86, **R26),
    "vit_small_r26_s32_384": _vit(SMALL, 32, 384, AUGREG, "vit_small_r26_s32_384.augreg_in21k_ft_in1k", 84.07, **R26),
    "vit_base_r50_s16_224": _vit(BASE, 16, 224, PAPER, "vit_base_r50_s16_224.orig_in21k", num_classes=0, **R50_CUT),
    "vit_base_r50_s16_384": _vit(BASE, 16, 384, PAPER, "vit_base_r50_s16_384.orig_in21k_ft_in1k", 84.99, **R50_CUT),
    "vit_large_r50_s32_224": _vit(LARGE, 32, 224, AUGREG, "vit_large_r50_s32_224.augreg_in21k_ft_in1k", 84.43, **R50),
    "vit_large_r50_s32_384": _vit(LARGE, 32, 384, AUGREG, "vit_large_r50_s32_384.augreg_in21k_ft_in1k", 86.19, **R50),
    "deit_tiny_patch16_224": _vit(TINY, 16, 224, DEIT, "deit_tiny_patch16_224.fb_in1k", 72.19, **PLAIN),
    "deit_small_patch16_224": _vit(SMALL, 16, 224, DEIT, "deit_small_patch16_224.fb_in1k", 79.86, **PLAIN),
    "deit_base_patch16_224": _vit(BASE, 16, 224, DEIT, "deit_base_patch16_224.fb_in1k", 81.98, **PLAIN),
    "deit_base_patch16_384": _vit(BASE, 16, 384, DEIT, "deit_base_patch16_384.fb_in1k", 83.11, **PLAIN),
    "deit_tiny_distilled_patch16_224": _vit(
        TINY, 16, 224, DEIT, "deit_tiny_distilled_patch16_224.fb_in1k", 74.54, **DISTILLED
    ),
    "deit_small_distilled_patch16_224": _vit(
        SMALL, 16, 224, DEIT, "deit_small_distilled_patch16_224.fb_in1k", 81.20, **DISTILLED
    ),
    "deit_base_distilled_patch16_224": _vit(
        BASE, 16, 224, DEIT, "deit_base_distilled_patch16_224.fb_in1k", 83.38, **DISTILLED
    ),
    "deit_base_distilled_patch16_384": _vit(
        BASE, 16, 384, DEIT, "deit_base_distilled_patch16_384.fb_in1k", 85.44, **DISTILLED
    ),
    "deit3_small_patch16_224": _vit(SMALL, 16, 224, DEIT3, "deit3_small_patch16_224.fb_in1k", 81.38, **THIRD),
    "deit3_small_patch16_384": _vit(SMALL, 16, 384, DEIT3, "deit3_small_patch16_384.fb_in1k", 83.43, **THIRD),
    "deit3_medium_patch16_224": _vit(MEDIUM, 16, 224, DEIT3, "deit3_medium_patch16_224.fb_in1k", 83.09, **THIRD),
    "deit3_base_patch16_224": _vit(BASE, 16, 224, DEIT3, "deit3_base_patch16_224.fb_in1k", 83.80, **THIRD),
    "deit3_base_patch16_384": _vit(BASE, 16, 384, DEIT3, "deit3_base_patch16_384.fb_in1k", 85.09, **THIRD),
    "deit3_large_patch16_224": _vit(LARGE, 16, 224, DEIT3, "deit3_large_patch16_224.fb_in1k", 84.77, **THIRD),
    "deit3_large_patch16_384": _vit(LARGE, 16, 384, DEIT3, "deit3_large_patch16_384.fb_in1k", 85.82, **THIRD),
    "deit3_huge_patch14_224": _vit(HUGE, 14, 224, DEIT3, "deit3_huge_patch14_224.fb_in1k", 85.20, **THIRD),
    "beit_base_patch16_224": _vit(BASE, 16, 224, BEIT, "beit_base_patch16_224.in22k_ft_in22k_in1k", 85.24, **RELATIVE),
    "beit_base_patch16_384": _vit(BASE, 16, 384, BEIT, "beit_base_patch16_384.in22k_ft_in22k_in1k", 86.81, **RELATIVE),
    "beit_large_patch16_224": _vit(
        LARGE, 16, 224, BEIT, "beit_large_patch16_224.in22k_ft_in22k_in1k", 87.49, **SMALL_SCALE
    ),
    "beit_large_patch16_384": _vit(
        LARGE, 16, 384, BEIT, "beit_large_patch16_384.in22k_ft_in22k_in1k", 88.38, **SMALL_SCALE
    ),
    "beit_large_patch16_512": _vit(
        LARGE, 16, 512, BEIT, "beit_large_patch16_512.in22k_ft_in22k_in1k", 88.58, **SMALL_SCALE
    ),
    "beitv2_base_patch16_224": _vit(
        BASE, 16, 224, BEIT2, "beitv2_base_patch16_224.in1k_ft_in22k_in1k", 86.49, **PLAIN, **SMALL_SCALE
    ),
    "beitv2_large_patch16_224": _vit(
        LARGE,
        16,
        224,
        BEIT2,
        "beitv2_large_patch16_224.in1k_ft_in22k_in1k",
        88.41,
        crop_pct=0.95,
        **PLAIN,
        **SMALL_SCALE,
    ),
    "vit_small_patch16_224.dino": _vit(
        SMALL, 16, 224, DINO, "vit_small_patch16_224.dino", position_resample="bicubic_offset", **HEADLESS
    ),
    "vit_small_patch8_224.dino": _vit(
        SMALL, 8, 224, DINO, "vit_small_patch8_224.dino", position_resample="bicubic_offset", **HEADLESS
    ),
    "vit_base_patch16_224.dino": _vit(
        BASE, 16, 224, DINO, "vit_base_patch16_224.dino", position_resample="bicubic_offset", **HEADLESS
    ),
    "vit_base_patch8_224.dino": _vit(
        BASE, 8, 224, DINO, "vit_base_patch8_224.dino", position_resample="bicubic_offset", **HEADLESS
    ),
    "vit_small_patch14_dinov2": _vit(SMALL, 14, 518, DINO2, "vit_small_patch14_dinov2.lvd142m", **SECOND),
    "vit_base_patch14_dinov2": _vit(BASE, 14, 518, DINO2, "vit_base_patch14_dinov2.lvd142m", **SECOND),
    "vit_large_patch14_dinov2": _vit(LARGE, 14, 518, DINO2, "vit_large_patch14_dinov2.lvd142m", **SECOND),
    "vit_giant_patch14_dinov2": _vit(GIANT, 14, 518, DINO2, "vit_giant_patch14_dinov2.lvd142m", **SECOND, **PACKED),
    "vit_small_patch14_reg4_dinov2": _vit(
        SMALL, 14, 518, DINO2_REGISTERS, "vit_small_patch14_reg4_dinov2.lvd142m", **REGISTERS
    ),
    "vit_base_patch14_reg4_dinov2": _vit(
        BASE, 14, 518, DINO2_REGISTERS, "vit_base_patch14_reg4_dinov2.lvd142m", **REGISTERS
    ),
    "vit_large_patch14_reg4_dinov2": _vit(
        LARGE, 14, 518, DINO2_REGISTERS, "vit_large_patch14_reg4_dinov2.lvd142m", **REGISTERS
    ),
    "vit_giant_patch14_reg4_dinov2": _vit(
        GIANT, 14, 518, DINO2_REGISTERS, "vit_giant_patch14_reg4_dinov2.lvd142m", **REGISTERS, **PACKED
    ),
    "vit_small_patch16_dinov3": _vit(SMALL, 16, 256, DINO3, "vit_small_patch16_dinov3.lvd1689m", **ROTARY),
    "vit_small_patch16_dinov3_qkvb": _vit(SMALL, 16, 256, DINO3, "vit_small_patch16_dinov3_qkvb.lvd1689m", **BIASED),
    "vit_small_plus_patch16_dinov3": _vit(
        SMALL, 16, 256, DINO3, "vit_small_plus_patch16_dinov3.lvd1689m", **ROTARY, **GATED
    ),
    "vit_small_plus_patch16_dinov3_qkvb": _vit(
        SMALL, 16, 256, DINO3, "vit_small_plus_patch16_dinov3_qkvb.lvd1689m", **BIASED, **GATED
    ),
    "vit_base_patch16_dinov3": _vit(BASE, 16, 256, DINO3, "vit_base_patch16_dinov3.lvd1689m", **ROTARY),
    "vit_base_patch16_dinov3_qkvb": _vit(BASE, 16, 256, DINO3, "vit_base_patch16_dinov3_qkvb.lvd1689m", **BIASED),
    "vit_large_patch16_dinov3": _vit(LARGE, 16, 256, DINO3, "vit_large_patch16_dinov3.lvd1689m", **ROTARY),
    "vit_large_patch16_dinov3_qkvb": _vit(LARGE, 16, 256, DINO3, "vit_large_patch16_dinov3_qkvb.lvd1689m", **BIASED),
    "vit_huge_plus_patch16_dinov3": _vit(
        HUGE_PLUS, 16, 256, DINO3, "vit_huge_plus_patch16_dinov3.lvd1689m", **ROTARY, **GATED
    ),
    "vit_huge_plus_patch16_dinov3_qkvb": _vit(
        HUGE_PLUS, 16, 256, DINO3, "vit_huge_plus_patch16_dinov3_qkvb.lvd1689m", **BIASED, **GATED
    ),
    "vit_7b_patch16_dinov3": _vit(SEVEN_BILLION, 16, 256, DINO3, "vit_7b_patch16_dinov3.lvd1689m", **ROTARY, **GATED),
    "swin_tiny_patch4_window7_224": _swin(96, 6, 224, "swin_tiny_patch4_window7_224.ms_in1k", 81.39),
    "swin_small_patch4_window7_224": _swin(96, 18, 224, "swin_small_patch4_window7_224.ms_in22k_ft_in1k", 83.33),
    "swin_base_patch4_window7_224": _swin(128, 18, 224, "swin_base_patch4_window7_224.ms_in22k_ft_in1k", 85.28),
    "swin_base_patch4_window12_384": _swin(
        128, 18, 384, "swin_base_patch4_window12_384.ms_in22k_ft_in1k", 86.44, window_size=12
    ),
    "swin_large_patch4_window7_224": _swin(192, 18, 224, "swin_large_patch4_window7_224.ms_in22k_ft_in1k", 86.32),
    "swin_large_patch4_window12_384": _swin(
        192, 18, 384, "swin_large_patch4_window12_384.ms_in22k_ft_in1k", 87.14, window_size=12
    ),
    "swin_s3_tiny_224": _swin(96, 6, 224, "swin_s3_tiny_224.ms_in1k", 82.13, source=S3, window_size=(7, 7, 14, 7)),
    "swin_s3_small_224": _swin(96, 18, 224, "swin_s3_small_224.ms_in1k", 83.78, source=S3, window_size=(14, 14, 14, 7)),
    "swin_s3_base_224": _swin(96, 30, 224, "swin_s3_base_224.ms_in1k", 83.92, source=S3, window_size=(7, 7, 14, 7)),
    "swinv2_tiny_window8_256": _swin(96, 6, 256, "swinv2_tiny_window8_256.ms_in1k", 81.82, window_size=8, **VERSION2),
    "swinv2_tiny_window16_256": _swin(
        96, 6, 256, "swinv2_tiny_window16_256.ms_in1k", 82.83, window_size=16, **VERSION2
    ),
    "swinv2_small_window8_256": _swin(
        96, 18, 256, "swinv2_small_window8_256.ms_in1k", 83.84, window_size=8, **VERSION2
    ),
    "swinv2_small_window16_256": _swin(
        96, 18, 256, "swinv2_small_window16_256.ms_in1k", 84.22, window_size=16, **VERSION2
    ),
    "swinv2_base_window8_256": _swin(128, 18, 256, "swinv2_base_window8_256.ms_in1k", 84.25, window_size=8, **VERSION2),
    "swinv2_base_window16_256": _swin(
        128, 18, 256, "swinv2_base_window16_256.ms_in1k", 84.61, window_size=16, **VERSION2
    ),
    "swinv2_base_window12_192": _swin(
        128, 18, 192, "swinv2_base_window12_192.ms_in22k", window_size=12, num_classes=21841, **VERSION2
    ),
    "swinv2_base_window12to16_192to256": _swin(
        128, 18, 256, "swinv2_base_window12to16_192to256.ms_in22k_ft_in1k", 86.27, window_size=16, **FROM12
    ),
    "swinv2_base_window12to24_192to384": _swin(
        128, 18, 384, "swinv2_base_window12to24_192to384.ms_in22k_ft_in1k", 87.14, window_size=24, **FROM12
    ),
    "swinv2_large_window12_192": _swin(
        192, 18, 192, "swinv2_large_window12_192.ms_in22k", window_size=12, num_classes=21841, **VERSION2
    ),
    "swinv2_large_window12to16_192to256": _swin(
        192, 18, 256, "swinv2_large_window12to16_192to256.ms_in22k_ft_in1k", 86.93, window_size=16, **FROM12
    ),
    "swinv2_large_window12to24_192to384": _swin(
        192, 18, 384, "swinv2_large_window12to24_192to384.ms_in22k_ft_in1k", 87.47, window_size=24, **FROM12
    ),
    "vit_base_patch32_clip_224": _vit(
        BASE, 32, 224, OPENCLIP, "vit_base_patch32_clip_224.laion2b", num_classes=512, **OPENAI
    ),
    "vit_base_patch16_clip_224": _vit(
        BASE, 16, 224, OPENCLIP, "vit_base_patch16_clip_224.laion2b", num_classes=512, crop_pct=1.0, **OPENAI
    ),
    "vit_large_patch14_clip_224": _vit(
        LARGE,
        14,
        224,
        OPENCLIP,
        "vit_large_patch14_clip_224.laion2b",
        num_classes=768,
        crop_pct=1.0,
        **{**OPENAI, "statistics": (HALF, HALF)},
    ),
    "vit_huge_patch14_clip_224": _vit(
        HUGE, 14, 224, OPENCLIP, "vit_huge_patch14_clip_224.laion2b", num_classes=1024, crop_pct=1.0, **OPENAI
    ),
    "vit_base_patch32_clip_quickgelu_224": _vit(
        BASE, 32, 224, CLIP, "vit_base_patch32_clip_quickgelu_224.openai", num_classes=512, **QUICK
    ),
    "vit_base_patch16_clip_quickgelu_224": _vit(
        BASE, 16, 224, CLIP, "vit_base_patch16_clip_quickgelu_224.openai", num_classes=512, **QUICK
    ),
    "vit_large_patch14_clip_quickgelu_224": _vit(
        LARGE, 14, 224, CLIP, "vit_large_patch14_clip_quickgelu_224.openai", num_classes=768, crop_pct=1.0, **QUICK
    ),
    "vit_large_patch14_clip_quickgelu_336": _vit(
        LARGE, 14, 336, CLIP, "vit_large_patch14_clip_quickgelu_336.openai", num_classes=768, **QUICK
    ),
    "vit_base_patch16_siglip_224": _vit(BASE, 16, 224, SIGLIP, "vit_base_patch16_siglip_224.webli", **POOLED),
    "vit_base_patch16_siglip_256": _vit(BASE, 16, 256, SIGLIP, "vit_base_patch16_siglip_256.webli", **POOLED),
    "vit_base_patch16_siglip_384": _vit(BASE, 16, 384, SIGLIP, "vit_base_patch16_siglip_384.webli", **POOLED),
    "vit_base_patch16_siglip_512": _vit(BASE, 16, 512, SIGLIP, "vit_base_patch16_siglip_512.webli", **POOLED),
    "vit_large_patch16_siglip_256": _vit(LARGE, 16, 256, SIGLIP, "vit_large_patch16_siglip_256.webli", **POOLED),
    "vit_large_patch16_siglip_384": _vit(LARGE, 16, 384, SIGLIP, "vit_large_patch16_siglip_384.webli", **POOLED),
    "vit_so400m_patch14_siglip_224": _vit(SO400M, 14, 224, SIGLIP, "vit_so400m_patch14_siglip_224.webli", **POOLED),
    "vit_so400m_patch14_siglip_378": _vit(SO400M, 14, 378, SIGLIP, "vit_so400m_patch14_siglip_378.webli", **POOLED),
    "data2vec_vision_base_patch16_224": Preset(
        ModelSpec(arch="vit", spec=_spec(BASE, 16, 224, **PER_BLOCK)),
        SQUASHED,
        DATA2VEC,
        "facebook/data2vec-vision-base-ft1k",
        top1=84.2,
        **DATA2VEC_HUB,
    ),
    "data2vec_vision_large_patch16_224": Preset(
        ModelSpec(arch="vit", spec=_spec(LARGE, 16, 224, **PER_BLOCK)),
        SQUASHED,
        DATA2VEC,
        "facebook/data2vec-vision-large-ft1k",
        top1=86.6,
        **DATA2VEC_HUB,
    ),
    "mae_pretrain_vit_base": _mae(BASE, 16, "timm/vit_base_patch16_224.mae"),
    "mae_pretrain_vit_large": _mae(LARGE, 16, "timm/vit_large_patch16_224.mae"),
    "mae_pretrain_vit_huge": _mae(HUGE, 14, "timm/vit_huge_patch14_224.mae"),
    "mae_visualize_vit_base": _mae(BASE, 16, "facebook/vit-mae-base", **AUTOENCODER),
    "mae_visualize_vit_large": _mae(LARGE, 16, "facebook/vit-mae-large", **AUTOENCODER),
    "mae_visualize_vit_huge": _mae(HUGE, 14, "facebook/vit-mae-huge", **AUTOENCODER),
    "mae_finetuned_vit_base": _mae(BASE, 16, None, top1=83.6, **TUNED),
    "mae_finetuned_vit_large": _mae(LARGE, 16, None, top1=85.9, **TUNED),
    "mae_finetuned_vit_huge": _mae(HUGE, 14, None, top1=86.9, **TUNED),
    "vit_b_16": _torchvision(BASE, 16, 224, 81.07, resize=256, **FROM_SCRATCH),
    "vit_b_16_swag": _torchvision(BASE, 16, 384, 85.30, resize=384),
    "vit_b_16_lc_swag": _torchvision(BASE, 16, 224, 81.89, resize=224),
    "vit_b_32": _torchvision(BASE, 32, 224, 75.91, resize=256, **FROM_SCRATCH),
    "vit_l_16": _torchvision(LARGE, 16, 224, 79.66, resize=242, **FROM_SCRATCH),
    "vit_l_16_swag": _torchvision(LARGE, 16, 512, 88.06, resize=512),
    "vit_l_16_lc_swag": _torchvision(LARGE, 16, 224, 85.15, resize=224),
    "vit_l_32": _torchvision(LARGE, 32, 224, 76.97, resize=256, **FROM_SCRATCH),
    "vit_h_14_swag": _torchvision(HUGE, 14, 518, 88.55, resize=518),
    "vit_h_14_lc_swag": _torchvision(HUGE, 14, 224, 85.71, resize=224),
}


def find_preset(name: str) -> Preset:
    """The preset called `name`; a ConfigError with the nearest name otherwise."""
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown{nearest(name, PRESETS)}; list: vitkit models")
    return PRESETS[name]
