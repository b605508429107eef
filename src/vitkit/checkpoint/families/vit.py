"""ViT as transformers and timm write it (also DINO, AugReg, in21k with its hidden head layer).

Checked against transformers 5.23 (models/vit/modeling_vit.py and the names its save_pretrained writes) and timm 1.0.31
(models/vision_transformer.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from vitkit.checkpoint.dialect import Dialect, Family, Layout, Outputs, Words, plain
from vitkit.checkpoint.namemap import Rule, concat_rows
from vitkit.model.spec import VitSpec

__all__ = [
    "FAMILY",
    "POOLER_DROPPED",
    "POOLER_READ",
    "TRANSFORMERS5_VIT_BLOCKS",
    "TRANSFORMERS_ACTIVATIONS",
    "TRANSFORMERS_VIT_BLOCKS",
    "TRANSFORMERS_VIT_ENDS",
    "TRANSFORMERS_VIT_HOLDS",
    "pooler_config",
    "pooler_fields",
    "pooler_refuses",
    "timm_ratio",
    "timm_vit_arguments",
    "timm_vit_fields",
    "timm_vit_refuses",
    "transformers_vit_config",
    "transformers_vit_fields",
]


POOLER_UNREAD = "transformers' classifier reads the class token, not the pooler"
MASKED_ONLY = "only used in masked pre-training"

# What both generations of transformers' names share.
TRANSFORMERS_VIT_ENDS = (
    Rule("{base}embeddings.cls_token", "cls_token"),
    Rule("{base}embeddings.position_embeddings", "pos_embed"),
    Rule("{base}embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
    Rule("{base}layernorm.{p}", "norm.{p}"),
    Rule("classifier.{p}", "head.{p}"),
    Rule("{base}embeddings.mask_token", None, why=MASKED_ONLY),
    Rule("decoder.0.{p}", None, why=MASKED_ONLY),
)

# On disk, and up to transformers 4 also in memory.
TRANSFORMERS_VIT_BLOCKS = (
    Rule("{base}encoder.layer.{i}.layernorm_before.{p}", "blocks.{i}.norm1.{p}"),
    Rule(
        (
            "{base}encoder.layer.{i}.attention.attention.query.{p}",
            "{base}encoder.layer.{i}.attention.attention.key.{p}",
            "{base}encoder.layer.{i}.attention.attention.value.{p}",
        ),
        "blocks.{i}.attn.qkv.{p}",
        op=concat_rows,
    ),
    Rule("{base}encoder.layer.{i}.attention.output.dense.{p}", "blocks.{i}.attn.proj.{p}"),
    Rule("{base}encoder.layer.{i}.layernorm_after.{p}", "blocks.{i}.norm2.{p}"),
    Rule("{base}encoder.layer.{i}.intermediate.dense.{p}", "blocks.{i}.mlp.fc1.{p}"),
    Rule("{base}encoder.layer.{i}.output.dense.{p}", "blocks.{i}.mlp.fc2.{p}"),
)

# The names transformers 5 has in memory: files of state_dict() have them.
TRANSFORMERS5_VIT_BLOCKS = (
    Rule("{base}layers.{i}.layernorm_before.{p}", "blocks.{i}.norm1.{p}"),
    Rule(
        (
            "{base}layers.{i}.attention.q_proj.{p}",
            "{base}layers.{i}.attention.k_proj.{p}",
            "{base}layers.{i}.attention.v_proj.{p}",
        ),
        "blocks.{i}.attn.qkv.{p}",
        op=concat_rows,
    ),
    Rule("{base}layers.{i}.attention.o_proj.{p}", "blocks.{i}.attn.proj.{p}"),
    Rule("{base}layers.{i}.layernorm_after.{p}", "blocks.{i}.norm2.{p}"),
    Rule("{base}layers.{i}.mlp.fc1.{p}", "blocks.{i}.mlp.fc1.{p}"),
    Rule("{base}layers.{i}.mlp.fc2.{p}", "blocks.{i}.mlp.fc2.{p}"),
)

POOLER_READ = (Rule("{base}pooler.dense.{p}", "pre_logits.fc.{p}"),)
POOLER_DROPPED = (Rule("{base}pooler.dense.{p}", None, why=POOLER_UNREAD),)

LAYOUTS: Mapping[str, Layout] = {
    # Our names are timm's, so the native layout and timm's are one.
    "timm/vit": Layout(
        arch="vit",
        marks=("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"),
        rules=(Rule("{name}", "{name}"),),
        implies=plain("bicubic_antialias"),
    ),
    "transformers/vit": Layout(
        arch="vit",
        marks=("{base}encoder.layer.0.layernorm_before.weight", "classifier.weight"),
        rules=(*TRANSFORMERS_VIT_ENDS, *TRANSFORMERS_VIT_BLOCKS, *POOLER_DROPPED),
        implies=plain("bicubic"),
        bound={"base": "vit."},
    ),
    "transformers/vit-model": Layout(
        arch="vit",
        marks=("{base}encoder.layer.0.layernorm_before.weight",),
        rules=(*TRANSFORMERS_VIT_ENDS, *TRANSFORMERS_VIT_BLOCKS, *POOLER_READ),
        implies=plain("bicubic"),
        bound={"base": ""},
    ),
    "transformers5/vit": Layout(
        arch="vit",
        marks=("{base}layers.0.layernorm_before.weight", "classifier.weight"),
        rules=(*TRANSFORMERS_VIT_ENDS, *TRANSFORMERS5_VIT_BLOCKS, *POOLER_DROPPED),
        implies=plain("bicubic"),
        bound={"base": "vit."},
    ),
    "transformers5/vit-model": Layout(
        arch="vit",
        marks=("{base}layers.0.layernorm_before.weight",),
        rules=(*TRANSFORMERS_VIT_ENDS, *TRANSFORMERS5_VIT_BLOCKS, *POOLER_READ),
        implies=plain("bicubic"),
        bound={"base": ""},
    ),
}

# transformers' names of activations, and ours.
TRANSFORMERS_ACTIVATIONS: Mapping[str, str] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
ACTIVATIONS_FOR_TRANSFORMERS = {ours: theirs for theirs, ours in TRANSFORMERS_ACTIVATIONS.items()} | {"silu": "silu"}


def transformers_vit_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    """What the configurations of transformers' ViT and its descendants share; absent keys mean the class's own."""
    return {
        "image_size": words.size("image_size", 224),
        "patch_size": words.square("patch_size", 16),
        "in_channels": words.get("num_channels", 3),
        "num_classes": outputs.num_classes,
        "embed_dim": words.get("hidden_size", 768),
        "depth": words.get("num_hidden_layers", 12),
        "num_heads": words.get("num_attention_heads", 12),
        "mlp_dim": words.get("intermediate_size", 3072),
        "position_resample": "bicubic",
        "qkv_bias": "qkv" if words.get("qkv_bias", True) else "none",
        "activation": words.one_of("hidden_act", TRANSFORMERS_ACTIVATIONS, "gelu"),
        "norm_eps": words.get("layer_norm_eps", 1e-12),
        "dropout": float(words.get("hidden_dropout_prob", 0.0)),
        "attention_dropout": float(words.get("attention_probs_dropout_prob", 0.0)),
    }


def transformers_vit_config(spec: VitSpec) -> dict[str, Any]:
    """The same, the other way."""
    return {
        "image_size": spec.image_size[0] if len(set(spec.image_size)) == 1 else list(spec.image_size),
        "patch_size": spec.patch_size,
        "num_channels": spec.in_channels,
        "hidden_size": spec.embed_dim,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.num_heads,
        "intermediate_size": spec.mlp_dim,
        "hidden_act": ACTIVATIONS_FOR_TRANSFORMERS[spec.activation],
        "layer_norm_eps": spec.norm_eps,
        "qkv_bias": spec.qkv_bias == "qkv",
        "hidden_dropout_prob": spec.dropout,
        "attention_probs_dropout_prob": spec.attention_dropout,
    }


TRANSFORMERS_VIT_HOLDS: Mapping[str, tuple[Any, ...]] = {
    "class_token": (True,),
    "distillation_token": (False,),
    "num_registers": (0,),
    "position": ("learned",),
    "prefix_positions": (True,),
    "pre_norm": (False,),
    "qkv_bias": ("qkv", "none"),
    "layer_scale": (0.0,),
    "gated_mlp": (False,),
    "stem_depths": (None,),
    "stem_channels": (None,),
    "final_norm": ("tokens",),
    "pool": ("cls",),
}


def pooler_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    """`transformers_vit_fields`, and the pooler as our hidden head layer."""
    if outputs.pre_logits_dim:
        words.only("pooler_act", "tanh")
    return {**transformers_vit_fields(words, outputs), "pre_logits_dim": outputs.pre_logits_dim}


def pooler_config(spec: VitSpec) -> dict[str, Any]:
    """The same, the other way."""
    pooler = {"pooler_output_size": spec.pre_logits_dim, "pooler_act": "tanh"} if spec.pre_logits_dim else {}
    return {**transformers_vit_config(spec), **pooler}


def pooler_refuses(spec: VitSpec) -> Iterable[str]:
    """Why transformers' classes with a pooler can't hold a spec."""
    if spec.num_classes and spec.pre_logits_dim:
        yield "its classifier has no hidden layer before the head"


TRANSFORMERS_VIT = Dialect(
    name="transformers' ViT",
    kind="vit",
    classes=("ViTForImageClassification", "ViTModel"),
    layouts=("transformers/vit", "transformers/vit-model"),
    holds=TRANSFORMERS_VIT_HOLDS,
    refuses=pooler_refuses,
    fields=pooler_fields,
    config=pooler_config,
)


# timm's constructor arguments whose only supported value is its own default, which the encoder here has built in.
TIMM_FIXED: Mapping[str, tuple[Any, ...]] = {
    "qk_norm": (False,),
    "scale_attn_norm": (False,),
    "scale_mlp_norm": (False,),
    "proj_bias": (True,),
    "final_norm": (True,),
    "pool_include_prefix": (False,),
    "dynamic_img_pad": (False,),
    "norm_layer": (None,),
    "embed_norm_layer": (None,),
}
# Arguments that change training or input checks, not what the weights compute here.
TIMM_IGNORED = (
    "dynamic_img_size",
    "strict_img_size",
    "drop_rate",
    "patch_drop_rate",
    "weight_init",
    "fix_init",
    "pos_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "num_classes",
)
TIMM_ACTIVATIONS: Mapping[str | None, str] = {
    None: "gelu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "relu": "relu",
}
TIMM_POOLS = {"token": "cls", "avg": "mean", "map": "attention"}
POOLS_FOR_TIMM = {ours: theirs for theirs, ours in TIMM_POOLS.items()}


def timm_vit_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    """From timm's constructor arguments; the caller has put the architecture's own under those of the file."""
    embed_dim = words.get("embed_dim", 768)
    pool = words.one_of("global_pool", TIMM_POOLS, "token")
    fc_norm = words.get("fc_norm")
    for key, allowed in TIMM_FIXED.items():
        words.only(key, *allowed)
    for key in TIMM_IGNORED:
        words.get(key)
    fields = {
        "image_size": words.size("img_size", 224),
        "patch_size": words.get("patch_size", 16),
        "in_channels": words.get("in_chans", 3),
        "num_classes": outputs.num_classes,
        "embed_dim": embed_dim,
        "depth": words.get("depth", 12),
        "num_heads": words.get("num_heads", 12),
        "mlp_dim": int(embed_dim * words.get("mlp_ratio", 4.0)),
        "class_token": words.get("class_token", True),
        "num_registers": words.get("reg_tokens", 0),
        "position": words.one_of("pos_embed", {"learn": "learned", "none": "none", "": "none"}, "learn"),
        "prefix_positions": not words.get("no_embed_class", False),
        "position_resample": "bicubic_antialias",
        "pre_norm": words.get("pre_norm", False),
        "qkv_bias": "qkv" if words.get("qkv_bias", True) else "none",
        "layer_scale": words.get("init_values") or 0.0,
        "activation": words.one_of("act_layer", TIMM_ACTIVATIONS),
        "pool": pool,
        "final_norm": "pooled" if (pool == "mean" if fc_norm is None else fc_norm) else "tokens",
    }
    words.nothing_else()
    return fields


def timm_vit_arguments(spec: VitSpec) -> dict[str, Any]:
    """timm's constructor arguments for a spec: all, since an architecture may have others than the class."""
    return {
        "img_size": list(spec.image_size),
        "patch_size": spec.patch_size,
        "in_chans": spec.in_channels,
        "embed_dim": spec.embed_dim,
        "depth": spec.depth,
        "num_heads": spec.num_heads,
        "mlp_ratio": timm_ratio(spec),
        "qkv_bias": spec.qkv_bias == "qkv",
        "class_token": spec.class_token,
        "pos_embed": "learn" if spec.position == "learned" else "none",
        "global_pool": POOLS_FOR_TIMM[spec.pool],
        "fc_norm": spec.final_norm == "pooled",
        "act_layer": spec.activation,
        "reg_tokens": spec.num_registers,
        "no_embed_class": not spec.prefix_positions,
        "pre_norm": spec.pre_norm,
        "init_values": spec.layer_scale or None,
    }


