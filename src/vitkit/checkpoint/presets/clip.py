"""CLIP, OpenCLIP and SigLIP: the image towers that timm has, and both towers as transformers has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vitkit.checkpoint.presets.preset import BASE, HUGE, LARGE, MEDIUM, Preset, cropped, timm_vit, vit_spec
from vitkit.image.preprocess import Preprocess
from vitkit.image.sources import HALF, OPENAI_MEAN, OPENAI_STD
from vitkit.model.spec import ClipSpec, ModelSpec
from vitkit.model.text_spec import TextSpec

CLIP = "Radford et al. 2021, arXiv:2103.00020"
OPENCLIP = "Cherti et al. 2022, arXiv:2212.07143"
SIGLIP = "Zhai et al. 2023, arXiv:2303.15343"

SO400M = (1152, 27, 16, 4304)

OPENAI: Mapping[str, Any] = {"pre_norm": True, "norm_eps": 1e-5, "statistics": (OPENAI_MEAN, OPENAI_STD)}
QUICK: Mapping[str, Any] = {**OPENAI, "activation": "quick_gelu"}
POOLED: Mapping[str, Any] = {"num_classes": 0, "class_token": False, "pool": "attention", "crop_pct": 0.9}


def _both(spec: ClipSpec, preprocess: Preprocess, source: str, hub_id: str, licence: str, top1: float) -> Preset:
    """Two towers; `top1` is zero-shot, as OpenCLIP measured it (docs/openclip_results.csv)."""
    model = ModelSpec(arch="clip", spec=spec)
    return Preset(model, preprocess, source, hub_id, licence, top1, imagenet1k=False, timm="")


def _clip(
    image: tuple[int, int, int, int],
    patch: int,
    size: int,
    text: tuple[int, int, int, int],
    hub_id: str,
    top1: float,
    *,
    source: str = CLIP,
    activation: Any = "quick_gelu",
) -> Preset:
    """Towers of the given (embed_dim, depth, num_heads, mlp_dim); the shared space is as wide as the text's."""
    embed_dim, depth, num_heads, mlp_dim = text
    tower = TextSpec(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_dim=mlp_dim,
        activation=activation,
        pool="highest",
        end_token=0,
    )
    fields = {"pre_norm": True, "norm_eps": 1e-5, "activation": activation, "num_classes": 0}
    encoder = vit_spec(image, patch, size, position_resample="bicubic", **fields)
    spec = ClipSpec(**vars(encoder), projection_dim=embed_dim, text=tower)
    preprocess = dataclasses.replace(cropped(size, size, statistics=(OPENAI_MEAN, OPENAI_STD)), crop="center_floor")
    return _both(spec, preprocess, source, hub_id, "mit", top1)


def _siglip(width: tuple[int, int, int, int], patch: int, size: int, hub_id: str, top1: float) -> Preset:
    """Both towers of the given (embed_dim, depth, num_heads, mlp_dim)."""
    embed_dim, depth, num_heads, mlp_dim = width
    tower = TextSpec(
        vocab_size=32_000,
        context_length=64,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_dim=mlp_dim,
        causal=False,
        pool="last",
        end_token=0,
        output_bias=True,
        activation="gelu_tanh",
        norm_eps=1e-6,
    )
    fields = {"class_token": False, "pool": "attention", "activation": "gelu_tanh", "num_classes": 0}
    ragged = bool(size % patch)
    encoder = vit_spec(width, patch, size, ragged_edges=ragged, position_resample="bicubic", **fields)
    preprocess = Preprocess(
        size=(size, size),
        resize="squash",
        resize_size=(size, size),
        crop="none",
        interpolation="bicubic",
        mean=HALF,
        std=HALF,
    )
    spec = ClipSpec(**vars(encoder), text=tower, logit_bias=True)
    return _both(spec, preprocess, SIGLIP, hub_id, "apache-2.0", top1)


