"""The families of checkpoints, one file each: tables of names and configurations, data only."""

from __future__ import annotations

from collections.abc import Mapping

from vitkit.checkpoint.dialect import Dialect, Family, Layout
from vitkit.checkpoint.families import vit

__all__ = ["FAMILIES", "LAYOUTS", "TIMM", "TRANSFORMERS"]

FAMILIES: Mapping[str, Family] = {"vit": vit.FAMILY}

LAYOUTS: Mapping[str, Layout] = {
    name: layout for family in FAMILIES.values() for name, layout in family.layouts.items()
}
"""Tried in this order: the first whose marks a file bears is its layout."""

TRANSFORMERS: Mapping[str, Dialect] = {d.kind: d for family in FAMILIES.values() for d in family.transformers}
"""By model_type."""

TIMM: Mapping[str, Dialect] = {d.kind: d for family in FAMILIES.values() for d in family.timm}
"""By timm's class."""
