"""BEiT and BEiT v2 as transformers, timm and Microsoft's unilm write them.

Checked against transformers 5.23 (models/beit/modeling_beit.py and the names its save_pretrained writes), timm 1.0.31
(models/beit.py) and microsoft/unilm (modeling_finetune.py and modeling_pretrain.py in beit and beit2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vitkit.checkpoint.dialect import Dialect, Family, Layout, Outputs, Words
from vitkit.checkpoint.families.vit import (
    TRANSFORMERS_VIT_ENDS,
    TRANSFORMERS_VIT_HOLDS,
    timm_ratio,
    timm_vit_refuses,
    transformers_vit_config,
    transformers_vit_fields,
)
from vitkit.checkpoint.namemap import Rule, concat_rows
from vitkit.model.spec import VitSpec

__all__ = ["FAMILY", "TIMM_BEIT", "TRANSFORMERS_BEIT"]

COMPUTED = "pairs of places, computed here"
PRETRAINING = "only used to predict visual tokens in pre-training"

TRANSFORMERS_BEIT_ENDS = (
    *TRANSFORMERS_VIT_ENDS,
    Rule("{base}pooler.layernorm.{p}", "fc_norm.{p}"),
    Rule("lm_head.{p}", None, why=PRETRAINING),
)

# On disk, and up to transformers 4 also in memory. Keys have no bias.
TRANSFORMERS_BEIT_RULES = (
    *TRANSFORMERS_BEIT_ENDS,
    Rule("{base}encoder.layer.{i}.layernorm_before.{p}", "blocks.{i}.norm1.{p}"),
    Rule(
        (
            "{base}encoder.layer.{i}.attention.attention.query.weight",
            "{base}encoder.layer.{i}.attention.attention.key.weight",
            "{base}encoder.layer.{i}.attention.attention.value.weight",
        ),
        "blocks.{i}.attn.qkv.weight",
        op=concat_rows,
    ),
    Rule("{base}encoder.layer.{i}.attention.attention.query.bias", "blocks.{i}.attn.q_bias"),
    Rule("{base}encoder.layer.{i}.attention.attention.value.bias", "blocks.{i}.attn.v_bias"),
    Rule(
        "{base}encoder.layer.{i}.attention.attention.relative_position_bias.relative_position_bias_table",
        "blocks.{i}.attn.relative_bias.table",
    ),
    Rule("{base}encoder.relative_position_bias.relative_position_bias_table", "relative_bias.table"),
    Rule("{name}relative_position_index", None, why=COMPUTED),
    Rule("{base}encoder.layer.{i}.attention.output.dense.{p}", "blocks.{i}.attn.proj.{p}"),
    Rule("{base}encoder.layer.{i}.lambda_1", "blocks.{i}.ls1.gamma"),
    Rule("{base}encoder.layer.{i}.layernorm_after.{p}", "blocks.{i}.norm2.{p}"),
    Rule("{base}encoder.layer.{i}.intermediate.dense.{p}", "blocks.{i}.mlp.fc1.{p}"),
    Rule("{base}encoder.layer.{i}.output.dense.{p}", "blocks.{i}.mlp.fc2.{p}"),
    Rule("{base}encoder.layer.{i}.lambda_2", "blocks.{i}.ls2.gamma"),
)

# The names transformers 5 has in memory: files of state_dict() have them.
TRANSFORMERS5_BEIT_RULES = (
    *TRANSFORMERS_BEIT_ENDS,
    Rule("{base}layers.{i}.layernorm_before.{p}", "blocks.{i}.norm1.{p}"),
    Rule(
        (
            "{base}layers.{i}.attention.q_proj.weight",
            "{base}layers.{i}.attention.k_proj.weight",
            "{base}layers.{i}.attention.v_proj.weight",
        ),
        "blocks.{i}.attn.qkv.weight",
        op=concat_rows,
    ),
    Rule("{base}layers.{i}.attention.q_proj.bias", "blocks.{i}.attn.q_bias"),
    Rule("{base}layers.{i}.attention.v_proj.bias", "blocks.{i}.attn.v_bias"),
    Rule("{base}layers.{i}.relative_position_bias.relative_position_bias_table", "blocks.{i}.attn.relative_bias.table"),
    Rule("{base}shared_position_bias.relative_position_bias_table", "relative_bias.table"),
    Rule("{base}layers.{i}.attention.o_proj.{p}", "blocks.{i}.attn.proj.{p}"),
    Rule("{base}layers.{i}.lambda_1", "blocks.{i}.ls1.gamma"),
    Rule("{base}layers.{i}.layernorm_after.{p}", "blocks.{i}.norm2.{p}"),
    Rule("{base}layers.{i}.mlp.fc1.{p}", "blocks.{i}.mlp.fc1.{p}"),
    Rule("{base}layers.{i}.mlp.fc2.{p}", "blocks.{i}.mlp.fc2.{p}"),
    Rule("{base}layers.{i}.lambda_2", "blocks.{i}.ls2.gamma"),
)

# The authors' names, which are timm's.
SAME = (
    "cls_token",
    "patch_embed.proj.{p}",
    "blocks.{i}.norm1.{p}",
    "blocks.{i}.attn.qkv.weight",
    "blocks.{i}.attn.q_bias",
    "blocks.{i}.attn.v_bias",
    "blocks.{i}.attn.proj.{p}",
    "blocks.{i}.norm2.{p}",
    "blocks.{i}.mlp.fc1.{p}",
    "blocks.{i}.mlp.fc2.{p}",
    "norm.{p}",
    "fc_norm.{p}",
    "head.{p}",
)
TIMM_BEIT_RULES = (
    *(Rule(name, name) for name in SAME),
    Rule("blocks.{i}.attn.relative_position_bias_table", "blocks.{i}.attn.relative_bias.table"),
    Rule("rel_pos_bias.relative_position_bias_table", "relative_bias.table"),
    Rule("blocks.{i}.gamma_1", "blocks.{i}.ls1.gamma"),
    Rule("blocks.{i}.gamma_2", "blocks.{i}.ls2.gamma"),
    Rule("{name}relative_position_index", None, why=COMPUTED),
)
# What version 2 adds for its pre-training is called cls_pt_*.
UNILM_PRETRAINED_RULES = (
    *TIMM_BEIT_RULES,
    Rule("mask_token", None, why=PRETRAINING),
    Rule("lm_head.{p}", None, why=PRETRAINING),
    Rule("cls_pt_{name}", None, why=PRETRAINING),
)

BILINEAR = {"position_resample": "bilinear"}
GEOMETRIC = {"position_resample": "geometric"}
QUERY_BIAS, KEY_BIAS = (f"{{base}}encoder.layer.0.attention.attention.{name}.bias" for name in ("query", "key"))
QUERY_BIAS5, KEY_BIAS5 = (f"{{base}}layers.0.attention.{name}_proj.bias" for name in ("q", "k"))

LAYOUTS: Mapping[str, Layout] = {
    "transformers/beit": Layout(
        arch="vit",
        marks=("{base}encoder.layer.0.layernorm_before.weight", QUERY_BIAS, "classifier.weight"),
        without=(KEY_BIAS,),
        rules=TRANSFORMERS_BEIT_RULES,
        implies=BILINEAR,
        bound={"base": "beit."},
    ),
    "transformers/beit-model": Layout(
        arch="vit",
        marks=("{base}encoder.layer.0.layernorm_before.weight", QUERY_BIAS),
        without=(KEY_BIAS,),
        rules=TRANSFORMERS_BEIT_RULES,
        implies=BILINEAR,
        bound={"base": ""},
    ),
    "transformers5/beit": Layout(
        arch="vit",
        marks=("{base}layers.0.layernorm_before.weight", QUERY_BIAS5),
        without=(KEY_BIAS5,),
        rules=TRANSFORMERS5_BEIT_RULES,
        implies=BILINEAR,
    ),
    "unilm/beit-pretrained": Layout(
        arch="vit",
        marks=("rel_pos_bias.relative_position_bias_table", "blocks.0.attn.q_bias", "mask_token", "lm_head.weight"),
        rules=UNILM_PRETRAINED_RULES,
        implies={**GEOMETRIC, "position": "relative_shared", "final_norm": "tokens", "num_classes": 0},
    ),
    "timm/beit": Layout(
        arch="vit",
        marks=("{name}relative_position_bias_table", "blocks.0.attn.q_bias", "blocks.0.attn.qkv.weight"),
        rules=TIMM_BEIT_RULES,
        implies=GEOMETRIC,
    ),
}

TABLES = {"use_relative_position_bias": "relative", "use_shared_relative_position_bias": "relative_shared"}
TIMM_TABLES = {"use_rel_pos_bias": "relative", "use_shared_rel_pos_bias": "relative_shared"}
ONLY_SQUARE = "transformers mixes up rows and columns of its tables where pictures aren't square"


def _position(words: Words, tables: Mapping[str, str]) -> str:
    """Which of the keys in `tables` is true."""
    asked = [key for key in tables if words.get(key, False)]
    if len(asked) > 1:
        words.faults.append(f"{' and '.join(asked)} together aren't supported; one table or one per block")
    return tables[asked[0]] if asked else "none"


def _fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    words.only("use_absolute_position_embeddings", False)
    fields = transformers_vit_fields(words, outputs)
    mean = words.get("use_mean_pooling", True)
    if isinstance(fields["image_size"], tuple) and len(set(fields["image_size"])) > 1:
        words.faults.append(f"image_size {fields['image_size']} isn't supported; {ONLY_SQUARE}")
    return {
        **fields,
        "position": _position(words, TABLES),
        "position_resample": "bilinear",
        "qkv_bias": "qv",
        "layer_scale": max(words.get("layer_scale_init_value", 0.1), 0.0),
        "pool": "mean" if mean else "cls",
        # Pooling by the mean, BeitModel norms what it pools or nothing, BeitForMaskedImageModeling all tokens.
        "final_norm": outputs.final_norm if mean else "tokens",
        "drop_path": float(words.get("drop_path_rate", 0.1)),
    }


def _config(spec: VitSpec) -> dict[str, Any]:
    shared = transformers_vit_config(spec)
    del shared["qkv_bias"]
    return {
        **shared,
        **{key: spec.position == position for key, position in TABLES.items()},
        "layer_scale_init_value": spec.layer_scale,
        "use_mean_pooling": spec.pool == "mean",
        "drop_path_rate": spec.drop_path,
    }


def _refuses(spec: VitSpec) -> Iterable[str]:
    if len(set(spec.image_size)) > 1:
        yield ONLY_SQUARE
    if spec.pre_logits_dim:
        yield "it has no hidden layer before the head"
    last = {"cls": ("tokens",), "mean": ("pooled",) if spec.num_classes else ("pooled", "none")}
    if spec.pool in last and spec.final_norm not in last[spec.pool]:
        yield f"reading {spec.pool}, its last norm is on {' or '.join(last[spec.pool])}, not {spec.final_norm}"


TRANSFORMERS_BEIT = Dialect(
    name="transformers' BEiT",
    kind="beit",
    classes=("BeitForImageClassification", "BeitModel"),
    layouts=("transformers/beit", "transformers/beit-model"),
    holds={
        **{name: known for name, known in TRANSFORMERS_VIT_HOLDS.items() if name not in ("layer_scale", "final_norm")},
        "position": ("relative", "relative_shared", "none"),
        "qkv_bias": ("qv",),
        "pool": ("cls", "mean"),
    },
    refuses=_refuses,
    fields=_fields,
    config=_config,
)

# timm's constructor arguments that are supported with one value alone, and those that change nothing but training.
TIMM_FIXED = {"qkv_bias": True, "swiglu_mlp": False, "scale_mlp": False, "use_abs_pos_emb": False}
TIMM_IGNORED = (
    "drop_rate",
    "pos_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "head_init_scale",
    "num_classes",
)
TIMM_BEIT_POOLS = {"avg": "mean", "token": "cls"}


def _timm_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    """From timm's constructor arguments; the caller has put the architecture's own under those of the file."""
    for key, value in TIMM_FIXED.items():
        words.only(key, value)
    for key in TIMM_IGNORED:
        words.get(key)
    embed_dim = words.get("embed_dim", 768)
    pool = words.one_of("global_pool", TIMM_BEIT_POOLS, "avg")
    normed = words.get("use_fc_norm")
    fields = {
        "image_size": words.size("img_size", 224),
        "patch_size": words.get("patch_size", 16),
        "in_channels": words.get("in_chans", 3),
        "num_classes": outputs.num_classes,
        "embed_dim": embed_dim,
        "depth": words.get("depth", 12),
        "num_heads": words.get("num_heads", 12),
        "mlp_dim": int(embed_dim * words.get("mlp_ratio", 4.0)),
        "position": _position(words, TIMM_TABLES),
        "position_resample": "geometric",
        "qkv_bias": "qv",
        "layer_scale": words.get("init_values") or 0.0,
        "pool": pool,
        "final_norm": "pooled" if (pool == "mean" if normed is None else normed) else "tokens",
    }
    words.nothing_else()
    return fields


def _timm_arguments(spec: VitSpec) -> dict[str, Any]:
    pooled = spec.final_norm == "pooled"
    return {
        "img_size": list(spec.image_size),
        "patch_size": spec.patch_size,
        "in_chans": spec.in_channels,
        "embed_dim": spec.embed_dim,
        "depth": spec.depth,
        "num_heads": spec.num_heads,
        "mlp_ratio": timm_ratio(spec),
        "use_abs_pos_emb": False,
        **{key: spec.position == position for key, position in TIMM_TABLES.items()},
        "init_values": spec.layer_scale or None,
        "global_pool": "avg" if spec.pool == "mean" else "token",
        **({} if pooled == (spec.pool == "mean") else {"use_fc_norm": pooled}),
    }


TIMM_BEIT = Dialect(
    name="timm's BEiT",
    kind="Beit",
    layouts=("timm/beit", "timm/beit"),
    holds={
        "distillation_token": (False,),
        "num_registers": (0,),
        "position": ("relative", "relative_shared"),
        "pre_norm": (False,),
        "qkv_bias": ("qv",),
        "gated_mlp": (False,),
        "stem_depths": (None,),
        "stem_channels": (None,),
        "activation": ("gelu",),
        "pool": ("cls", "mean"),
        "final_norm": ("tokens", "pooled"),
    },
    refuses=timm_vit_refuses,
    fields=_timm_fields,
    config=_timm_arguments,
)

FAMILY = Family(layouts=LAYOUTS, transformers=(TRANSFORMERS_BEIT,), timm=(TIMM_BEIT,))