PRESETS: Mapping[str, Preset] = {
    "vit_base_patch32_clip_224": timm_vit(
        BASE, 32, 224, OPENCLIP, "vit_base_patch32_clip_224.laion2b", num_classes=512, **OPENAI
    ),
    "vit_base_patch16_clip_224": timm_vit(
        BASE, 16, 224, OPENCLIP, "vit_base_patch16_clip_224.laion2b", num_classes=512, crop_pct=1.0, **OPENAI
    ),
    "vit_large_patch14_clip_224": timm_vit(
        LARGE,
        14,
        224,
        OPENCLIP,
        "vit_large_patch14_clip_224.laion2b",
        num_classes=768,
        crop_pct=1.0,
        **{**OPENAI, "statistics": (HALF, HALF)},
    ),
    "vit_huge_patch14_clip_224": timm_vit(
        HUGE, 14, 224, OPENCLIP, "vit_huge_patch14_clip_224.laion2b", num_classes=1024, crop_pct=1.0, **OPENAI
    ),
    "vit_base_patch32_clip_quickgelu_224": timm_vit(
        BASE, 32, 224, CLIP, "vit_base_patch32_clip_quickgelu_224.openai", num_classes=512, **QUICK
    ),
    "vit_base_patch16_clip_quickgelu_224": timm_vit(
        BASE, 16, 224, CLIP, "vit_base_patch16_clip_quickgelu_224.openai", num_classes=512, **QUICK
    ),
    "vit_large_patch14_clip_quickgelu_224": timm_vit(
        LARGE, 14, 224, CLIP, "vit_large_patch14_clip_quickgelu_224.openai", num_classes=768, crop_pct=1.0, **QUICK
    ),
    "vit_large_patch14_clip_quickgelu_336": timm_vit(
        LARGE, 14, 336, CLIP, "vit_large_patch14_clip_quickgelu_336.openai", num_classes=768, **QUICK
    ),
    "vit_base_patch16_siglip_224": timm_vit(BASE, 16, 224, SIGLIP, "vit_base_patch16_siglip_224.webli", **POOLED),
    "vit_base_patch16_siglip_256": timm_vit(BASE, 16, 256, SIGLIP, "vit_base_patch16_siglip_256.webli", **POOLED),
    "vit_base_patch16_siglip_384": timm_vit(BASE, 16, 384, SIGLIP, "vit_base_patch16_siglip_384.webli", **POOLED),
    "vit_base_patch16_siglip_512": timm_vit(BASE, 16, 512, SIGLIP, "vit_base_patch16_siglip_512.webli", **POOLED),
    "vit_large_patch16_siglip_256": timm_vit(LARGE, 16, 256, SIGLIP, "vit_large_patch16_siglip_256.webli", **POOLED),
    "vit_large_patch16_siglip_384": timm_vit(LARGE, 16, 384, SIGLIP, "vit_large_patch16_siglip_384.webli", **POOLED),
    "vit_so400m_patch14_siglip_224": timm_vit(SO400M, 14, 224, SIGLIP, "vit_so400m_patch14_siglip_224.webli", **POOLED),
    "vit_so400m_patch14_siglip_378": timm_vit(SO400M, 14, 378, SIGLIP, "vit_so400m_patch14_siglip_378.webli", **POOLED),
    "clip-vit-base-patch32": _clip(BASE, 32, 224, MEDIUM, "openai/clip-vit-base-patch32", 63.32),
    "clip-vit-base-patch16": _clip(BASE, 16, 224, MEDIUM, "openai/clip-vit-base-patch16", 68.34),
    "clip-vit-large-patch14": _clip(LARGE, 14, 224, BASE, "openai/clip-vit-large-patch14", 75.54),
    "clip-vit-large-patch14-336": _clip(LARGE, 14, 336, BASE, "openai/clip-vit-large-patch14-336", 76.56),
    "CLIP-ViT-B-32-laion2B-s34B-b79K": _clip(
        BASE, 32, 224, MEDIUM, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", 66.56, source=OPENCLIP, activation="gelu"
    ),
    "siglip-base-patch16-224": _siglip(BASE, 16, 224, "google/siglip-base-patch16-224", 76.04),
    "siglip-so400m-patch14-384": _siglip(SO400M, 14, 384, "google/siglip-so400m-patch14-384", 83.08),
}
