"""list_models: the published models vitkit knows by name."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from vitkit.checkpoint.presets import PRESETS
from vitkit.model.spec import AnySpec

__all__ = ["ModelInfo", "list_models"]


@dataclass(frozen=True)
class ModelInfo:
    """A row of `vitkit models`."""

    name: str
    parameters: int
    gmacs: float
    """Billions of multiply-accumulates for one picture, matrix products and attention."""
    image_size: tuple[int, int]
    tokens: int
    """Those that the encoder gives."""
    top1: float | None
    """Published ImageNet-1k validation accuracy in percent, of `hub_id`'s weights."""
    licence: str | None
    hub_id: str | None
    source: str
    spec: AnySpec


def list_models(pattern: str = "*") -> list[ModelInfo]:
    """The presets whose names match the shell pattern, in the table's order (by size)."""
    rows = []
    for name, preset in PRESETS.items():
        if fnmatch.fnmatchcase(name, pattern):
            spec = preset.model.spec
            rows.append(
                ModelInfo(
                    name=name,
                    parameters=spec.num_parameters(),
                    gmacs=round(spec.macs() / 1e9, 2),
                    image_size=spec.image_size,
                    tokens=spec.num_prefix_tokens + spec.grid[0] * spec.grid[1],
                    top1=preset.top1,
                    licence=preset.licence,
                    hub_id=preset.hub_id,
                    source=preset.source,
                    spec=spec,
                )
            )
    return rows
