"""What a user asks for beyond what a checkpoint is: other classes, size, patches or channels. Each change is noted."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from vitkit.checkpoint.read import Checkpoint
from vitkit.errors import ConfigError
from vitkit.image.preprocess import Preprocess
from vitkit.image.sources import from_timm, to_timm
from vitkit.model.base import HEADS
from vitkit.model.build import BUILDERS, build_empty
from vitkit.model.embed import resample_patches
from vitkit.model.spec import AnySpec, MaeSpec, ModelSpec, VitSpec

__all__ = ["adapt", "with_distillation_token"]

PATCHES = "patch_embed.proj.weight"
BACKBONE = "patch_embed.backbone."
FIRST = (*(f"{BACKBONE}{name}conv.weight" for name in ("stem.", "", "0.")), "stem.conv.weight", PATCHES)
"""Kernels that read the pixels: the first of these that a model has."""


def adapt(
    checkpoint: Checkpoint,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    in_channels: int | None = None,
) -> Checkpoint:
    """The checkpoint for another class count, picture size, patch size or channel count; what isn't asked for stays.

    A new head starts at zero; positions are resampled by the checkpoint's own policy, once for picture and patch size
    together; kernels of other patches come by the pseudo-inverse (`resample_patches`); for grey the patch kernels are
    summed over RGB, for other counts they are repeated and scaled to keep their sum (timm's adapt_input_conv).
    """
    spec, state, card = checkpoint.model.spec, dict(checkpoint.state), checkpoint.card
    notes = list(checkpoint.report.notes)
    if num_classes is not None and num_classes != spec.num_classes:
        notes.append(f"head: {spec.num_classes} outputs replaced by {num_classes}, on request")
        spec = dataclasses.replace(spec, num_classes=num_classes)
        state = {name: tensor for name, tensor in state.items() if not name.startswith(HEADS)}
        expected = build_empty(ModelSpec(arch=checkpoint.model.arch, spec=spec)).state_dict()
        state |= {name: torch.zeros(like.shape) for name, like in expected.items() if name.startswith(HEADS)}
        card = card.without_classes()
    spec, state, changes = _resized(checkpoint.model.arch, spec, state, image_size, patch_size)
    notes += changes
    if image_size is not None and card.preprocess is not None:
        card = dataclasses.replace(card, preprocess=_at_size(card.preprocess, spec.image_size))
    if in_channels is not None and in_channels != spec.in_channels:
        _check_decoder(spec, f"in_channels {in_channels}")
        notes.append(f"channels: {spec.in_channels} changed to {in_channels}, on request")
        first = next(name for name in FIRST if name in state)
        state[first] = _other_channels(state[first], in_channels)
        spec = dataclasses.replace(spec, in_channels=in_channels)
        if card.preprocess is not None:
            card = dataclasses.replace(card, preprocess=_with_channels(card.preprocess, in_channels))
    return dataclasses.replace(
        checkpoint,
        model=ModelSpec(arch=checkpoint.model.arch, spec=spec),
        state=state,
        card=card,
        report=dataclasses.replace(checkpoint.report, notes=tuple(notes)),
    )


def with_distillation_token(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint of a ViT with a second token, and a second head for it, both copies of the first (DeiT).

    One that has them stays as it is. Raises ConfigError for other models, and for a ViT without a class token's head.
    """
    old = checkpoint.model.spec
    if getattr(old, "distillation_token", False):
        return checkpoint
    refused = "a distillation token can't be added: "
    if type(old) is not VitSpec:
        raise ConfigError(f"{refused}a {old.title} has none; set distill.token to false")
    try:
        spec = dataclasses.replace(old, distillation_token=True)
    except ConfigError as error:
        raise ConfigError(f"{refused}{error}; set distill.token to false") from None
    state = {**checkpoint.state, "dist_token": checkpoint.state["cls_token"].clone()}
    state |= {f"head_dist.{part}": state[f"head.{part}"].clone() for part in ("weight", "bias") if old.num_classes}
    if old.position == "learned" and old.prefix_positions:
        first, rest = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
        state["pos_embed"] = torch.cat([first, first, rest], dim=1)
    notes = (*checkpoint.report.notes, "distillation token: a copy of the class token, on request")
    return dataclasses.replace(
        checkpoint,
        model=ModelSpec(arch="vit", spec=spec),
        state=state,
        report=dataclasses.replace(checkpoint.report, notes=notes),
    )


def _resized(
    arch: str,
    old: AnySpec,
    state: dict[str, Tensor],
    image_size: int | tuple[int, int] | None,
    patch_size: int | None,
) -> tuple[AnySpec, dict[str, Tensor], list[str]]:
    """Spec and weights for pictures and patches of other sizes, and a note of each that changes."""
    patch = getattr(old, "patch_size", None)
    other_patch = None if patch_size == patch else patch_size
    sizes = {"image_size": old.image_size if image_size is None else image_size}
    notes = []
    if other_patch is not None:
        _check_patches(old, other_patch)
        sizes["patch_size"] = other_patch
        notes.append(f"patches: {patch} changed to {other_patch}, on request, kernels resized by the pseudo-inverse")
    new = dataclasses.replace(old, **sizes)  # type: ignore[arg-type]
    if new.image_size != old.image_size:
        before, after = (f"{height}x{width}" for height, width in (old.image_size, new.image_size))
        notes.append(f"size: {before} changed to {after}, on request")
    resized = BUILDERS[arch].resized_state(state, old, new)
    if any(resized[name] is not state[name] for name in state):
        notes[-1] += f", positions resampled ({new.policies['position_resample']})"
    if other_patch is not None:
        resized = {**resized, PATCHES: resample_patches(resized[PATCHES], other_patch)}
    return new, resized, notes


def _check_patches(spec: AnySpec, patch_size: int) -> None:
    """Raises ConfigError for a model whose patches can't have another size."""
    _check_decoder(spec, f"patch_size {patch_size}")
    if not hasattr(spec, "patch_size"):
        raise ConfigError(f"patch_size {patch_size} is asked for, but a {spec.title} has no patches")
    if isinstance(spec, VitSpec) and spec.stem.convolutions:
        raise ConfigError(f"patch_size {patch_size} is asked for, but the patches are cut from what a stem makes")


def _check_decoder(spec: AnySpec, asked: str) -> None:
    """Raises ConfigError for a model whose decoder paints the patches it has learned, not those asked for."""
    if isinstance(spec, MaeSpec):
        raise ConfigError(
            f"{asked} is asked for, but the decoder of a masked autoencoder paints patches of {spec.patch_size} and "
            f"{spec.in_channels} channels; save the module's encoder(), and load that"
        )


def _at_size(preprocess: Preprocess, size: tuple[int, int]) -> Preprocess:
    """The same preprocessing for another result size: the share of the picture that a crop keeps stays."""
    if size == preprocess.size:
        return preprocess
    words = to_timm(preprocess)
    if words is not None:  # timm's own rule, floor(size / crop_pct)
        return from_timm({**words, "input_size": [preprocess.channels, *size]})
    resized = preprocess.resize_size
    if resized is not None:
        pairs = zip(size, resized, preprocess.size, strict=True)
        height, width = (math.floor(new * full / old) for new, full, old in pairs)
        resized = (height, width)
    return dataclasses.replace(preprocess, size=size, resize_size=resized)


def _with_channels(preprocess: Preprocess, channels: int) -> Preprocess:
    mean, std = preprocess.mean, preprocess.std
    if len(set(mean)) > 1 or len(set(std)) > 1:  # per-colour statistics mean nothing for other channels
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    return dataclasses.replace(preprocess, mean=mean[:1] * channels, std=std[:1] * channels)


def _other_channels(kernel: Tensor, channels: int) -> Tensor:
    """Kernels [D, C, p, p] for another C."""
    if channels < 1:
        raise ConfigError(f"in_channels is {channels}; at least 1")
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    old = kernel.shape[1]
    repeated = kernel.repeat(1, math.ceil(channels / old), 1, 1)[:, :channels]
    return repeated * (old / channels)
