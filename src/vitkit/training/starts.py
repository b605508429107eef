"""Where a training starts: a small model made for the pictures at hand, or a checkpoint's; and the recipe that fits it.

The recipe for small data was found on scikit-learn's digits (docs/TRAINING.md): small patches so that there are many,
positions that begin as large as the patches (std 0.3 instead of 0.02: at 0.02 a small set never learns where things
are), mean pooling, no class token, and every picture varied on its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vitkit.checkpoint.presets import find_preset
from vitkit.config import from_dict, to_dict
from vitkit.data.augment import AUGMENTS, AugmentSpec
from vitkit.data.mix import MixSpec
from vitkit.errors import ConfigError, list_faults, nearest
from vitkit.model.spec import SPECS, AnySpec, VitSpec
from vitkit.training.spec import TrainSpec

__all__ = [
    "FINE_TUNE",
    "LEAST_STEPS",
    "SCRATCH_BRIEF",
    "SCRATCH_PHOTOS",
    "SMALL_FIGURES",
    "new_spec",
    "recipe_for",
    "small_spec",
    "spread_positions",
]

POSITION_STD = 0.3

SMALL_FIGURES = TrainSpec(
    epochs=45,
    lr=4e-3,
    weight_decay=0.01,
    label_smoothing=0.0,
    ema_decay=0.99,
    beta2=0.99,
    augment=AUGMENTS["figures"],
)
"""From scratch on tiny pictures of figures (digits, letters): no mirror images, a few minutes at most."""

SCRATCH_PHOTOS = TrainSpec(
    epochs=60,
    lr=1e-3,
    label_smoothing=0.1,
    ema_decay=0.998,
    drop_path=0.1,
    augment=AUGMENTS["photos"],
    mix=MixSpec(mixup=0.2, cutmix=1.0),
)
"""From scratch on photos."""

SCRATCH_BRIEF = TrainSpec(
    epochs=30,
    batch_size=128,
    optimizer="muon",
    lr=2e-3,
    label_smoothing=0.0,
    ema_decay=0.998,
    augment=AugmentSpec(flip=0.5, translate=0.0625),
)
"""From scratch on photos in no more epochs than these: what is varied much, or mixed, isn't learnt in time."""

FINE_TUNE = TrainSpec(
    epochs=25,
    lr=1e-3,
    layer_decay=0.75,
    label_smoothing=0.1,
    ema_decay=0.998,
    drop_path=0.1,
    augment=AUGMENTS["photos"],
    mix=MixSpec(mixup=0.2, cutmix=1.0),
)
"""From a checkpoint: lower layers move less. Without mixing, a few thousand pictures are known by heart in 5 epochs."""


LORA = dataclasses.replace(FINE_TUNE, tune="lora", layer_decay=1.0)
"""By LoRA: few numbers learn, all layers alike."""

HEAD = dataclasses.replace(
    FINE_TUNE,
    tune="head",
    lr=1e-2,
    weight_decay=0.0,
    layer_decay=1.0,
    label_smoothing=0.0,
    drop_path=None,
    mix=MixSpec(),
)
"""Of the head alone: a linear probe that sees varied pictures."""


FOUND_ON = {False: 3454, True: 1437}
"""Training pictures on which the recipes for photos (False) and for tiny figures (True) were found."""
LEAST_STEPS, LEAST_BATCH = 16, 16
"""Steps of an epoch below which batches get smaller, down to this size."""


def recipe_for(
    *,
    from_checkpoint: bool,
    image_size: tuple[int, int],
    pictures: int,
    tune: str = "full",
    affordable: float = math.inf,
    muon: bool = False,
) -> tuple[TrainSpec, str]:
    """The defaults that fit a start, and one line that says which and why; a user's recipe and flags go on top.

    A quarter of the pictures that a recipe was found on get twice its epochs, and four times as many half of them, but
    from scratch no fewer than there. Few pictures come in smaller batches: it takes steps, too. Where few epochs are
    `affordable` in the minutes given, photos from scratch vary little, and are learnt by Muon where that is possible.
    """
    figures = not from_checkpoint and max(image_size) <= 16
    if from_checkpoint:
        name, spec = {
            "full": ("fine-tuning all of the checkpoint", FINE_TUNE),
            "lora": ("fine-tuning the checkpoint by LoRA", LORA),
            "head": ("a new head on the checkpoint as it is", HEAD),
        }[tune]
    elif figures:
        name, spec = "from scratch, for tiny figures", SMALL_FIGURES
    elif affordable <= SCRATCH_BRIEF.epochs:
        name, spec = "from scratch, for photos and the few epochs that the minutes allow", SCRATCH_BRIEF
        if not muon:
            spec = dataclasses.replace(spec, optimizer="adamw", lr=SCRATCH_PHOTOS.lr)
    else:
        name, spec = "from scratch, for photos", SCRATCH_PHOTOS
    doublings = round(math.log2(FOUND_ON[figures] / pictures) / 2)
    epochs = round(spec.epochs * 2.0 ** min(max(doublings, -2 if from_checkpoint else 0), 2))
    fitting = 2 ** math.floor(math.log2(max(pictures / LEAST_STEPS, 1)))
    batch_size = min(spec.batch_size, max(fitting, LEAST_BATCH))
    return dataclasses.replace(spec, epochs=epochs, batch_size=batch_size), f"{name}, fitted to {pictures:,} pictures"


