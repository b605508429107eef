"""Recipes: TOML files of what differs from the defaults, by path, or by name those that come with vitkit."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from vitkit.errors import ConfigError, nearest

__all__ = ["Recipe", "list_recipes", "read_recipe"]


@dataclass(frozen=True)
class Recipe:
    """What a recipe says, not yet checked against any schema."""

    origin: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of TrainSpec."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """The table [model]: "preset" or "arch", and fields of that model's spec."""


def list_recipes() -> list[str]:
    """The names of the recipes that come with vitkit."""
    names = (entry.name for entry in _place().iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def read_recipe(source: str | os.PathLike[str]) -> Recipe:
    """The recipe in a file, or of a name in `list_recipes`. ConfigError where there is none or it can't be read."""
    path, names = Path(source), list_recipes()
    named = not path.suffix and path.name == str(source) and not path.exists()
    if named and path.name not in names:
        known = ", ".join(names)
        raise ConfigError(f"recipe {path.name!r} is unknown{nearest(path.name, names)}; give a TOML file, or: {known}")
    try:
        text = (_place() / f"{path}.toml" if named else path).read_text(encoding="utf-8")
        settings = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the recipe can't be read ({error})") from None
    model = settings.pop("model", {})
    if not isinstance(model, Mapping):
        raise ConfigError(f"{path}: model is {model!r}, not a table")
    return Recipe(str(source), settings, model)


def _place() -> Traversable:
    return resources.files("vitkit") / "recipes"
