"""ResNet and BiT as transformers, timm, torchvision and Google write them.

Checked against transformers 5.23 (models/resnet, models/bit), timm 1.0.31 (models/resnet.py; models/resnetv2.py, whose
`_load_weights` reads Google's arrays) and torchvision 0.28 (models/resnet.py), whose names timm's ResNet has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitkit.checkpoint.dialect import Dialect, Family, Layout, Outputs, Words
from vitkit.checkpoint.families.google import convolution
from vitkit.checkpoint.namemap import Op, Rule
from vitkit.model.resnet_spec import GROUPS, ResidualBlock, ResNetSpec
from vitkit.model.stem_spec import WIDTH

__all__ = ["FAMILY"]

STAGES, MOST_UNITS = 4, 36
"""timm and Google count from 1 and we from 0, so each stage, and each of Google's units, has rows of its own."""


def _normed(their_conv: str, our_conv: str, their_norm: str, our_norm: str) -> tuple[Rule, Rule]:
    """The rows of a convolution and of the batch norm after it."""
    return Rule(f"{their_conv}.weight", f"{our_conv}.weight"), Rule(f"{their_norm}.{{name}}", f"{our_norm}.{{name}}")


def _transformers_normed(theirs: str, conv: str, norm: str) -> tuple[Rule, Rule]:
    return _normed(f"{{base}}{theirs}.convolution", conv, f"{{base}}{theirs}.normalization", norm)


def _transformers_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *_transformers_normed(f"{theirs}.shortcut", f"{ours}.downsample.conv", f"{ours}.downsample.norm"),
        *_transformers_normed(f"{theirs}.layer.0", f"{ours}.conv1", f"{ours}.norm1"),
        *_transformers_normed(f"{theirs}.layer.1", f"{ours}.conv2", f"{ours}.norm2"),
        *_transformers_normed(f"{theirs}.layer.2", f"{ours}.conv3", f"{ours}.norm3"),
    )


def _timm_stage(theirs: str, ours: str) -> tuple[Rule, ...]:
    block, ours = f"{theirs}.{{j}}", f"{ours}.blocks.{{j}}"
    return (
        *_normed(f"{block}.conv{{i}}", f"{ours}.conv{{i}}", f"{block}.bn{{i}}", f"{ours}.norm{{i}}"),
        *_normed(
            f"{block}.downsample.0", f"{ours}.downsample.conv", f"{block}.downsample.1", f"{ours}.downsample.norm"
        ),
    )


TRANSFORMERS_RESNET = (
    *_transformers_normed("embedder.embedder", "stem.conv", "stem.norm"),
    *_transformers_block("encoder.stages.{i}.layers.{j}", "stages.{i}.blocks.{j}"),
    Rule("classifier.1.{p}", "head.{p}"),
)

TRANSFORMERS_BIT = (
    Rule("{base}embedder.convolution.weight", "stem.conv.weight"),
    Rule("{base}encoder.stages.{i}.layers.{name}", "stages.{i}.blocks.{name}"),
    Rule("{base}norm.{p}", "norm.{p}"),
    Rule("classifier.1.{p}", "head.{p}"),
)

TIMM_RESNET = (
    *_normed("conv1", "stem.conv", "bn1", "stem.norm"),
    *(rule for stage in range(STAGES) for rule in _timm_stage(f"layer{stage + 1}", f"stages.{stage}")),
    Rule("fc.{p}", "head.{p}"),
)

# Weights from before torch 0.4.1 don't say how many batches their norms have seen. torch itself reads that as 0, and no
# answer depends on the count.
no_batches = Op(lambda tensors, spec: torch.zeros((), dtype=torch.int64), lambda tensor, spec, count: [None])
UNCOUNTED = tuple(
    Rule(norm.replace("{name}", "running_mean"), f"{rule.target}".replace("{name}", "num_batches_tracked"), no_batches)
    for rule in TIMM_RESNET
    for norm in rule.sources
    if norm.endswith("{name}")
)


def _from_1x1(tensors: Sequence[Tensor], spec: Any) -> Tensor:
    return tensors[0].flatten(1)


# timm's head is a convolution of the pooled map, [K, D, 1, 1].
linear = Op(_from_1x1, lambda tensor, spec, count: [tensor[:, :, None, None]])
TIMM_BIT = (
    Rule("head.fc.weight", "head.weight", op=linear),
    Rule("head.fc.bias", "head.bias"),
    Rule("stem.conv.weight", "stem.conv.weight"),
    Rule("stages.{name}", "stages.{name}"),
    Rule("norm.{p}", "norm.{p}"),
)


def _google_norm(theirs: str, ours: str) -> tuple[Rule, Rule]:
    return (
        Rule(f"{theirs}/group_norm/gamma", f"{ours}.weight"),
        Rule(f"{theirs}/group_norm/beta", f"{ours}.bias"),
    )


