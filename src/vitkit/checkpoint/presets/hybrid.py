"""Hybrids: a ViT behind a ResNet's stem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitkit.checkpoint.presets.preset import AUGREG, BASE, LARGE, PAPER, SMALL, TINY, Preset, timm_vit

ROOT: Mapping[str, Any] = {"timm": "VisionTransformer on R", "stem_depths": ()}
R26: Mapping[str, Any] = {"timm": "VisionTransformer on R26", "stem_depths": (2, 2, 2, 2)}
R50: Mapping[str, Any] = {"timm": "VisionTransformer on R50", "stem_depths": (3, 4, 6, 3)}
R50_CUT: Mapping[str, Any] = {"timm": "VisionTransformer on R50 of three stages", "stem_depths": (3, 4, 9)}

PRESETS: Mapping[str, Preset] = {
    "vit_tiny_r_s16_p8_224": timm_vit(
        TINY, 32, 224, AUGREG, "vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k", 71.80, **ROOT
    ),
    "vit_tiny_r_s16_p8_384": timm_vit(
        TINY, 32, 384, AUGREG, "vit_tiny_r_s16_p8_384.augreg_in21k_ft_in1k", 75.96, **ROOT
    ),
    "vit_small_r26_s32_224": timm_vit(
        SMALL, 32, 224, AUGREG, "vit_small_r26_s32_224.augreg_in21k_ft_in1k", 81.86, **R26
    ),
    "vit_small_r26_s32_384": timm_vit(
        SMALL, 32, 384, AUGREG, "vit_small_r26_s32_384.augreg_in21k_ft_in1k", 84.07, **R26
    ),
    "vit_base_r50_s16_224": timm_vit(BASE, 16, 224, PAPER, "vit_base_r50_s16_224.orig_in21k", num_classes=0, **R50_CUT),
    "vit_base_r50_s16_384": timm_vit(BASE, 16, 384, PAPER, "vit_base_r50_s16_384.orig_in21k_ft_in1k", 84.99, **R50_CUT),
    "vit_large_r50_s32_224": timm_vit(
        LARGE, 32, 224, AUGREG, "vit_large_r50_s32_224.augreg_in21k_ft_in1k", 84.43, **R50
    ),
    "vit_large_r50_s32_384": timm_vit(
        LARGE, 32, 384, AUGREG, "vit_large_r50_s32_384.augreg_in21k_ft_in1k", 86.19, **R50
    ),
}
