"""Where a training starts: a checkpoint fitted to the data, or a new small model, and what it shall see."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vitkit.api.load import read_source
from vitkit.api.runs import RunSpec
from vitkit.checkpoint.adapt import with_distillation_token
from vitkit.checkpoint.presets import find_preset
from vitkit.config import to_dict
from vitkit.data.depth import find_value_range, probe
from vitkit.data.samples import Samples
from vitkit.errors import ConfigError, list_faults
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel
from vitkit.model.build import build, model_spec
from vitkit.model.spec import AnySpec, VitSpec
from vitkit.training.recipes import Recipe
from vitkit.training.spec import TrainSpec
from vitkit.training.starts import new_spec, spread_positions
from vitkit.training.tune import freeze

__all__ = ["Start", "check_early_size", "find_start", "natural_size", "start_model"]


NAMES, SIZES = ("model", "preset", "revision"), ("image_size", "patch_size")
"""What a start is known by, and what of a checkpoint's shape can be another."""
FROM_DATA = ("in_channels", "num_classes")


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a training starts from: what flags say, else the run that is resumed, else a recipe."""

    model: str | None
    """The checkpoint; None for a new model."""
    preset: str | None
    """What a bare weight file is, or whose shape a new model has."""
    revision: str | None
    image_size: int | tuple[int, int] | None
    patch_size: int | None
    shape: Mapping[str, Any]
    """Of a new model: "arch", and fields of its spec."""
    origin: str
    """Where the shape is said, for errors."""


def find_start(
    model: str | os.PathLike[str] | None,
    preset: str | None,
    revision: str | None,
    image_size: int | tuple[int, int] | None,
    patch_size: int | None,
    recipe: Recipe,
    resumed: RunSpec | None,
) -> Start:
    """What all say together; ConfigError for a recipe whose table [model] doesn't fit the start."""
    told: dict[str, Any] = {
        "model": None if model is None else os.fspath(model),
        "preset": preset,
        "revision": revision,
        "image_size": image_size,
        "patch_size": patch_size,
    }
    shape = dict(recipe.model)
    if resumed is not None:
        made = to_dict(resumed.spec.spec)
        before = {**{name: made.get(name) for name in SIZES}, **{name: getattr(resumed, name) for name in NAMES}}
        told = {name: before[name] if value is None else value for name, value in told.items()}
        if told["model"] is None:
            arch = {} if told["preset"] else {"arch": resumed.spec.arch}
            shape = {**arch, **{name: value for name, value in made.items() if name not in FROM_DATA}, **shape}
    for name in ("preset", "image_size", *(["patch_size"] if told["model"] else [])):
        said = shape.pop(name, None)
        told[name] = said if told[name] is None else told[name]
    if told["model"] is not None and shape:
        own = [f"{name} is the checkpoint's own; leave it out, or start anew without --model" for name in shape]
        raise ConfigError(f"{recipe.origin}: model: {list_faults(own)}")
    if told["model"] is None and told["preset"] is not None and told["image_size"] is None:
        told["image_size"] = find_preset(told["preset"]).model.spec.image_size
    if isinstance(told["image_size"], list):
        told["image_size"] = tuple(told["image_size"])
    return Start(**told, shape=shape, origin=recipe.origin)


def start_model(
    start: Start, value_range: tuple[float, float] | None, samples: Samples, num_classes: int, spec: TrainSpec
) -> tuple[ImageModel, Preprocess]:
    """The model to train and its preprocessing: a checkpoint's, of whole pictures, or those of a new model.

    Pictures of more than 8 bits are read in `value_range`, else that of the checkpoint, else the one that holds all of
    `samples`.
    """
    torch.manual_seed(spec.seed)
    distilled = spec.objective == "distillation" and spec.distill.token
    if start.model is None:
        size, channels = natural_size(samples, start.image_size)
        new = new_spec(
            size,
            in_channels=channels,
            num_classes=num_classes,
            patch_size=start.patch_size,
            preset=start.preset,
            shape=start.shape,
            origin=start.origin,
        )
        module = _build(_distilled(new) if distilled else new, spec.drop_path)
        if start.preset is None:
            spread_positions(module)
        return module, _in_range(_new_preprocess(size, channels), value_range, samples)
    found = read_source(
        start.model,
        revision=start.revision,
        preset=start.preset,
        num_classes=num_classes,
        image_size=start.image_size,
        patch_size=start.patch_size,
    )
    if distilled:
        found = with_distillation_token(found)
    if found.card.preprocess is None:
        raise ConfigError(f"{found.report.source}: its preprocessing is unknown; name one with --preset")
    module = _build(found.model.spec, spec.drop_path)
    module.load_state_dict(found.state)
    freeze(module, spec)
    return module, _in_range(_whole(found.card.preprocess), value_range, samples)


def check_early_size(module: ImageModel, spec: TrainSpec) -> None:
    """Raises ConfigError where early steps can't have pictures of their size, or `module` takes none of it."""
    if spec.early_size is None:
        return
    if spec.augment.crop_scale is None and spec.early_size < min(module.spec.image_size):
        raise ConfigError(
            f"early_size {spec.early_size} makes random crops smaller, and augment has none: set its crop_scale, or "
            "leave early_size out"
        )
    pixels = torch.zeros(1, module.spec.in_channels, spec.early_size, spec.early_size)
    try:
        with torch.inference_mode():
            module.eval()(pixels)
    except ConfigError as error:
        raise ConfigError(f"early_size {spec.early_size} isn't for this model: {error}") from None


def _distilled(new: AnySpec) -> VitSpec:
    if not isinstance(new, VitSpec):
        raise ConfigError(f"a {new.title} has no distillation token; train it with --no-distill-token")
    return dataclasses.replace(new, class_token=True, distillation_token=True, pool="cls", final_norm="tokens")


def _whole(preprocess: Preprocess) -> Preprocess:
    """Without the margin that many checkpoints cut off: what one's own pictures show may reach to the edge."""
    return preprocess if preprocess.resize == "none" else dataclasses.replace(preprocess, resize_size=preprocess.size)


def _in_range(preprocess: Preprocess, value_range: tuple[float, float] | None, samples: Samples) -> Preprocess:
    """With the range of deep pictures: the one given, the one that is there, or the one that `samples` fill."""
    if value_range is None and preprocess.value_range is None and probe(samples).deep:
        value_range = find_value_range(samples)
    return preprocess if value_range is None else dataclasses.replace(preprocess, value_range=value_range)


def _build(spec: AnySpec, drop_path: float | None) -> ImageModel:
    return build(model_spec(spec if drop_path is None else dataclasses.replace(spec, drop_path=drop_path)))


def natural_size(samples: Samples, image_size: int | tuple[int, int] | None) -> tuple[tuple[int, int], int]:
    """Size and channels for a new model: those of small arrays, else 128x128 RGB; `image_size` has the last word.

    8-bit RGBA arrays become RGB, as pictures with alpha do; arrays of other channels keep them.
    """
    first = probe(samples)
    size, channels = (128, 128), 3
    if first.is_array:
        channels = 3 if first.channels == 4 and not first.deep else first.channels
        if max(first.height, first.width) <= 96:
            size = first.height, first.width
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return size, channels


def _new_preprocess(size: tuple[int, int], channels: int) -> Preprocess:
    """Of a new model: photos are cropped to a square, small figures keep all their pixels."""
    cropped = size[0] == size[1] and max(size) > 16
    return Preprocess(
        size=size,
        resize="shortest" if cropped else "squash",
        crop="center_round" if cropped else "none",
        interpolation="bicubic",
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
