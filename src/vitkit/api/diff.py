"""diff: where two models part between pixels and logits, and by how much."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from vitkit.api.load import Source, read_source
from vitkit.device import parse_dtype
from vitkit.engine.predict import Predictor
from vitkit.errors import ConfigError
from vitkit.evaluation.diff import Difference, compare
from vitkit.evaluation.sides import Ours, Side, load_timm, load_transformers
from vitkit.image.decode import Picture
from vitkit.image.preprocess import Preprocess

__all__ = ["diff"]

Model: TypeAlias = Source | Predictor | nn.Module | tuple[nn.Module, Preprocess]
Size: TypeAlias = int | tuple[int, int]
Dtype: TypeAlias = str | torch.dtype


def diff(
    a: Model,
    b: Model,
    pictures: Iterable[Picture] = (),
    *,
    preset_a: str | None = None,
    preset_b: str | None = None,
    image_size_a: Size | None = None,
    image_size_b: Size | None = None,
    parity_a: str | None = None,
    parity_b: str | None = None,
    dtype_a: Dtype | None = None,
    dtype_b: Dtype | None = None,
    rtol: float | None = None,
) -> Difference:
    """Walks two models from pixels to logits and returns every stage compared: `.departure` is the first that departs.

    A model is anything `vitkit.load` takes (with `preset`, `image_size` and `parity` as there); "timm:" or "hf:" and a
    folder, Hub id or timm's name, which is then run by timm or transformers itself with its own preparation; a
    Predictor; a module of any of the three, or a pair of it and a Preprocess. A module alone is shown the other's
    pixels. Both see generated pictures, then `pictures`, on the CPU in float64 unless a `dtype` is named; `rtol`
    replaces the limits, which follow from it. Raises ConfigError, CheckpointError, EngineError for a library that
    isn't installed, and ImageError.
    """
    if rtol is not None and not rtol > 0:
        raise ConfigError(f"rtol is {rtol}; it must be larger than 0")
    side_a = _side(a, "a", _Options(preset_a, image_size_a, parity_a, dtype_a))
    side_b = _side(b, "b", _Options(preset_b, image_size_b, parity_b, dtype_b))
    return compare(side_a, side_b, pictures, rtol=rtol)


@dataclass(frozen=True)
class _Options:
    """How a model is loaded."""

    preset: str | None
    image_size: Size | None
    parity: str | None
    dtype: Dtype | None

    def refuse(self, letter: str, why: str, *names: str) -> None:
        """Raises ConfigError for those of the options `names` that are given."""
        given = [f"{name}_{letter}" for name in names if getattr(self, name) is not None]
        if given:
            raise ConfigError(f"{', '.join(given)}: {why}")

    @property
    def floating(self) -> torch.dtype:
        """In which the model computes."""
        return torch.float64 if self.dtype is None else parse_dtype(self.dtype)


def _side(model: Model, letter: str, options: _Options) -> Side:
    size = (options.image_size,) * 2 if isinstance(options.image_size, int) else options.image_size
    if not isinstance(model, str | os.PathLike):
        options.refuse(
            letter, "the model is loaded already; pass that to vitkit.load", "preset", "image_size", "parity"
        )
        return _live(model, letter, options)
    source = os.fspath(model)
    library, _, name = source.partition(":")
    if library == "timm":
        options.refuse(letter, "is vitkit's; timm runs its own way", "parity")
        return load_timm(name, preset=options.preset, image_size=size, dtype=options.floating)
    if library == "hf":
        options.refuse(letter, "transformers takes it from the checkpoint alone", "preset", "image_size", "parity")
        return load_transformers(name, dtype=options.floating)
    checkpoint = read_source(model, preset=options.preset, image_size=size, parity=options.parity)
    preprocess = checkpoint.card.preprocess
    return Side(
        checkpoint.report.source,
        checkpoint.module(dtype=options.floating),
        None if preprocess is None else Ours(preprocess),
    )


def _live(model: Predictor | nn.Module | tuple[nn.Module, Preprocess], letter: str, options: _Options) -> Side:
    """A side of a copy, so that the caller's module stays as it is."""
    module: nn.Module
    if isinstance(model, Predictor):
        name, module, preprocess = model.report.source, model.module, model.card.preprocess
    elif isinstance(model, nn.Module):
        name, module, preprocess = letter, model, getattr(getattr(model, "card", None), "preprocess", None)
    else:
        name, (module, preprocess) = letter, model
    own = copy.deepcopy(module).to(device="cpu", dtype=options.floating).eval()
    return Side(name, own, None if preprocess is None else Ours(preprocess))
