"""The one table of objectives: a new one is a file of its own and a row here."""

from __future__ import annotations

from collections.abc import Mapping

from vitkit.errors import ConfigError, nearest
from vitkit.training.distillation import Distillation
from vitkit.training.objective import Classification, Objective

__all__ = ["OBJECTIVES", "find_objective"]

OBJECTIVES: Mapping[str, type[Objective]] = {
    "classification": Classification,
    "distillation": Distillation,
}
"""What the setting `objective` may be."""


def find_objective(name: str) -> type[Objective]:
    """The objective called `name`. Raises ConfigError naming the known ones."""
    if name not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise ConfigError(f"objective {name!r} is unknown{nearest(name, OBJECTIVES)}; allowed: {known}")
    return OBJECTIVES[name]
