"""What a checkpoint is: its layout from the names of its tensors, its spec from its own configuration files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from vitkit.checkpoint.dialect import Outputs, Words
from vitkit.checkpoint.families import LAYOUTS, TIMM, TRANSFORMERS
from vitkit.checkpoint.families.clip import openclip_fields
from vitkit.checkpoint.namemap import matching, pattern
from vitkit.checkpoint.presets import PRESETS
from vitkit.errors import CheckpointError, ConfigError, list_faults, nearest
from vitkit.model.spec import SPECS, AnySpec

__all__ = [
    "layout_of",
    "outputs_of",
    "presets_that_fit",
    "spec_from_openclip",
    "spec_from_timm",
    "spec_from_transformers",
]


BATCH_STATE = ("running_mean", "running_var", "num_batches_tracked")
"""Last words of the names of what batch norms remember, which no one counts among a model's parameters."""


def layout_of(names: Iterable[str], *, origin: str, among: Iterable[str] | None = None) -> str:
    """The key in `LAYOUTS`, or `among` some of them, whose marks the tensor names bear; a CheckpointError if none."""
    all_names = list(names)

    def bears(mark: str) -> bool:
        return any(pattern(mark).fullmatch(name) for name in all_names)

    keys = list(LAYOUTS if among is None else among)
    for key in keys:
        if all(map(bears, LAYOUTS[key].marks)) and not any(map(bears, LAYOUTS[key].without)):
            return key
    raise CheckpointError(
        f"{origin}: the tensor names are of no layout vitkit knows ({', '.join(keys)}); "
        f"the file has {list_faults(sorted(all_names), first=4)}"
    )


def outputs_of(tensors: Mapping[str, Tensor], layout: str) -> Outputs:
    """What the file's own head and hidden head layer give, and the last norm it has."""
    sizes = {target: tensors[name].shape[0] for target, name in _targets(tensors, layout) if target.endswith(".bias")}
    return Outputs(
        num_classes=sizes.get("head.bias") or sizes.get("head.fc.bias", 0),
        pre_logits_dim=sizes.get("pre_logits.fc.bias", 0),
        distillation_head="head_dist.bias" in sizes,
        final_norm="tokens" if "norm.bias" in sizes else "pooled" if "fc_norm.bias" in sizes else "none",
    )


def presets_that_fit(tensors: Mapping[str, Tensor], layout: str) -> list[str]:
    """Names of presets with as many parameters, the head apart, as the file: a suggestion, never an assumption."""
    heads = ("head.", "head_dist.", "pre_logits.")
    targets = [pair for pair in _targets(tensors, layout) if not pair[0].endswith(BATCH_STATE)]
    names = {name for target, name in targets if not target.startswith(heads)}
    count = sum(tensors[name].numel() for name in names)
    specs = {name: preset.model.spec for name, preset in PRESETS.items() if preset.model.arch == LAYOUTS[layout].arch}
    return [n for n, spec in specs.items() if dataclasses.replace(spec, num_classes=0).num_parameters() == count]


def _targets(tensors: Mapping[str, Tensor], layout: str) -> Iterator[tuple[str, str]]:
    """(our name, the file's) for every tensor that a rule uses."""
    for name in tensors:
        for rule, bound in matching(LAYOUTS[layout].rules, name):
            if rule.target is not None:
                yield rule.target.format(**bound), name


def spec_from_transformers(config: Mapping[str, Any], outputs: Outputs, *, arch: str, origin: str) -> AnySpec:
    """The spec that a transformers `config.json` describes; absent keys mean the class's own defaults.

    The head and pooler are the file's own: transformers builds them by the class that reads the file.
    """
    kind = str(config.get("model_type"))
    kinds = dict.fromkeys(dialect.kind for dialect in TRANSFORMERS)
    if kind not in kinds:
        raise CheckpointError(f"{origin}: model_type {kind!r} isn't supported; supported: {', '.join(kinds)}")
    dialect = {(dialect.kind, dialect.arch): dialect for dialect in TRANSFORMERS}.get((kind, arch))
    if dialect is None:
        raise CheckpointError(f"{origin}: model_type {kind!r} doesn't fit the file's tensors, which are of a {arch}")
    return _checked(arch, dialect.spec_fields(config, outputs, origin=origin), origin)


def spec_from_timm(config: Mapping[str, Any], *, origin: str) -> AnySpec:
    """The spec that a timm `config.json` describes: its architecture, then pretrained_cfg, then model_args."""
    architecture = config["architecture"]
    known = {name: preset for name, preset in PRESETS.items() if preset.timm}
    if architecture not in known:
        raise CheckpointError(
            f"{origin}: timm's architecture {architecture!r} isn't supported{nearest(architecture, known)}; "
            "list: vitkit models"
        )
    preset = known[architecture]
    spec, dialect = preset.model.spec, TIMM[preset.timm]
    published = config.get("pretrained_cfg", config)
    channels, *size = published.get("input_size") or (spec.in_channels, *spec.image_size)
    if not published.get("fixed_input_size", False) and not spec.any_size:
        size = list(spec.image_size)
    pool = {"global_pool": published["global_pool"]} if published.get("global_pool") else {}
    given = {"img_size": size, "in_chans": channels, **pool, **(config.get("model_args") or {})}
    arguments = {**dialect.config(spec), **given}
    if "fc_norm" not in given and arguments.get("global_pool") != dialect.config(spec).get("global_pool"):
        arguments.pop("fc_norm", None)  # timm decides it by the pooling
    num_classes = config.get("num_classes", published.get("num_classes", spec.num_classes))
    outputs = Outputs(num_classes=num_classes, pre_logits_dim=0)
    fields = dialect.spec_fields(arguments, outputs, origin=origin)
    return _checked(preset.model.arch, {**_fields(spec), **fields}, origin)


def spec_from_openclip(config: Mapping[str, Any], *, origin: str) -> AnySpec:
    """The spec that the model_cfg of an `open_clip_config.json` describes."""
    vision, trunk = config["vision_cfg"], None
    if vision.get("timm_model_name"):
        arguments = {"img_size": vision.get("image_size", 224), **(vision.get("timm_model_kwargs") or {})}
        timm = {"architecture": vision["timm_model_name"], "num_classes": 0, "model_args": arguments}
        trunk = spec_from_timm(timm, origin=origin)
    words = Words(config)
    fields = openclip_fields(words, trunk)
    if words.faults:
        raise CheckpointError(f"{origin}: {list_faults(words.faults)}")
    return _checked("clip", fields, origin)


def _fields(spec: AnySpec) -> dict[str, Any]:
    return {entry.name: getattr(spec, entry.name) for entry in dataclasses.fields(spec)}


def _checked(arch: str, fields: dict[str, Any], origin: str) -> AnySpec:
    try:
        return SPECS[arch](**fields)
    except ConfigError as error:
        raise CheckpointError(f"{origin}: {error}") from None
