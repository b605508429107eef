"""data2vec-vision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitkit.checkpoint.presets.beit import PER_BLOCK
from vitkit.checkpoint.presets.preset import BASE, LARGE, Preset, vit_spec
from vitkit.image.preprocess import Preprocess
from vitkit.image.sources import HALF
from vitkit.model.spec import ModelSpec

DATA2VEC = "Baevski et al. 2022, arXiv:2202.03555, table 1"

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
    "data2vec_vision_base_patch16_224": Preset(
        ModelSpec(arch="vit", spec=vit_spec(BASE, 16, 224, **PER_BLOCK)),
        SQUASHED,
        DATA2VEC,
        "facebook/data2vec-vision-base-ft1k",
        top1=84.2,
        **DATA2VEC_HUB,
    ),
    "data2vec_vision_large_patch16_224": Preset(
        ModelSpec(arch="vit", spec=vit_spec(LARGE, 16, 224, **PER_BLOCK)),
        SQUASHED,
        DATA2VEC,
        "facebook/data2vec-vision-large-ft1k",
        top1=86.6,
        **DATA2VEC_HUB,
    ),
}
