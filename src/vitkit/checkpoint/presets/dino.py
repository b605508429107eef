"""DINO, DINOv2 with and without registers, DINOv3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitkit.checkpoint.presets.preset import BASE, DINO, LARGE, PLAIN, SMALL, Preset, timm_vit

DINO2 = "Oquab et al. 2024, arXiv:2304.07193"
DINO2_REGISTERS = "Darcet et al. 2024, arXiv:2309.16588"
DINO3 = "Siméoni et al. 2025, arXiv:2508.10104"

GIANT, HUGE_PLUS, SEVEN_BILLION = (1536, 40, 24, 4096), (1280, 32, 20, 5120), (4096, 40, 32, 8192)

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

PRESETS: Mapping[str, Preset] = {
    "vit_small_patch16_224.dino": timm_vit(
        SMALL, 16, 224, DINO, "vit_small_patch16_224.dino", position_resample="bicubic_offset", **HEADLESS
    ),
    "vit_small_patch8_224.dino": timm_vit(
        SMALL, 8, 224, DINO, "vit_small_patch8_224.dino", position_resample="bicubic_offset", **HEADLESS
    ),
    "vit_base_patch16_224.dino": timm_vit(
        BASE, 16, 224, DINO, "vit_base_patch16_224.dino", position_resample="bicubic_offset", **HEADLESS
    ),
    "vit_base_patch8_224.dino": timm_vit(
        BASE, 8, 224, DINO, "vit_base_patch8_224.dino", position_resample="bicubic_offset", **HEADLESS
    ),
    "vit_small_patch14_dinov2": timm_vit(SMALL, 14, 518, DINO2, "vit_small_patch14_dinov2.lvd142m", **SECOND),
    "vit_base_patch14_dinov2": timm_vit(BASE, 14, 518, DINO2, "vit_base_patch14_dinov2.lvd142m", **SECOND),
    "vit_large_patch14_dinov2": timm_vit(LARGE, 14, 518, DINO2, "vit_large_patch14_dinov2.lvd142m", **SECOND),
    "vit_giant_patch14_dinov2": timm_vit(GIANT, 14, 518, DINO2, "vit_giant_patch14_dinov2.lvd142m", **SECOND, **PACKED),
    "vit_small_patch14_reg4_dinov2": timm_vit(
        SMALL, 14, 518, DINO2_REGISTERS, "vit_small_patch14_reg4_dinov2.lvd142m", **REGISTERS
    ),
    "vit_base_patch14_reg4_dinov2": timm_vit(
        BASE, 14, 518, DINO2_REGISTERS, "vit_base_patch14_reg4_dinov2.lvd142m", **REGISTERS
    ),
    "vit_large_patch14_reg4_dinov2": timm_vit(
        LARGE, 14, 518, DINO2_REGISTERS, "vit_large_patch14_reg4_dinov2.lvd142m", **REGISTERS
    ),
    "vit_giant_patch14_reg4_dinov2": timm_vit(
        GIANT, 14, 518, DINO2_REGISTERS, "vit_giant_patch14_reg4_dinov2.lvd142m", **REGISTERS, **PACKED
    ),
    "vit_small_patch16_dinov3": timm_vit(SMALL, 16, 256, DINO3, "vit_small_patch16_dinov3.lvd1689m", **ROTARY),
    "vit_small_patch16_dinov3_qkvb": timm_vit(
        SMALL, 16, 256, DINO3, "vit_small_patch16_dinov3_qkvb.lvd1689m", **BIASED
    ),
    "vit_small_plus_patch16_dinov3": timm_vit(
        SMALL, 16, 256, DINO3, "vit_small_plus_patch16_dinov3.lvd1689m", **ROTARY, **GATED
    ),
    "vit_small_plus_patch16_dinov3_qkvb": timm_vit(
        SMALL, 16, 256, DINO3, "vit_small_plus_patch16_dinov3_qkvb.lvd1689m", **BIASED, **GATED
    ),
    "vit_base_patch16_dinov3": timm_vit(BASE, 16, 256, DINO3, "vit_base_patch16_dinov3.lvd1689m", **ROTARY),
    "vit_base_patch16_dinov3_qkvb": timm_vit(BASE, 16, 256, DINO3, "vit_base_patch16_dinov3_qkvb.lvd1689m", **BIASED),
    "vit_large_patch16_dinov3": timm_vit(LARGE, 16, 256, DINO3, "vit_large_patch16_dinov3.lvd1689m", **ROTARY),
    "vit_large_patch16_dinov3_qkvb": timm_vit(
        LARGE, 16, 256, DINO3, "vit_large_patch16_dinov3_qkvb.lvd1689m", **BIASED
    ),
    "vit_huge_plus_patch16_dinov3": timm_vit(
        HUGE_PLUS, 16, 256, DINO3, "vit_huge_plus_patch16_dinov3.lvd1689m", **ROTARY, **GATED
    ),
    "vit_huge_plus_patch16_dinov3_qkvb": timm_vit(
        HUGE_PLUS, 16, 256, DINO3, "vit_huge_plus_patch16_dinov3_qkvb.lvd1689m", **BIASED, **GATED
    ),
    "vit_7b_patch16_dinov3": timm_vit(
        SEVEN_BILLION, 16, 256, DINO3, "vit_7b_patch16_dinov3.lvd1689m", **ROTARY, **GATED
    ),
}
