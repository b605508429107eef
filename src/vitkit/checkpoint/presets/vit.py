"""ViT: Google's, AugReg's and the shapes later families train."""

from __future__ import annotations

from collections.abc import Mapping

from vitkit.checkpoint.presets.preset import AUGREG, BASE, DINO, HUGE, LARGE, PAPER, SMALL, TINY, Preset, timm_vit

SCALING = "Zhai et al. 2022, arXiv:2106.04560, table 2 (L/14)"

PRESETS: Mapping[str, Preset] = {
    "vit_tiny_patch16_224": timm_vit(TINY, 16, 224, AUGREG, "vit_tiny_patch16_224.augreg_in21k_ft_in1k", 75.45),
    "vit_tiny_patch16_384": timm_vit(TINY, 16, 384, AUGREG, "vit_tiny_patch16_384.augreg_in21k_ft_in1k"),
    "vit_small_patch32_224": timm_vit(SMALL, 32, 224, AUGREG, "vit_small_patch32_224.augreg_in21k_ft_in1k"),
    "vit_small_patch32_384": timm_vit(SMALL, 32, 384, AUGREG, "vit_small_patch32_384.augreg_in21k_ft_in1k"),
    "vit_small_patch16_224": timm_vit(SMALL, 16, 224, AUGREG, "vit_small_patch16_224.augreg_in21k_ft_in1k", 81.40),
    "vit_small_patch16_384": timm_vit(SMALL, 16, 384, AUGREG, "vit_small_patch16_384.augreg_in21k_ft_in1k"),
    "vit_small_patch8_224": timm_vit(SMALL, 8, 224, DINO, None),
    "vit_base_patch32_224": timm_vit(BASE, 32, 224, PAPER, "vit_base_patch32_224.augreg_in21k_ft_in1k"),
    "vit_base_patch32_384": timm_vit(BASE, 32, 384, PAPER, "vit_base_patch32_384.augreg_in21k_ft_in1k"),
    "vit_base_patch16_224": timm_vit(BASE, 16, 224, PAPER, "vit_base_patch16_224.augreg2_in21k_ft_in1k", 85.11),
    "vit_base_patch16_384": timm_vit(BASE, 16, 384, PAPER, "vit_base_patch16_384.augreg_in21k_ft_in1k", 86.01),
    "vit_base_patch8_224": timm_vit(BASE, 8, 224, DINO, "vit_base_patch8_224.augreg2_in21k_ft_in1k"),
    "vit_large_patch32_224": timm_vit(LARGE, 32, 224, PAPER, "vit_large_patch32_224.orig_in21k"),
    "vit_large_patch32_384": timm_vit(LARGE, 32, 384, PAPER, "vit_large_patch32_384.orig_in21k_ft_in1k"),
    "vit_large_patch16_224": timm_vit(LARGE, 16, 224, PAPER, "vit_large_patch16_224.augreg_in21k_ft_in1k"),
    "vit_large_patch16_384": timm_vit(LARGE, 16, 384, PAPER, "vit_large_patch16_384.augreg_in21k_ft_in1k"),
    "vit_large_patch14_224": timm_vit(LARGE, 14, 224, SCALING, None),
    "vit_huge_patch14_224": timm_vit(HUGE, 14, 224, PAPER, "vit_huge_patch14_224.orig_in21k"),
}
