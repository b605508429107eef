"""Every family of presets made small: the same kinds of parts, one block of each, few channels."""

from __future__ import annotations

import dataclasses

import torch

from small import randomise
from vitkit.checkpoint.presets import PRESETS
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel
from vitkit.model.build import build
from vitkit.model.resnet_spec import ResNetSpec
from vitkit.model.spec import AnySpec, ClipSpec, MaeSpec, ModelSpec
from vitkit.model.swin_spec import SwinSpec


def small_spec(spec: AnySpec) -> AnySpec:
    """A model of the same kind as `spec`, in few numbers; two presets that differ in size alone become one."""
    classes = min(spec.num_classes, 7)
    if isinstance(spec, SwinSpec):
        return dataclasses.replace(
            spec,
            image_size=48,
            num_classes=classes,
            embed_dim=16,
            depths=(2, 1),
            num_heads=(2, 4),
            window_size=4,
            pretrained_window_size=4 * (spec.pretrained_window_size[0] > 0),
        )
    if isinstance(spec, ResNetSpec):
        return dataclasses.replace(spec, image_size=64, num_classes=classes, width=32, depths=(1, 1))
    stem = None if spec.stem_depths is None else (1,) * len(spec.stem_depths)
    patch = 4 if stem is None else spec.patch_size
    sizes = {"image_size": 4 * patch, "patch_size": patch, "num_classes": classes, "stem_depths": stem}
    widths = {
        "embed_dim": 32,
        "depth": 1,
        "num_heads": 2,
        "mlp_dim": 48,
        "pre_logits_dim": 24 * (spec.pre_logits_dim > 0),
    }
    scale = {"layer_scale": 0.1 * (spec.layer_scale > 0)}
    if isinstance(spec, MaeSpec):
        widths |= {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2, "decoder_mlp_dim": 32}
    if isinstance(spec, ClipSpec):
        widths |= {"projection_dim": 24 * (spec.projection_dim > 0), "text": None, "logit_bias": False}
        widths |= {"num_classes": 7, "unit_head": True}
    return dataclasses.replace(spec, **{**sizes, **widths, **scale})


NUMBERS = ("norm_eps", "image_size", "patch_size", "num_classes", "mlp_dim", "pretrained_window_size")
"""Fields that change no part of a graph but its numbers."""


def choices_of(spec: AnySpec) -> set[tuple[str, object]]:
    """What a spec says of a graph's parts: field and value, a stem being there or not."""
    fields = {name: value for name, value in vars(spec).items() if name not in NUMBERS}
    if "stem_depths" in fields:
        fields["stem_depths"] = fields["stem_depths"] is not None
    return set(fields.items())


def small_families() -> dict[str, ModelSpec]:
    """Presets made small, so many that whatever a preset chooses (a position, a pooling, ...) is chosen by one."""
    models = {
        name: ModelSpec(arch=preset.model.arch, spec=small_spec(preset.model.spec)) for name, preset in PRESETS.items()
    }
    choices = {name: choices_of(model.spec) for name, model in models.items()}
    missing = set().union(*choices.values())
    chosen: dict[str, ModelSpec] = {}
    while missing:
        name = max(models, key=lambda each: len(choices[each] & missing))
        chosen[name] = models[name]
        missing -= choices[name]
    return chosen


def small_module(model: ModelSpec) -> ImageModel:
    """The module, every parameter and statistic random."""
    module = build(model)
    randomise(module)
    generator = torch.Generator().manual_seed(1)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return module


def preprocess_of(spec: AnySpec) -> Preprocess:
    """Some preprocessing for it."""
    return Preprocess(
        size=spec.image_size,
        resize="squash",
        crop="none",
        interpolation="bicubic",
        mean=(0.5, 0.4, 0.3)[: spec.in_channels],
        std=(0.2, 0.25, 0.3)[: spec.in_channels],
    )
