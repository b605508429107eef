"""torchvision's ViTs: from scratch and SWAG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from vitkit.checkpoint.presets.preset import BASE, HUGE, LARGE, Preset, cropped, vit_spec
from vitkit.model.spec import ModelSpec

TORCHVISION = "torchvision 0.28, models/vision_transformer.py"
SWAG = "Singh et al. 2022, arXiv:2201.08371, in torchvision"


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
        model=ModelSpec(arch="vit", spec=vit_spec(width, patch, size, position_resample="bicubic_align_corners")),
        preprocess=cropped(size, resize, interpolation=interpolation),
        source=source,
        hub_id=None,
        licence=licence,
        top1=top1,
        imagenet1k=True,
        timm="",
    )


FROM_SCRATCH: Mapping[str, Any] = {"interpolation": "bilinear", "source": TORCHVISION, "licence": "bsd-3-clause"}

PRESETS: Mapping[str, Preset] = {
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
