"""Swin and Swin v2 as transformers, timm and Microsoft write them.

Checked against transformers 5.23 (models/swin, models/swinv2 and the names their save_pretrained writes), timm 1.0.31
(models/swin_transformer.py, swin_transformer_v2.py) and microsoft/Swin-Transformer (models of the same names). All but
timm keep the step from a stage down to the next at the end of the stage, timm and we at the start of the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from vitkit.checkpoint.dialect import Dialect, Family, Layout, Outputs, Words
from vitkit.checkpoint.families.vit import ACTIVATIONS_FOR_TRANSFORMERS, TRANSFORMERS_ACTIVATIONS
from vitkit.checkpoint.namemap import Rule, concat_rows
from vitkit.model.swin_spec import MOST_STAGES, SwinSpec, WindowFit, WindowPadding

__all__ = ["FAMILY"]

COMPUTED = "which places are apart by how much, computed here"
MASKED_ONLY = "only used in masked pre-training"


def steps_down(front: str) -> tuple[Rule, ...]:
    """The rows of steps that stand at the end of the stage before."""
    return tuple(
        Rule(f"{front}layers.{stage}.downsample.{part}", f"layers.{stage + 1}.downsample.{part}")
        for stage in range(MOST_STAGES - 1)
        for part in ("norm.{p}", "reduction.weight")
    )


INDICES = (
    Rule("{name}relative_position_index", None, why=COMPUTED),
    Rule("{name}relative_coords_table", None, why=COMPUTED),
    Rule("{name}attn_mask", None, why=COMPUTED),
)

TRANSFORMERS_ENDS = (
    *INDICES,
    Rule("{base}embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
    Rule("{base}embeddings.norm.{p}", "patch_embed.norm.{p}"),
    *steps_down("{base}encoder."),
    Rule("{base}encoder.layers.{i}.blocks.{j}.layernorm_before.{p}", "layers.{i}.blocks.{j}.norm1.{p}"),
    Rule("{base}encoder.layers.{i}.blocks.{j}.layernorm_after.{p}", "layers.{i}.blocks.{j}.norm2.{p}"),
    Rule("{base}layernorm.{p}", "norm.{p}"),
    Rule("classifier.{p}", "head.fc.{p}"),
    Rule("{base}embeddings.mask_token", None, why=MASKED_ONLY),
    Rule("decoder.0.{p}", None, why=MASKED_ONLY),
)

# Both versions on disk, the second also in memory.
TRANSFORMERS_BLOCKS = (
    Rule("{base}encoder.layers.{i}.blocks.{j}.attention.output.dense.{p}", "layers.{i}.blocks.{j}.attn.proj.{p}"),
    Rule("{base}encoder.layers.{i}.blocks.{j}.intermediate.dense.{p}", "layers.{i}.blocks.{j}.mlp.fc1.{p}"),
    Rule("{base}encoder.layers.{i}.blocks.{j}.output.dense.{p}", "layers.{i}.blocks.{j}.mlp.fc2.{p}"),
)

TRANSFORMERS_SWIN = (
    *TRANSFORMERS_ENDS,
    *TRANSFORMERS_BLOCKS,
    Rule(
        (
            "{base}encoder.layers.{i}.blocks.{j}.attention.self.query.{p}",
            "{base}encoder.layers.{i}.blocks.{j}.attention.self.key.{p}",
            "{base}encoder.layers.{i}.blocks.{j}.attention.self.value.{p}",
        ),
        "layers.{i}.blocks.{j}.attn.qkv.{p}",
        op=concat_rows,
    ),
    Rule(
        "{base}encoder.layers.{i}.blocks.{j}.attention.self.relative_position_bias_table",
        "layers.{i}.blocks.{j}.attn.relative_position_bias_table",
    ),
)

# The names transformers 5 has in memory: files of state_dict() have them.
TRANSFORMERS5_SWIN = (
    *TRANSFORMERS_ENDS,
    Rule(
        (
            "{base}encoder.layers.{i}.blocks.{j}.attention.q_proj.{p}",
            "{base}encoder.layers.{i}.blocks.{j}.attention.k_proj.{p}",
            "{base}encoder.layers.{i}.blocks.{j}.attention.v_proj.{p}",
        ),
        "layers.{i}.blocks.{j}.attn.qkv.{p}",
        op=concat_rows,
    ),
    Rule(
        "{base}encoder.layers.{i}.blocks.{j}.attention.relative_position_bias.relative_position_bias_table",
        "layers.{i}.blocks.{j}.attn.relative_position_bias_table",
    ),
    Rule("{base}encoder.layers.{i}.blocks.{j}.attention.o_proj.{p}", "layers.{i}.blocks.{j}.attn.proj.{p}"),
    Rule("{base}encoder.layers.{i}.blocks.{j}.mlp.fc1.{p}", "layers.{i}.blocks.{j}.mlp.fc1.{p}"),
    Rule("{base}encoder.layers.{i}.blocks.{j}.mlp.fc2.{p}", "layers.{i}.blocks.{j}.mlp.fc2.{p}"),
)

TRANSFORMERS_SWIN2 = (
    *TRANSFORMERS_ENDS,
    *TRANSFORMERS_BLOCKS,
    Rule(
        (
            "{base}encoder.layers.{i}.blocks.{j}.attention.self.query.weight",
            "{base}encoder.layers.{i}.blocks.{j}.attention.self.key.weight",
            "{base}encoder.layers.{i}.blocks.{j}.attention.self.value.weight",
        ),
        "layers.{i}.blocks.{j}.attn.qkv.weight",
        op=concat_rows,
    ),
    Rule("{base}encoder.layers.{i}.blocks.{j}.attention.self.query.bias", "layers.{i}.blocks.{j}.attn.q_bias"),
    Rule("{base}encoder.layers.{i}.blocks.{j}.attention.self.value.bias", "layers.{i}.blocks.{j}.attn.v_bias"),
    Rule("{base}encoder.layers.{i}.blocks.{j}.attention.self.logit_scale", "layers.{i}.blocks.{j}.attn.logit_scale"),
    *(
        Rule(
            f"{{base}}encoder.layers.{{i}}.blocks.{{j}}.attention.self.continuous_position_bias_mlp.{layer}",
            f"layers.{{i}}.blocks.{{j}}.attn.cpb_mlp.{layer}",
        )
        for layer in ("0.{p}", "2.weight")
    ),
)

# microsoft/Swin-Transformer, and timm up to 0.8.
MICROSOFT = (
    *INDICES,
    *steps_down(""),
    Rule("layers.{i}.blocks.{j}.{name}", "layers.{i}.blocks.{j}.{name}"),
    Rule("patch_embed.{name}", "patch_embed.{name}"),
    Rule("norm.{p}", "norm.{p}"),
    Rule("head.{p}", "head.fc.{p}"),
)


def policies(
    window_fit: WindowFit, window_padding: WindowPadding, position_resample: Literal["bicubic", "geometric"] = "bicubic"
) -> Mapping[str, Any]:
    """What a library does at other sizes than the trained one."""
    return {"window_fit": window_fit, "window_padding": window_padding, "position_resample": position_resample}


OF_TRANSFORMERS, OF_TRANSFORMERS2 = policies("each_call", "before_shift"), policies("trained", "before_shift")
OF_TIMM, OF_MICROSOFT = policies("trained", "after_shift", "geometric"), policies("trained", "before_shift")


def _of_transformers(rules: tuple[Rule, ...], mark: str, implies: Mapping[str, Any], base: str, name: str) -> Any:
    """A layout with a head and one without."""
    marks = ("{base}encoder.layers.0.blocks.0." + mark,)
    with_head = Layout(
        arch="swin", marks=(*marks, "classifier.weight"), rules=rules, implies=implies, bound={"base": base}
    )
    return {name: with_head, f"{name}-model": dataclasses.replace(with_head, marks=marks, bound={"base": ""})}


LAYOUTS: Mapping[str, Layout] = {
    "microsoft/swin": Layout(
        arch="swin",
        marks=("layers.0.blocks.0.attn.qkv.weight", "layers.0.downsample.reduction.weight"),
        rules=MICROSOFT,
        implies=OF_MICROSOFT,
    ),
    # timm's names since 0.9, from when its buffers were still saved.
    "timm/swin-indices": Layout(
        arch="swin",
        marks=("layers.0.blocks.0.attn.qkv.weight", "layers.0.blocks.0.attn.relative_position_index"),
        rules=(*INDICES, Rule("{name}", "{name}")),
        implies=OF_TIMM,
    ),
    # Our names are timm's, so the native layout and timm's are one.
    "timm/swin": Layout(
        arch="swin",
        marks=("layers.0.blocks.0.attn.qkv.weight",),
        rules=(Rule("{name}", "{name}"),),
        implies=OF_TIMM,
    ),
    **_of_transformers(
        TRANSFORMERS_SWIN2, "attention.self.logit_scale", OF_TRANSFORMERS2, "swinv2.", "transformers/swinv2"
    ),
    **_of_transformers(TRANSFORMERS_SWIN, "attention.self.query.weight", OF_TRANSFORMERS, "swin.", "transformers/swin"),
    **_of_transformers(TRANSFORMERS5_SWIN, "attention.q_proj.weight", OF_TRANSFORMERS, "swin.", "transformers5/swin"),
}


def _other_windows(spec: SwinSpec, window_fit: WindowFit, window_padding: WindowPadding) -> list[str]:
    """Where a library of these policies computes something else already at the trained size."""
    other = dataclasses.replace(spec, window_fit=window_fit, window_padding=window_padding)
    differing = []
    for stage, grid in enumerate(spec.grids()):
        size, shift = spec.window(stage, grid)
        same = other.window(stage, grid) == (size, shift) and other.bias_window(stage) == spec.bias_window(stage)
        filled = any(side % window for side, window in zip(grid, size, strict=True)) and any(shift)
        if not same or (filled and window_padding != spec.window_padding):
            differing.append(grid)
    return _cut_otherwise(differing)


def _cut_otherwise(grids: Sequence[tuple[int, int]]) -> list[str]:
    spelt = " and ".join(f"{h}x{w}" for h, w in grids)
    return [f"it cuts grids of {spelt} into other windows"] if grids else []


def _transformers_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    """What the configurations of both versions share; absent keys mean the class's own."""
    words.only("use_absolute_embeddings", False)
    return {
        "image_size": words.size("image_size", 224),
        "patch_size": words.square("patch_size", 4),
        "in_channels": words.get("num_channels", 3),
        "num_classes": outputs.num_classes,
        "embed_dim": words.get("embed_dim", 96),
        "depths": tuple(words.get("depths", (2, 2, 6, 2))),
        "num_heads": tuple(words.get("num_heads", (3, 6, 12, 24))),
        "window_size": words.get("window_size", 7),
        "mlp_ratio": float(words.get("mlp_ratio", 4.0)),
        "qkv_bias": words.get("qkv_bias", True),
        "activation": words.one_of("hidden_act", TRANSFORMERS_ACTIVATIONS, "gelu"),
        "norm_eps": words.get("layer_norm_eps", 1e-5),
        "dropout": float(words.get("hidden_dropout_prob", 0.0)),
        "attention_dropout": float(words.get("attention_probs_dropout_prob", 0.0)),
        "drop_path": float(words.get("drop_path_rate", 0.1)),
    }


