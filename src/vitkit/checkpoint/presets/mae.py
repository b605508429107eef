"""MAE: the encoder, the whole autoencoder, and the fine-tuned classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitkit.checkpoint.presets.preset import BASE, HUGE, LARGE, Preset, cropped, vit_spec
from vitkit.model.spec import MaeSpec, ModelSpec

MAE = "He et al. 2022, arXiv:2111.06377, table 3"


def _mae(
    width: tuple[int, int, int, int],
    patch: int,
    hub_id: str | None,
    *,
    whole: bool = False,
    licence: str = "cc-by-nc-4.0",
    top1: float | None = None,
    **fields: Any,
) -> Preset:
    """MAE's encoder, or the whole autoencoder, at 224 as its authors evaluate it (their util/datasets.py)."""
    spec = vit_spec(width, patch, 224, position_resample="bicubic", **{"num_classes": 0, **fields})
    return Preset(
        model=ModelSpec(arch="mae", spec=MaeSpec(**vars(spec))) if whole else ModelSpec(arch="vit", spec=spec),
        preprocess=cropped(224, 256),
        source=MAE,
        hub_id=hub_id,
        licence=licence,
        top1=top1,
        imagenet1k=bool(spec.num_classes),
        timm="",
    )


AUTOENCODER: Mapping[str, Any] = {"whole": True, "licence": "apache-2.0"}
TUNED: Mapping[str, Any] = {"num_classes": 1000, "pool": "mean", "final_norm": "pooled"}

PRESETS: Mapping[str, Preset] = {
    "mae_pretrain_vit_base": _mae(BASE, 16, "timm/vit_base_patch16_224.mae"),
    "mae_pretrain_vit_large": _mae(LARGE, 16, "timm/vit_large_patch16_224.mae"),
    "mae_pretrain_vit_huge": _mae(HUGE, 14, "timm/vit_huge_patch14_224.mae"),
    "mae_visualize_vit_base": _mae(BASE, 16, "facebook/vit-mae-base", **AUTOENCODER),
    "mae_visualize_vit_large": _mae(LARGE, 16, "facebook/vit-mae-large", **AUTOENCODER),
    "mae_visualize_vit_huge": _mae(HUGE, 14, "facebook/vit-mae-huge", **AUTOENCODER),
    "mae_finetuned_vit_base": _mae(BASE, 16, None, top1=83.6, **TUNED),
    "mae_finetuned_vit_large": _mae(LARGE, 16, None, top1=85.9, **TUNED),
    "mae_finetuned_vit_huge": _mae(HUGE, 14, None, top1=86.9, **TUNED),
}
