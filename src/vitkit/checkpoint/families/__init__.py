"""The families of checkpoints, one file each: tables of names and configurations, data only."""

from __future__ import annotations

from collections.abc import Mapping

from vitkit.checkpoint.dialect import Dialect, Family, Layout
from vitkit.checkpoint.families import (
    beit,
    clip,
    data2vec,
    deit,
    dino,
    dinov3,
    google,
    hybrid,
    mae,
    resnet,
    swin,
    torchvision,
    vit,
)

__all__ = ["FAMILIES", "LAYOUTS", "TIMM", "TRANSFORMERS"]

FAMILIES: Mapping[str, Family] = {
    "clip": clip.FAMILY,
    "beit": beit.FAMILY,
    "data2vec": data2vec.FAMILY,
    "deit": deit.FAMILY,
    "dino": dino.FAMILY,
    "dinov3": dinov3.FAMILY,
    "mae": mae.FAMILY,
    "vit": vit.FAMILY,
    "hybrid": hybrid.FAMILY,
    "google": google.FAMILY,
    "torchvision": torchvision.FAMILY,
    "swin": swin.FAMILY,
    "resnet": resnet.FAMILY,
}

LAYOUTS: Mapping[str, Layout] = {
    name: layout for family in FAMILIES.values() for name, layout in family.layouts.items()
}
"""Tried in this order: the first whose marks a file bears is its layout."""

TRANSFORMERS: tuple[Dialect, ...] = tuple(d for family in FAMILIES.values() for d in family.transformers)
"""Classes of one model_type and architecture read its configuration alike."""

TIMM: Mapping[str, Dialect] = {d.kind: d for family in FAMILIES.values() for d in family.timm}
"""By timm's class."""