def _transformers_config(spec: SwinSpec) -> dict[str, Any]:
    """The same, the other way."""
    return {
        "image_size": spec.image_size[0] if len(set(spec.image_size)) == 1 else list(spec.image_size),
        "patch_size": spec.patch_size,
        "num_channels": spec.in_channels,
        "embed_dim": spec.embed_dim,
        "depths": list(spec.depths),
        "num_heads": list(spec.num_heads),
        "window_size": spec.window_size[0],
        "mlp_ratio": spec.mlp_ratio,
        "qkv_bias": spec.qkv_bias,
        "hidden_act": ACTIVATIONS_FOR_TRANSFORMERS[spec.activation],
        "layer_norm_eps": spec.norm_eps,
        "hidden_dropout_prob": spec.dropout,
        "attention_probs_dropout_prob": spec.attention_dropout,
        "drop_path_rate": spec.drop_path,
    }


def _transformers_refuses(spec: SwinSpec) -> Iterable[str]:
    if len(set(spec.window_size)) > 1:
        yield f"it has one window_size for all stages, not {spec.window_size}"


def _swin_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    return {"version": 1, **_transformers_fields(words, outputs), **OF_TRANSFORMERS}


def _swin_refuses(spec: SwinSpec) -> Iterable[str]:
    yield from _transformers_refuses(spec)
    smaller = any(min(grid) < side for side, grid in zip(spec.window_size, spec.grids(), strict=True))
    yield from (
        ["it fails where grids are smaller than windows"]
        if smaller
        else _other_windows(spec, "each_call", "before_shift")
    )


