"""ResNets, the convolutional networks to compare with: trained anew by timm, torchvision's first, and BiT."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitkit.checkpoint.presets.preset import Preset, cropped
from vitkit.image.sources import HALF
from vitkit.model.resnet_spec import ResidualBlock, ResNetSpec
from vitkit.model.spec import ModelSpec

STRIKES_BACK = "Wightman et al. 2021, arXiv:2110.00476, table 4 (A1)"
TORCHVISION = "He et al. 2016, arXiv:1512.03385, trained by torchvision"
BIT = "Kolesnikov et al. 2020, arXiv:1912.11370 (BiT-M)"


def _resnet(
    block: ResidualBlock,
    depths: tuple[int, ...],
    tag: str,
    top1: float,
    *,
    size: int = 224,
    crop_pct: float = 0.95,
    source: str = STRIKES_BACK,
    licence: str = "apache-2.0",
    timm: str = "",
    width: int = 64,
    **prepared: Any,
) -> Preset:
    """A ResNet as timm publishes it: at 224 bicubic, crop 0.95."""
    spec = ResNetSpec(image_size=(size, size), block=block, width=width, depths=depths)
    classes = {"basic": "ResNet of BasicBlocks", "bottleneck": "ResNet of Bottlenecks"}
    return Preset(
        model=ModelSpec(arch="resnet", spec=spec),
        preprocess=cropped(size, math.floor(size / crop_pct), **prepared),
        source=source,
        hub_id=f"timm/{tag}",
        licence=licence,
        top1=top1,
        imagenet1k=True,
        timm=timm or classes[block],
    )


def _bit(name: str, depths: tuple[int, ...], width: int, top1: float, *, size: int = 448) -> Preset:
    """A BiT as timm publishes it: pre-trained on ImageNet-21k, the whole picture, bilinear."""
    return _resnet(
        "preactivation",
        depths,
        f"resnetv2_{name}_bit.goog_in21k_ft_in1k",
        top1,
        size=size,
        crop_pct=1.0,
        source=BIT,
        timm=f"ResNetV2 {name}",
        width=64 * width,
        interpolation="bilinear",
        statistics=(HALF, HALF),
    )


R18, R34, R101, R152 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
R50 = R34  # of three convolutions instead of two
FIRST: Mapping[str, Any] = {
    "crop_pct": 0.875,
    "source": TORCHVISION,
    "licence": "bsd-3-clause",
    "interpolation": "bilinear",
}

PRESETS: Mapping[str, Preset] = {
    "resnet18": _resnet("basic", R18, "resnet18.a1_in1k", 71.50),
    "resnet34": _resnet("basic", R34, "resnet34.a1_in1k", 76.42),
    "resnet50": _resnet("bottleneck", R50, "resnet50.a1_in1k", 80.38),
    "resnet101": _resnet("bottleneck", R101, "resnet101.a1_in1k", 81.49),
    "resnet152": _resnet("bottleneck", R152, "resnet152.a1_in1k", 82.00),
    "resnet18.tv_in1k": _resnet("basic", R18, "resnet18.tv_in1k", 69.75, **FIRST),
    "resnet34.tv_in1k": _resnet("basic", R34, "resnet34.tv_in1k", 73.30, **FIRST),
    "resnet50.tv_in1k": _resnet("bottleneck", R50, "resnet50.tv_in1k", 76.16, **FIRST),
    "resnet101.tv_in1k": _resnet("bottleneck", R101, "resnet101.tv_in1k", 77.40, **FIRST),
    "resnet152.tv_in1k": _resnet("bottleneck", R152, "resnet152.tv_in1k", 78.33, **FIRST),
    "resnetv2_50x1_bit": _bit("50x1", R50, 1, 80.39),
    "resnetv2_50x3_bit": _bit("50x3", R50, 3, 83.98),
    "resnetv2_101x1_bit": _bit("101x1", R101, 1, 82.33),
    "resnetv2_101x3_bit": _bit("101x3", R101, 3, 84.43),
    "resnetv2_152x2_bit": _bit("152x2", R152, 2, 84.47),
    "resnetv2_152x4_bit": _bit("152x4", R152, 4, 84.94, size=480),
}