SMALL_SIZES = ((16, 2, 64, 4, 4), (32, 4, 128, 6, 4), (96, 8, 192, 8, 3))
"""(longest side up to, patch, embed_dim, depth, num_heads) of a new model; larger pictures get ViT-Ti/16's sizes."""
LARGER = (16, 192, 12, 3)


def small_spec(
    image_size: tuple[int, int], *, in_channels: int, num_classes: int, patch_size: int | None = None
) -> VitSpec:
    """A Vision Transformer for few pictures of `image_size`, with 16 or more patches where no `patch_size` is given."""
    fitting = (sizes for most, *sizes in SMALL_SIZES if max(image_size) <= most)
    patch, width, depth, heads = next(fitting, LARGER)
    if patch_size is not None:  # whose faults the spec names
        patch = patch_size
    elif image_size[0] % patch or image_size[1] % patch:
        raise ConfigError(
            f"image_size {image_size[0]}x{image_size[1]} is not a multiple of {patch}, the patch of a new model "
            "of that size; choose another with --image-size or --patch-size"
        )
    return VitSpec(
        image_size=image_size,
        patch_size=patch,
        in_channels=in_channels,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_dim=(2 if width == 64 else 4) * width,
        class_token=False,
        pool="mean",
        final_norm="pooled",
    )


TRAINABLE = ("vit", "swin", "resnet")
"""Architectures of one picture and its classes."""


def new_spec(
    image_size: tuple[int, int],
    *,
    in_channels: int,
    num_classes: int,
    patch_size: int | None,
    preset: str | None,
    shape: Mapping[str, Any],
    origin: str,
) -> AnySpec:
    """The spec of a new model: a preset's, whose weights aren't read, an architecture's own, or a small ViT's.

    `shape`, which `origin` holds, has the architecture ("arch") and fields of its spec, which have the last word.
    Raises ConfigError for all that isn't the spec's, and as the spec itself.
    """
    fields = {name: value for name, value in shape.items() if name != "arch"}
    arch, start = shape.get("arch"), {}
    known = shape.keys() & {"in_channels", "num_classes"}
    faults = [f"{name} comes from the pictures; leave it out" for name in sorted(known)]
    if preset is not None and arch is not None:
        faults.append("model has both a preset and an arch; give one")
    if faults:
        raise ConfigError(f"{origin}: {list_faults(faults)}")
    if preset is not None:
        found = find_preset(preset).model
        arch, start = found.arch, to_dict(found.spec)
        if arch not in TRAINABLE:
            raise ConfigError(f"preset {preset!r} is a {arch}; a new model to train is a vit, swin or resnet")
    elif arch is None:
        patch = fields.get("patch_size") if patch_size is None else patch_size
        arch = "vit"
        start = to_dict(small_spec(image_size, in_channels=in_channels, num_classes=num_classes, patch_size=patch))
    elif arch not in TRAINABLE:
        raise ConfigError(
            f"{origin}: arch {arch!r} is unknown{nearest(str(arch), TRAINABLE)}; allowed: {', '.join(TRAINABLE)}"
        )
    given = {"image_size": image_size, "in_channels": in_channels, "num_classes": num_classes}
    if patch_size is not None:
        given["patch_size"] = patch_size
    return from_dict(SPECS[arch], {**start, **fields, **given}, origin=origin)


def spread_positions(module: nn.Module) -> None:
    """Draws learned positions anew with POSITION_STD: part of the recipe for small data."""
    positions = getattr(module, "pos_embed", None)
    if isinstance(positions, nn.Parameter):
        with torch.no_grad():
            positions.normal_(std=POSITION_STD)
