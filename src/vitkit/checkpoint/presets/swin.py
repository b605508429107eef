"""Swin, Swin v2 and the searched S3."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitkit.checkpoint.presets.preset import Preset, cropped
from vitkit.model.spec import ModelSpec
from vitkit.model.swin_spec import SwinSpec

SWIN = "Liu et al. 2021, arXiv:2103.14030"
SWIN2 = "Liu et al. 2022, arXiv:2111.09883"
S3 = "Chen et al. 2021, arXiv:2111.14725"


def _swin(
    embed_dim: int,
    third: int,
    size: int,
    tag: str,
    top1: float | None = None,
    *,
    source: str = SWIN,
    timm: str = "SwinTransformer",
    **fields: Any,
) -> Preset:
    """A Swin of depths (2, 2, third, 2) and heads 32 wide as timm publishes it: bicubic, crop 0.9, 1.0 at 384."""
    spec = SwinSpec(
        image_size=(size, size),
        embed_dim=embed_dim,
        depths=(2, 2, third, 2),
        num_heads=(embed_dim // 32, embed_dim // 16, embed_dim // 8, embed_dim // 4),
        window_padding="after_shift",
        position_resample="geometric",
        **fields,
    )
    return Preset(
        model=ModelSpec(arch="swin", spec=spec),
        preprocess=cropped(size, math.floor(size / (1.0 if size == 384 else 0.9))),
        source=source,
        hub_id=f"timm/{tag}",
        licence="mit",
        top1=top1,
        imagenet1k=tag.endswith("in1k"),
        timm=timm,
    )


VERSION2: Mapping[str, Any] = {"source": SWIN2, "timm": "SwinTransformerV2", "version": 2}
FROM12: Mapping[str, Any] = {**VERSION2, "pretrained_window_size": (12, 12, 12, 6)}

PRESETS: Mapping[str, Preset] = {
    "swin_tiny_patch4_window7_224": _swin(96, 6, 224, "swin_tiny_patch4_window7_224.ms_in1k", 81.39),
    "swin_small_patch4_window7_224": _swin(96, 18, 224, "swin_small_patch4_window7_224.ms_in22k_ft_in1k", 83.33),
    "swin_base_patch4_window7_224": _swin(128, 18, 224, "swin_base_patch4_window7_224.ms_in22k_ft_in1k", 85.28),
    "swin_base_patch4_window12_384": _swin(
        128, 18, 384, "swin_base_patch4_window12_384.ms_in22k_ft_in1k", 86.44, window_size=12
    ),
    "swin_large_patch4_window7_224": _swin(192, 18, 224, "swin_large_patch4_window7_224.ms_in22k_ft_in1k", 86.32),
    "swin_large_patch4_window12_384": _swin(
        192, 18, 384, "swin_large_patch4_window12_384.ms_in22k_ft_in1k", 87.14, window_size=12
    ),
    "swin_s3_tiny_224": _swin(96, 6, 224, "swin_s3_tiny_224.ms_in1k", 82.13, source=S3, window_size=(7, 7, 14, 7)),
    "swin_s3_small_224": _swin(96, 18, 224, "swin_s3_small_224.ms_in1k", 83.78, source=S3, window_size=(14, 14, 14, 7)),
    "swin_s3_base_224": _swin(96, 30, 224, "swin_s3_base_224.ms_in1k", 83.92, source=S3, window_size=(7, 7, 14, 7)),
    "swinv2_tiny_window8_256": _swin(96, 6, 256, "swinv2_tiny_window8_256.ms_in1k", 81.82, window_size=8, **VERSION2),
    "swinv2_tiny_window16_256": _swin(
        96, 6, 256, "swinv2_tiny_window16_256.ms_in1k", 82.83, window_size=16, **VERSION2
    ),
    "swinv2_small_window8_256": _swin(
        96, 18, 256, "swinv2_small_window8_256.ms_in1k", 83.84, window_size=8, **VERSION2
    ),
    "swinv2_small_window16_256": _swin(
        96, 18, 256, "swinv2_small_window16_256.ms_in1k", 84.22, window_size=16, **VERSION2
    ),
    "swinv2_base_window8_256": _swin(128, 18, 256, "swinv2_base_window8_256.ms_in1k", 84.25, window_size=8, **VERSION2),
    "swinv2_base_window16_256": _swin(
        128, 18, 256, "swinv2_base_window16_256.ms_in1k", 84.61, window_size=16, **VERSION2
    ),
    "swinv2_base_window12_192": _swin(
        128, 18, 192, "swinv2_base_window12_192.ms_in22k", window_size=12, num_classes=21841, **VERSION2
    ),
    "swinv2_base_window12to16_192to256": _swin(
        128, 18, 256, "swinv2_base_window12to16_192to256.ms_in22k_ft_in1k", 86.27, window_size=16, **FROM12
    ),
    "swinv2_base_window12to24_192to384": _swin(
        128, 18, 384, "swinv2_base_window12to24_192to384.ms_in22k_ft_in1k", 87.14, window_size=24, **FROM12
    ),
    "swinv2_large_window12_192": _swin(
        192, 18, 192, "swinv2_large_window12_192.ms_in22k", window_size=12, num_classes=21841, **VERSION2
    ),
    "swinv2_large_window12to16_192to256": _swin(
        192, 18, 256, "swinv2_large_window12to16_192to256.ms_in22k_ft_in1k", 86.93, window_size=16, **FROM12
    ),
    "swinv2_large_window12to24_192to384": _swin(
        192, 18, 384, "swinv2_large_window12to24_192to384.ms_in22k_ft_in1k", 87.47, window_size=24, **FROM12
    ),
}
