"""BEiT and BEiT v2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitkit.checkpoint.presets.preset import BASE, LARGE, PLAIN, Preset, timm_vit

BEIT = "Bao et al. 2022, arXiv:2106.08254"
BEIT2 = "Peng et al. 2022, arXiv:2208.06366"

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

PRESETS: Mapping[str, Preset] = {
    "beit_base_patch16_224": timm_vit(
        BASE, 16, 224, BEIT, "beit_base_patch16_224.in22k_ft_in22k_in1k", 85.24, **RELATIVE
    ),
    "beit_base_patch16_384": timm_vit(
        BASE, 16, 384, BEIT, "beit_base_patch16_384.in22k_ft_in22k_in1k", 86.81, **RELATIVE
    ),
    "beit_large_patch16_224": timm_vit(
        LARGE, 16, 224, BEIT, "beit_large_patch16_224.in22k_ft_in22k_in1k", 87.49, **SMALL_SCALE
    ),
    "beit_large_patch16_384": timm_vit(
        LARGE, 16, 384, BEIT, "beit_large_patch16_384.in22k_ft_in22k_in1k", 88.38, **SMALL_SCALE
    ),
    "beit_large_patch16_512": timm_vit(
        LARGE, 16, 512, BEIT, "beit_large_patch16_512.in22k_ft_in22k_in1k", 88.58, **SMALL_SCALE
    ),
    "beitv2_base_patch16_224": timm_vit(
        BASE, 16, 224, BEIT2, "beitv2_base_patch16_224.in1k_ft_in22k_in1k", 86.49, **PLAIN, **SMALL_SCALE
    ),
    "beitv2_large_patch16_224": timm_vit(
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
}
