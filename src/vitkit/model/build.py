"""From a ModelSpec to its module: the one table of architectures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from vitkit.model.base import ImageModel
from vitkit.model.clip import Clip
from vitkit.model.mae import MaskedAutoencoder
from vitkit.model.resnet import ResNet
from vitkit.model.spec import SPECS, AnySpec, ModelSpec
from vitkit.model.swin import SwinTransformer
from vitkit.model.vit import VisionTransformer

__all__ = ["BUILDERS", "build", "build_empty", "model_spec"]

BUILDERS: Mapping[str, type[ImageModel]] = {
    "vit": VisionTransformer,
    "clip": Clip,
    "mae": MaskedAutoencoder,
    "swin": SwinTransformer,
    "resnet": ResNet,
}


def build(model: ModelSpec) -> ImageModel:
    """A freshly initialised module, drawn from torch's global generator: seed it before."""
    fields = {field.name: getattr(model.spec, field.name) for field in dataclasses.fields(model.spec)}
    return BUILDERS[model.arch](**fields)


def build_empty(model: ModelSpec) -> ImageModel:
    """The module on torch's "meta" device: shapes without memory, for load_state_dict(assign=True)."""
    with torch.device("meta"):
        return build(model)


def model_spec(spec: AnySpec) -> ModelSpec:
    """The ModelSpec of `spec`."""
    arch = next(name for name, kind in SPECS.items() if type(spec) is kind)
    return ModelSpec(arch=arch, spec=spec)  # type: ignore[arg-type]
