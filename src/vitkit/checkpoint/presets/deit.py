"""DeiT, distilled DeiT and DeiT III."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitkit.checkpoint.presets.preset import BASE, HUGE, LARGE, MEDIUM, PLAIN, SMALL, TINY, Preset, timm_vit

DEIT = "Touvron et al. 2021, arXiv:2012.12877, table 1"
DEIT3 = "Touvron et al. 2022, arXiv:2204.07118"

DISTILLED: Mapping[str, Any] = {**PLAIN, "timm": "VisionTransformerDistilled", "distillation_token": True}
THIRD: Mapping[str, Any] = {**PLAIN, "prefix_positions": False, "layer_scale": 1e-6}

PRESETS: Mapping[str, Preset] = {
    "deit_tiny_patch16_224": timm_vit(TINY, 16, 224, DEIT, "deit_tiny_patch16_224.fb_in1k", 72.19, **PLAIN),
    "deit_small_patch16_224": timm_vit(SMALL, 16, 224, DEIT, "deit_small_patch16_224.fb_in1k", 79.86, **PLAIN),
    "deit_base_patch16_224": timm_vit(BASE, 16, 224, DEIT, "deit_base_patch16_224.fb_in1k", 81.98, **PLAIN),
    "deit_base_patch16_384": timm_vit(BASE, 16, 384, DEIT, "deit_base_patch16_384.fb_in1k", 83.11, **PLAIN),
    "deit_tiny_distilled_patch16_224": timm_vit(
        TINY, 16, 224, DEIT, "deit_tiny_distilled_patch16_224.fb_in1k", 74.54, **DISTILLED
    ),
    "deit_small_distilled_patch16_224": timm_vit(
        SMALL, 16, 224, DEIT, "deit_small_distilled_patch16_224.fb_in1k", 81.20, **DISTILLED
    ),
    "deit_base_distilled_patch16_224": timm_vit(
        BASE, 16, 224, DEIT, "deit_base_distilled_patch16_224.fb_in1k", 83.38, **DISTILLED
    ),
    "deit_base_distilled_patch16_384": timm_vit(
        BASE, 16, 384, DEIT, "deit_base_distilled_patch16_384.fb_in1k", 85.44, **DISTILLED
    ),
    "deit3_small_patch16_224": timm_vit(SMALL, 16, 224, DEIT3, "deit3_small_patch16_224.fb_in1k", 81.38, **THIRD),
    "deit3_small_patch16_384": timm_vit(SMALL, 16, 384, DEIT3, "deit3_small_patch16_384.fb_in1k", 83.43, **THIRD),
    "deit3_medium_patch16_224": timm_vit(MEDIUM, 16, 224, DEIT3, "deit3_medium_patch16_224.fb_in1k", 83.09, **THIRD),
    "deit3_base_patch16_224": timm_vit(BASE, 16, 224, DEIT3, "deit3_base_patch16_224.fb_in1k", 83.80, **THIRD),
    "deit3_base_patch16_384": timm_vit(BASE, 16, 384, DEIT3, "deit3_base_patch16_384.fb_in1k", 85.09, **THIRD),
    "deit3_large_patch16_224": timm_vit(LARGE, 16, 224, DEIT3, "deit3_large_patch16_224.fb_in1k", 84.77, **THIRD),
    "deit3_large_patch16_384": timm_vit(LARGE, 16, 384, DEIT3, "deit3_large_patch16_384.fb_in1k", 85.82, **THIRD),
    "deit3_huge_patch14_224": timm_vit(HUGE, 14, 224, DEIT3, "deit3_huge_patch14_224.fb_in1k", 85.20, **THIRD),
}