def _google_unit(stage: int, unit: int) -> tuple[Rule, ...]:
    """The rows of a block: three convolutions, a norm before each, and where there is one the projection."""
    theirs, ours = f"resnet/block{stage + 1}/unit{unit + 1:02}", f"stages.{stage}.blocks.{unit}"
    return (
        Rule(f"{theirs}/a/proj/standardized_conv2d/kernel", f"{ours}.downsample.conv.weight", op=convolution),
        *(
            rule
            for n, part in enumerate("abc", start=1)
            for rule in (
                Rule(f"{theirs}/{part}/standardized_conv2d/kernel", f"{ours}.conv{n}.weight", op=convolution),
                *_google_norm(f"{theirs}/{part}", f"{ours}.norm{n}"),
            )
        ),
    )


GOOGLE_BIT = (
    Rule("resnet/root_block/standardized_conv2d/kernel", "stem.conv.weight", op=convolution),
    *(rule for stage in range(STAGES) for unit in range(MOST_UNITS) for rule in _google_unit(stage, unit)),
    *_google_norm("resnet", "norm"),
    Rule("resnet/head/conv2d/kernel", "head.weight", op=Op(lambda tensors, spec: tensors[0][0, 0].T)),
    Rule("resnet/head/conv2d/bias", "head.bias"),
)

TIMM_MARKS = ("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight")


def _of_transformers(name: str, rules: tuple[Rule, ...], mark: str, base: str) -> Mapping[str, Layout]:
    """A layout with a head and one without."""
    marks = ("{base}" + mark, "{base}encoder.stages.{i}.layers.{j}.{name}")
    with_head = Layout(arch="resnet", marks=(*marks, "classifier.1.weight"), rules=rules, bound={"base": f"{base}."})
    return {name: with_head, f"{name}-model": dataclasses.replace(with_head, marks=marks, bound={"base": ""})}


LAYOUTS: Mapping[str, Layout] = {
    **_of_transformers("transformers/resnet", TRANSFORMERS_RESNET, "embedder.embedder.convolution.weight", "resnet"),
    **_of_transformers("transformers/bit", TRANSFORMERS_BIT, "embedder.convolution.weight", "bit"),
    "torchvision/resnet-uncounted": Layout(
        arch="resnet",
        marks=TIMM_MARKS,
        without=("{name}.num_batches_tracked",),
        rules=(*TIMM_RESNET, *UNCOUNTED),
    ),
    "timm/resnet": Layout(arch="resnet", marks=TIMM_MARKS, rules=TIMM_RESNET),
    "timm/resnetv2": Layout(
        arch="resnet",
        marks=("stem.conv.weight", "stages.0.blocks.0.conv1.weight"),
        without=("stem.norm.weight",),
        rules=TIMM_BIT,
    ),
    "google/bit": Layout(arch="resnet", marks=("resnet/root_block/standardized_conv2d/kernel",), rules=GOOGLE_BIT),
}


def _checks_widths(words: Words, key: str, fields: Mapping[str, Any], *, factor: int = 1) -> None:
    """Notes a fault unless the channels under `key`, times `factor`, are those that the fields imply."""
    implied = ResNetSpec(**fields).widths
    given = tuple(channels * factor for channels in words.get(key, implied))
    if given != implied:
        words.faults.append(f"{key} {given} isn't supported; supported: {implied}, doubled from stage to stage")


def _transformers_fields(words: Words, outputs: Outputs, block: ResidualBlock) -> dict[str, Any]:
    """What both configurations share; absent keys mean the class's own."""
    words.only("hidden_act", "relu")
    fields = {
        "in_channels": words.get("num_channels", 3),
        "num_classes": outputs.num_classes,
        "block": block,
        "width": words.get("embedding_size", 64),
        "depths": tuple(words.get("depths", (3, 4, 6, 3))),
    }
    _checks_widths(words, "hidden_sizes", fields)
    return fields


def _transformers_config(spec: ResNetSpec) -> dict[str, Any]:
    """The same, the other way."""
    return {
        "num_channels": spec.in_channels,
        "embedding_size": spec.width,
        "hidden_sizes": list(spec.widths),
        "depths": list(spec.depths),
        "layer_type": spec.block,
        "hidden_act": "relu",
    }


def _resnet_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    words.only("downsample_in_first_stage", False)
    words.only("downsample_in_bottleneck", False)
    blocks: Mapping[str, ResidualBlock] = {"bottleneck": "bottleneck", "basic": "basic"}
    return _transformers_fields(words, outputs, words.one_of("layer_type", blocks, "bottleneck"))


BIT_FIXED: Mapping[str, Any] = {
    "layer_type": "preactivation",
    "num_groups": GROUPS,
    "global_padding": None,
    "embedding_dynamic_padding": False,
    "output_stride": 32,
    "width_factor": 1,
}