def _swin2_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    fields = {"version": 2, **_transformers_fields(words, outputs), **OF_TRANSFORMERS2}
    fields["pretrained_window_size"] = _learned_windows(words, len(fields["depths"]))
    for reason in _halved_otherwise(SwinSpec(**fields)):
        words.faults.append(f"this image_size isn't supported: transformers' class {reason.removeprefix('it ')}")
    return fields


def _learned_windows(words: Words, stages: int) -> tuple[int, ...]:
    """Those of version 2; the libraries' default has four entries and they read the first."""
    return tuple(words.get("pretrained_window_sizes") or (0,) * stages)[:stages]


def _swin2_config(spec: SwinSpec) -> dict[str, Any]:
    return {**_transformers_config(spec), "pretrained_window_sizes": list(spec.pretrained_window_size)}


def _swin2_refuses(spec: SwinSpec) -> Iterable[str]:
    yield from _transformers_refuses(spec)
    yield from _other_windows(spec, "trained", "before_shift") or _halved_otherwise(spec)


def _halved_otherwise(spec: SwinSpec) -> list[str]:
    """transformers' v2 fits windows to grids that it halves rounding down, by their rows alone."""
    differing = []
    for stage, grid in enumerate(spec.grids()):
        side, room = spec.window_size[stage], spec.grids()[0][0] // 2**stage
        size, shift = min(side, room), side // 2 if room > side else 0
        if spec.window(stage, grid) != ((size, size), (shift, shift)):
            differing.append(grid)
    return _cut_otherwise(differing)


