"""Hybrids, a ResNet before the ViT, in Google's .npz arrays and as timm's architectures.

Checked against timm 1.0.31 (models/vision_transformer_hybrid.py; models/vision_transformer.py, `_load_weights`) and
google-research/vision_transformer (models_vit.py, models_resnet.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vitkit.checkpoint.dialect import Dialect, Family, Layout, Outputs, Words, plain
from vitkit.checkpoint.families.google import VIT_JAX, convolution
from vitkit.checkpoint.families.vit import TIMM_VIT, timm_vit_arguments, timm_vit_fields
from vitkit.checkpoint.namemap import Op, Rule
from vitkit.model.spec import VitSpec
from vitkit.model.stem_spec import resnet_stem

__all__ = ["FAMILY"]

MOST_STAGES, MOST_UNITS = 4, 9
"""flax counts both from 1 and we from 0, so each has rows of its own; R50 has 4 stages, cut after 3 one of 9 units."""

flat = Op(lambda tensors, spec: tensors[0].flatten())  # [1, 1, 1, C], as flax once kept group norms, or [C]


def _normed(their_conv: str, our_conv: str, their_norm: str, our_norm: str) -> tuple[Rule, ...]:
    """The rows of a convolution without bias and of the group norm after it."""
    return (
        Rule(f"{{root}}{their_conv}/kernel", f"patch_embed.backbone.{our_conv}.weight", op=convolution),
        Rule(f"{{root}}{their_norm}/scale", f"patch_embed.backbone.{our_norm}.weight", op=flat),
        Rule(f"{{root}}{their_norm}/bias", f"patch_embed.backbone.{our_norm}.bias", op=flat),
    )


def _unit(stage: int, unit: int) -> tuple[Rule, ...]:
    """The rows of a bottleneck block."""
    theirs, ours = f"block{stage + 1}/unit{unit + 1}", f"stages.{stage}.blocks.{unit}"
    return (
        *_normed(f"{theirs}/conv{{i}}", f"{ours}.conv{{i}}", f"{theirs}/gn{{i}}", f"{ours}.norm{{i}}"),
        *_normed(f"{theirs}/conv_proj", f"{ours}.downsample.conv", f"{theirs}/gn_proj", f"{ours}.downsample.norm"),
    )


UNITS = tuple(rule for stage in range(MOST_STAGES) for unit in range(MOST_UNITS) for rule in _unit(stage, unit))
MARKS = ("{root}Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel", "{root}conv_root/kernel")

LAYOUTS: Mapping[str, Layout] = {
    "google/hybrid": Layout(
        arch="vit",
        marks=(*MARKS, "{root}block1/unit1/conv1/kernel"),
        rules=(*VIT_JAX, *_normed("conv_root", "stem.conv", "gn_root", "stem.norm"), *UNITS),
        implies=plain("bilinear_align_corners"),
    ),
    "google/hybrid-root": Layout(
        arch="vit",
        marks=MARKS,
        rules=(*VIT_JAX, *_normed("conv_root", "conv", "gn_root", "norm")),
        implies=plain("bilinear_align_corners"),
    ),
}


def _timm(name: str, depths: tuple[int, ...]) -> Dialect:
    """timm's ViT on a ResNet, which its architecture says and no argument: each has a dialect of its own."""
    stride = resnet_stem(depths, 3).stride

    def fields(words: Words, outputs: Outputs) -> dict[str, Any]:
        found = timm_vit_fields(words, outputs)
        return {**found, "stem_depths": depths, "patch_size": found["patch_size"] * stride}

    def arguments(spec: VitSpec) -> dict[str, Any]:
        return {**timm_vit_arguments(spec), "patch_size": spec.patch_size // stride}

    return dataclasses.replace(
        TIMM_VIT,
        name=f"timm's ViT on {name}",
        kind=f"VisionTransformer on {name}",
        first_conv=f"patch_embed.backbone.{'stem.' if depths else ''}conv",
        holds={**TIMM_VIT.holds, "stem_depths": (depths,)},
        fields=fields,
        config=arguments,
    )


FAMILY = Family(
    layouts=LAYOUTS,
    timm=(
        _timm("R", ()),
        _timm("R26", (2, 2, 2, 2)),
        _timm("R50", (3, 4, 6, 3)),
        _timm("R50 of three stages", (3, 4, 9)),
    ),
)
