"""From a ModelSpec to its module: the one table of architectures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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
    with torch.device("meta"), _Unfilled():
        return build(model)


class _Unfilled(TorchFunctionMode):
    """Leaves initial values out, of which "meta" holds none: asking for random ones imports torch's compiler."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The tensor as it is, or what the function gives."""
        given = kwargs or {}
        if function in (Tensor.normal_, Tensor.uniform_) or getattr(function, "__module__", None) == nn.init.__name__:
            return args[0] if args else given["tensor"]
        return function(*args, **given)


def model_spec(spec: AnySpec) -> ModelSpec:
    """The ModelSpec of `spec`."""
    arch = next(name for name, kind in SPECS.items() if type(spec) is kind)
    return ModelSpec(arch=arch, spec=spec)  # type: ignore[arg-type]