def _bit_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    for key, value in BIT_FIXED.items():
        words.only(key, value)
    fields = _transformers_fields(words, outputs, "preactivation")
    return {**fields, "drop_path": float(words.get("drop_path_rate", 0.0))}


def _bit_config(spec: ResNetSpec) -> dict[str, Any]:
    return {**_transformers_config(spec), **BIT_FIXED, "drop_path_rate": spec.drop_path}


TRANSFORMERS = (
    Dialect(
        name="transformers' ResNet",
        kind="resnet",
        arch="resnet",
        classes=("ResNetForImageClassification", "ResNetModel"),
        layouts=("transformers/resnet", "transformers/resnet-model"),
        holds={"block": ("basic", "bottleneck")},
        fields=_resnet_fields,
        config=_transformers_config,
    ),
    Dialect(
        name="transformers' BiT",
        kind="bit",
        arch="resnet",
        classes=("BitForImageClassification", "BitModel"),
        layouts=("transformers/bit", "transformers/bit-model"),
        holds={"block": ("preactivation",)},
        fields=_bit_fields,
        config=_bit_config,
    ),
)

# Arguments that change training, not what the weights compute here.
TIMM_IGNORED = ("drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last", "num_classes")


def _timm_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    """What timm's two classes share; the caller has put the architecture's own arguments under those of the file."""
    for key, value in {"global_pool": "avg", "output_stride": 32, "avg_down": False}.items():
        words.only(key, value)
    for key in TIMM_IGNORED:
        words.get(key)
    return {
        "image_size": words.size("img_size", 224),  # no argument of theirs, but the size of the published pictures
        "in_channels": words.get("in_chans", 3),
        "num_classes": outputs.num_classes,
    }


def _timm_resnet(block: ResidualBlock, name: str) -> Dialect:
    """timm's ResNet of one kind of block, which its architecture says and no argument."""

    def fields(words: Words, outputs: Outputs) -> dict[str, Any]:
        depths = tuple(words.get("layers", (3, 4, 6, 3)))
        found = {**_timm_fields(words, outputs), "block": block, "width": WIDTH, "depths": depths}
        _checks_widths(words, "channels", {**found, "block": "basic"})  # of a block's middle
        words.nothing_else()
        return found

    def arguments(spec: ResNetSpec) -> dict[str, Any]:
        return {"layers": list(spec.depths), "in_chans": spec.in_channels, "global_pool": "avg"}

    def refuses(spec: ResNetSpec) -> Iterable[str]:
        if len(spec.depths) != STAGES:
            yield f"it has {STAGES} stages, not {len(spec.depths)}"

    return Dialect(
        name=f"timm's ResNet of {name}s",
        kind=f"ResNet of {name}s",
        arch="resnet",
        layouts=("timm/resnet", "timm/resnet"),
        classifier="fc",
        first_conv="conv1",
        holds={"block": (block,), "width": (WIDTH,)},
        refuses=refuses,
        fields=fields,
        config=arguments,
    )


def _timm_bit(name: str, depths: tuple[int, ...], factor: int) -> Dialect:
    """timm's BiT of one depth and width, which its architecture says; the plain ones may be of another width."""

    def fields(words: Words, outputs: Outputs) -> dict[str, Any]:
        width = words.get("stem_chs", WIDTH) * factor
        found = {**_timm_fields(words, outputs), "block": "preactivation", "width": width, "depths": depths}
        _checks_widths(words, "channels", found, factor=factor)
        words.nothing_else()
        return found

    def arguments(spec: ResNetSpec) -> dict[str, Any]:
        channels = [width // factor for width in spec.widths]
        sizes = {"stem_chs": spec.width // factor, "channels": channels}
        return {"in_chans": spec.in_channels, "global_pool": "avg", **sizes}

    return Dialect(
        name=f"timm's BiT {name}",
        kind=f"ResNetV2 {name}",
        arch="resnet",
        layouts=("timm/resnetv2", "timm/resnetv2"),
        classifier="head.fc",
        first_conv="stem.conv",
        holds={
            "block": ("preactivation",),
            "depths": (depths,),
            **({"width": (WIDTH * factor,)} if factor > 1 else {}),
        },
        fields=fields,
        config=arguments,
    )


TIMM = (
    _timm_resnet("basic", "BasicBlock"),
    _timm_resnet("bottleneck", "Bottleneck"),
    _timm_bit("50x3", (3, 4, 6, 3), 3),
    _timm_bit("101x3", (3, 4, 23, 3), 3),
    _timm_bit("152x2", (3, 8, 36, 3), 2),
    _timm_bit("152x4", (3, 8, 36, 3), 4),
    _timm_bit("50x1", (3, 4, 6, 3), 1),
    _timm_bit("101x1", (3, 4, 23, 3), 1),
)

FAMILY = Family(layouts=LAYOUTS, transformers=TRANSFORMERS, timm=TIMM)
