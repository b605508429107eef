"""From a ModelSpec to its module: the one table of architectures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from vitkit.model.spec import ModelSpec
from vitkit.model.vit import VisionTransformer

__all__ = ["BUILDERS", "build", "build_empty"]

BUILDERS: Mapping[str, type[VisionTransformer]] = {"vit": VisionTransformer}


def build(model: ModelSpec) -> VisionTransformer:
    """A freshly initialised module, drawn from torch's global generator: seed it before."""
    fields = {field.name: getattr(model.spec, field.name) for field in dataclasses.fields(model.spec)}
    return BUILDERS[model.arch](**fields)


def build_empty(model: ModelSpec) -> VisionTransformer:
    """The module on torch's "meta" device: shapes without memory, for load_state_dict(assign=True)."""
    with torch.device("meta"):
        return build(model)
