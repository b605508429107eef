"""Recipes: TOML files of what differs from the defaults, by path, or by name those that come with vitkit."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from vitkit.config import from_dict, to_dict
from vitkit.data.augment import named_augment
from vitkit.errors import ConfigError, nearest
from vitkit.training.spec import TrainSpec

__all__ = ["Recipe", "list_recipes", "read_recipe", "resolve"]


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


def resolve(base: TrainSpec, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> TrainSpec:
    """`base` under the layers, each an origin and its settings; ConfigError names the origin of what isn't allowed."""
    spec, content = base, to_dict(base)
    for origin, layer in layers:
        for name, value in layer.items():
            if name == "augment":
                value = _augment_table(value, origin)
            if isinstance(value, Mapping) and isinstance(content.get(name), dict):
                content[name] = {**content[name], **value}
            else:
                content[name] = value
        spec = from_dict(TrainSpec, content, origin=origin)
        content = to_dict(spec)
    return spec


def _augment_table(value: Any, origin: str) -> Any:
    """The fields that a name of AUGMENTS stands for, and those beside it where it is the entry "name" of a table."""
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        return value
    try:
        start = to_dict(named_augment(table["name"]))
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    return {**start, **{name: entry for name, entry in table.items() if name != "name"}}


def _place() -> Traversable:
    return resources.files("vitkit") / "recipes"