def timm_ratio(spec: VitSpec) -> float:
    """The mlp_ratio for which timm's int(embed_dim * mlp_ratio) is exactly mlp_dim."""
    ratio = spec.mlp_dim / spec.embed_dim
    while int(spec.embed_dim * ratio) < spec.mlp_dim:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def timm_vit_refuses(spec: VitSpec) -> Iterable[str]:
    """Why timm's ViT and its descendants can't hold a spec."""
    if spec.norm_eps != 1e-6 and not (spec.norm_eps == 1e-5 and spec.pre_norm):  # CLIP's architectures have 1e-5
        yield f"it computes LayerNorm with eps 1e-6, these weights need {spec.norm_eps:g}"
    if spec.pre_logits_dim:
        yield "it has no hidden layer before the head"
    if spec.final_norm == "none":
        yield "it has a last LayerNorm"


TIMM_VIT = Dialect(
    name="timm's ViT",
    kind="VisionTransformer",
    layouts=("timm/vit", "timm/vit"),
    holds={
        "distillation_token": (False,),
        "position": ("learned", "none"),
        "qkv_bias": ("qkv", "none"),
        "gated_mlp": (False,),
        "stem_depths": (None,),
        "stem_channels": (None,),
        "pool": tuple(POOLS_FOR_TIMM),
    },
    refuses=timm_vit_refuses,
    fields=timm_vit_fields,
    config=timm_vit_arguments,
)

FAMILY = Family(layouts=LAYOUTS, transformers=(TRANSFORMERS_VIT,), timm=(TIMM_VIT,))