TRANSFORMERS = (
    Dialect(
        name="transformers' Swin",
        kind="swin",
        arch="swin",
        classes=("SwinForImageClassification", "SwinModel"),
        layouts=("transformers/swin", "transformers/swin-model"),
        holds={"version": (1,)},
        refuses=_swin_refuses,
        fields=_swin_fields,
        config=_transformers_config,
    ),
    Dialect(
        name="transformers' Swin v2",
        kind="swinv2",
        arch="swin",
        classes=("Swinv2ForImageClassification", "Swinv2Model"),
        layouts=("transformers/swinv2", "transformers/swinv2-model"),
        holds={"version": (2,)},
        refuses=_swin2_refuses,
        fields=_swin2_fields,
        config=_swin2_config,
    ),
)

# Arguments that change training or input checks, not what the weights compute here.
TIMM_IGNORED = (
    "strict_img_size",
    "dynamic_img_size",
    "drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "weight_init",
    "num_classes",
)


def _per_stage(words: Words, key: str, default: Any, stages: int) -> tuple[int, ...]:
    """timm's windows: a side, a pair (h, w), or one of these for each stage; here they must be square."""
    value = words.get(key, default)
    alike = isinstance(value, int) or (len(value) == 2 and all(isinstance(side, int) for side in value))
    sides = [{side} if isinstance(side, int) else set(side) for side in ([value] * stages if alike else value)]
    if any(len(side) != 1 for side in sides):
        words.faults.append(f"{key} {value} isn't supported; windows must be square")
    return tuple(min(side) for side in sides)


def _timm_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    """From timm's constructor arguments; the caller has put the architecture's own under those of the file."""
    depths = tuple(words.get("depths", (2, 2, 6, 2)))
    for key, allowed in {"head_dim": None, "norm_layer": None, "embed_layer": None, "global_pool": "avg"}.items():
        words.only(key, allowed)
    words.only("act_layer", "gelu", None)
    for key in TIMM_IGNORED:
        words.get(key)
    fields = {
        "image_size": words.size("img_size", 224),
        "patch_size": words.square("patch_size", 4),
        "in_channels": words.get("in_chans", 3),
        "num_classes": outputs.num_classes,
        "embed_dim": words.get("embed_dim", 96),
        "depths": depths,
        "num_heads": tuple(words.get("num_heads", (3, 6, 12, 24))),
        "window_size": _per_stage(words, "window_size", 7, len(depths)),
        "mlp_ratio": float(words.get("mlp_ratio", 4.0)),
        "qkv_bias": words.get("qkv_bias", True),
        "pretrained_window_size": _learned_windows(words, len(depths)),
        **OF_TIMM,
        "window_fit": "never" if words.get("always_partition", False) else "trained",
    }
    words.nothing_else()
    return fields


def _timm_arguments(spec: SwinSpec) -> dict[str, Any]:
    sides = spec.window_size
    return {
        "img_size": list(spec.image_size),
        "patch_size": spec.patch_size,
        "in_chans": spec.in_channels,
        "embed_dim": spec.embed_dim,
        "depths": list(spec.depths),
        "num_heads": list(spec.num_heads),
        "window_size": sides[0] if len(set(sides)) == 1 else [[side, side] for side in sides],
        "mlp_ratio": spec.mlp_ratio,
        "qkv_bias": spec.qkv_bias,
        "global_pool": "avg",
        **({"always_partition": True} if spec.window_fit == "never" else {}),
        **({"pretrained_window_sizes": list(spec.pretrained_window_size)} if any(spec.pretrained_window_size) else {}),
    }


def _timm_refuses(spec: SwinSpec) -> Iterable[str]:
    if spec.norm_eps != 1e-5:
        yield f"it computes LayerNorm with eps 1e-5, these weights need {spec.norm_eps:g}"
    yield from _other_windows(spec, "never" if spec.window_fit == "never" else "trained", "after_shift")


TIMM = tuple(
    Dialect(
        name=f"timm's {kind}",
        kind=kind,
        arch="swin",
        layouts=("timm/swin", "timm/swin"),
        classifier="head.fc",
        holds={"version": (version,), "activation": ("gelu",)},
        refuses=_timm_refuses,
        fields=_timm_fields,
        config=_timm_arguments,
    )
    for version, kind in ((1, "SwinTransformer"), (2, "SwinTransformerV2"))
)

FAMILY = Family(layouts=LAYOUTS, transformers=TRANSFORMERS, timm=TIMM)
