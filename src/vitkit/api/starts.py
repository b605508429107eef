"""Where a training starts: a checkpoint fitted to the data, or a new small model, and what it shall see."""

from __future__ import annotations

import dataclasses
import os

import torch

from vitkit.api.load import read_source
from vitkit.checkpoint.adapt import with_distillation_token
from vitkit.data.depth import find_value_range, probe
from vitkit.data.samples import Samples
from vitkit.errors import ConfigError
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel
from vitkit.model.build import build, model_spec
from vitkit.model.spec import AnySpec
from vitkit.training.spec import TrainSpec
from vitkit.training.starts import small_spec, spread_positions
from vitkit.training.tune import freeze

__all__ = ["check_early_size", "natural_size", "start_model"]


def start_model(
    model: str | os.PathLike[str] | None,
    preset: str | None,
    revision: str | None,
    image_size: int | tuple[int, int] | None,
    patch_size: int | None,
    value_range: tuple[float, float] | None,
    samples: Samples,
    num_classes: int,
    spec: TrainSpec,
) -> tuple[ImageModel, Preprocess]:
    """The model to train and its preprocessing: a checkpoint's, of whole pictures, or those of a new small model.

    Pictures of more than 8 bits are read in `value_range`, else that of the checkpoint, else the one that holds all of
    `samples`.
    """
    torch.manual_seed(spec.seed)
    distilled = spec.objective == "distillation" and spec.distill.token
    if model is None:
        size, channels = natural_size(samples, image_size)
        small = small_spec(size, in_channels=channels, num_classes=num_classes, patch_size=patch_size)
        if distilled:
            small = dataclasses.replace(
                small, class_token=True, distillation_token=True, pool="cls", final_norm="tokens"
            )
        module = _build(small, spec.drop_path)
        spread_positions(module)
        return module, _in_range(_new_preprocess(size, channels), value_range, samples)
    found = read_source(
        model,
        revision=revision,
        preset=preset,
        num_classes=num_classes,
        image_size=image_size,
        patch_size=patch_size,
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
    """Raises ConfigError where `module` takes no pictures of the size that the early steps shall have."""
    if spec.early_size is None:
        return
    pixels = torch.zeros(1, module.spec.in_channels, spec.early_size, spec.early_size)
    try:
        with torch.inference_mode():
            module.eval()(pixels)
    except ConfigError as error:
        raise ConfigError(f"early_size {spec.early_size} isn't for this model: {error}") from None


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
