"""DINOv3 as Meta, transformers and timm write it: rotary positions, registers, keys without a bias, plain and gated.

Checked against facebookresearch/dinov3 (models/vision_transformer.py, layers/, hub/backbones.py), transformers 5.23
(models/dinov3_vit and the names its save_pretrained writes) and timm 1.0.31 (models/eva.py). Meta and transformers pool
by the class token, timm by the mean of the patches unless told otherwise: each checkpoint keeps its own library's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from vitkit.checkpoint.dialect import Dialect, Family, Layout, Outputs, Words
from vitkit.checkpoint.families.dino import GATED, PLAIN, PRETRAINING_HEAD
from vitkit.checkpoint.families.vit import (
    ACTIVATIONS_FOR_TRANSFORMERS,
    MASKED_ONLY,
    TIMM_IGNORED,
    TRANSFORMERS_ACTIVATIONS,
    timm_ratio,
)
from vitkit.checkpoint.namemap import Op, Rule, concat_rows
from vitkit.model.position import ROPE_BASE, rotation_periods
from vitkit.model.spec import VitSpec

__all__ = ["FAMILY"]

# Of a fused bias the keys' third is masked: it stays what it was drawn as, and is never read.
query_bias = Op(lambda tensors, spec: tensors[0].chunk(3)[0])
value_bias = Op(lambda tensors, spec: tensors[0].chunk(3)[2])


def _same_periods(periods: Tensor, spec: VitSpec) -> bool:
    """Within bfloat16, in which the published ones were computed."""
    ours = rotation_periods(spec.embed_dim // spec.num_heads)
    return periods.shape == ours.shape and torch.allclose(periods.float(), ours, rtol=2**-8)


META_DINOV3 = (
    Rule("{base}cls_token", "cls_token"),
    Rule("{base}storage_tokens", "reg_token"),
    Rule("{base}patch_embed.proj.{p}", "patch_embed.proj.{p}"),
    Rule("{base}blocks.{i}.norm1.{p}", "blocks.{i}.norm1.{p}"),
    Rule("{base}blocks.{i}.attn.qkv.weight", "blocks.{i}.attn.qkv.weight"),
    Rule("{base}blocks.{i}.attn.qkv.bias", "blocks.{i}.attn.q_bias", op=query_bias),
    Rule("{base}blocks.{i}.attn.qkv.bias", "blocks.{i}.attn.v_bias", op=value_bias),
    Rule("{base}blocks.{i}.attn.proj.{p}", "blocks.{i}.attn.proj.{p}"),
    Rule("{base}blocks.{i}.ls1.gamma", "blocks.{i}.ls1.gamma"),
    Rule("{base}blocks.{i}.norm2.{p}", "blocks.{i}.norm2.{p}"),
    Rule("{base}blocks.{i}.mlp.fc1.{p}", "blocks.{i}.mlp.fc1.{p}"),
    Rule("{base}blocks.{i}.mlp.fc2.{p}", "blocks.{i}.mlp.fc2.{p}"),
    Rule(
        ("{base}blocks.{i}.mlp.w1.{p}", "{base}blocks.{i}.mlp.w2.{p}"),
        "blocks.{i}.mlp.fc1.{p}",
        op=concat_rows,
    ),
    Rule("{base}blocks.{i}.mlp.w3.{p}", "blocks.{i}.mlp.fc2.{p}"),
    Rule("{base}blocks.{i}.ls2.gamma", "blocks.{i}.ls2.gamma"),
    Rule("{base}norm.{p}", "norm.{p}"),
    Rule("{base}blocks.{i}.attn.qkv.bias_mask", None, why="keys have no bias here, so there is nothing to mask"),
    Rule("{base}rope_embed.periods", None, why="computed here, as by transformers and timm", agrees=_same_periods),
    Rule("{base}mask_token", None, why=MASKED_ONLY),
    Rule("{base}local_cls_norm.{p}", None, why="only used for local crops in pre-training"),
    Rule("dino_head.{name}", None, why=PRETRAINING_HEAD),
    Rule("ibot_head.{name}", None, why=PRETRAINING_HEAD),
)

# On disk; in memory transformers 5 puts "model." in front of the layers.
TRANSFORMERS_DINOV3 = (
    Rule("embeddings.cls_token", "cls_token"),
    Rule("embeddings.register_tokens", "reg_token"),
    Rule("embeddings.patch_embeddings.{p}", "patch_embed.proj.{p}"),
    Rule("{base}layer.{i}.norm1.{p}", "blocks.{i}.norm1.{p}"),
    Rule(
        (
            "{base}layer.{i}.attention.q_proj.weight",
            "{base}layer.{i}.attention.k_proj.weight",
            "{base}layer.{i}.attention.v_proj.weight",
        ),
        "blocks.{i}.attn.qkv.weight",
        op=concat_rows,
    ),
    Rule("{base}layer.{i}.attention.q_proj.bias", "blocks.{i}.attn.q_bias"),
    Rule("{base}layer.{i}.attention.v_proj.bias", "blocks.{i}.attn.v_bias"),
    Rule("{base}layer.{i}.attention.o_proj.{p}", "blocks.{i}.attn.proj.{p}"),
    Rule("{base}layer.{i}.layer_scale1.lambda1", "blocks.{i}.ls1.gamma"),
    Rule("{base}layer.{i}.norm2.{p}", "blocks.{i}.norm2.{p}"),
    Rule("{base}layer.{i}.mlp.up_proj.{p}", "blocks.{i}.mlp.fc1.{p}", when=PLAIN),
    Rule(
        ("{base}layer.{i}.mlp.gate_proj.{p}", "{base}layer.{i}.mlp.up_proj.{p}"),
        "blocks.{i}.mlp.fc1.{p}",
        op=concat_rows,
        when=GATED,
    ),
    Rule("{base}layer.{i}.mlp.down_proj.{p}", "blocks.{i}.mlp.fc2.{p}"),
    Rule("{base}layer.{i}.layer_scale2.lambda1", "blocks.{i}.ls2.gamma"),
    Rule("norm.{p}", "norm.{p}"),
    Rule("embeddings.mask_token", None, why=MASKED_ONLY),
)

TIMM_DINOV3 = (
    Rule("cls_token", "cls_token"),
    Rule("reg_token", "reg_token"),
    Rule("patch_embed.proj.{p}", "patch_embed.proj.{p}"),
    Rule("blocks.{i}.norm1.{p}", "blocks.{i}.norm1.{p}"),
    Rule("blocks.{i}.attn.qkv.weight", "blocks.{i}.attn.qkv.weight"),
    Rule("blocks.{i}.attn.q_bias", "blocks.{i}.attn.q_bias"),
    Rule("blocks.{i}.attn.v_bias", "blocks.{i}.attn.v_bias"),
    Rule("blocks.{i}.attn.proj.{p}", "blocks.{i}.attn.proj.{p}"),
    Rule("blocks.{i}.gamma_1", "blocks.{i}.ls1.gamma"),
    Rule("blocks.{i}.norm2.{p}", "blocks.{i}.norm2.{p}"),
    Rule("blocks.{i}.mlp.fc1.{p}", "blocks.{i}.mlp.fc1.{p}", when=PLAIN),
    Rule(
        ("blocks.{i}.mlp.fc1_g.{p}", "blocks.{i}.mlp.fc1_x.{p}"),
        "blocks.{i}.mlp.fc1.{p}",
        op=concat_rows,
        when=GATED,
    ),
    Rule("blocks.{i}.mlp.fc2.{p}", "blocks.{i}.mlp.fc2.{p}"),
    Rule("blocks.{i}.gamma_2", "blocks.{i}.ls2.gamma"),
    Rule("norm.{p}", "norm.{p}"),
    Rule("fc_norm.{p}", "fc_norm.{p}"),
    Rule("head.{p}", "head.{p}"),
)

META_MARKS = ("{base}storage_tokens", "{base}rope_embed.periods", "{base}blocks.0.ls1.gamma")
TRANSFORMERS_MARKS = ("{base}layer.0.layer_scale1.lambda1", "embeddings.register_tokens")
TIMM_MARKS = ("blocks.0.gamma_1", "blocks.0.attn.qkv.weight")

# A file says itself whether it has biases: some of the published models ended up with none, or with zeros.
LAYOUTS: Mapping[str, Layout] = {
    "meta/dinov3": Layout(
        arch="vit",
        marks=(*META_MARKS, "{base}blocks.0.attn.qkv.bias_mask"),
        rules=META_DINOV3,
        implies={"pool": "cls", "qkv_bias": "qv"},
    ),
    "meta/dinov3-unbiased": Layout(
        arch="vit",
        marks=META_MARKS,
        without=("{base}blocks.0.attn.qkv.bias",),
        rules=META_DINOV3,
        implies={"pool": "cls", "qkv_bias": "none"},
    ),
    "transformers/dinov3": Layout(
        arch="vit",
        marks=(*TRANSFORMERS_MARKS, "{base}layer.0.attention.q_proj.bias"),
        rules=TRANSFORMERS_DINOV3,
        implies={"pool": "cls", "qkv_bias": "qv"},
        bound={"base": ""},
    ),
    "transformers/dinov3-unbiased": Layout(
        arch="vit",
        marks=TRANSFORMERS_MARKS,
        rules=TRANSFORMERS_DINOV3,
        implies={"pool": "cls", "qkv_bias": "none"},
        bound={"base": ""},
    ),
    "timm/dinov3": Layout(
        arch="vit",
        marks=(*TIMM_MARKS, "blocks.0.attn.q_bias"),
        without=("pos_embed", "{name}relative_position_bias_table"),
        rules=TIMM_DINOV3,
        implies={"qkv_bias": "qv"},
    ),
    "timm/dinov3-unbiased": Layout(
        arch="vit",
        marks=TIMM_MARKS,
        without=("pos_embed", "{name}relative_position_bias_table"),
        rules=TIMM_DINOV3,
        implies={"qkv_bias": "none"},
    ),
}


def _fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    words.only("rope_theta", ROPE_BASE)
    words.only("key_bias", False)
    words.only("value_bias", words.get("query_bias", True))
    words.only("proj_bias", True)
    words.only("mlp_bias", True)
    return {
        "image_size": words.size("image_size", 224),
        "patch_size": words.square("patch_size", 16),
        "in_channels": words.get("num_channels", 3),
        "num_classes": outputs.num_classes,
        "embed_dim": words.get("hidden_size", 384),
        "depth": words.get("num_hidden_layers", 12),
        "num_heads": words.get("num_attention_heads", 6),
        "mlp_dim": words.get("intermediate_size", 1536),
        "num_registers": words.get("num_register_tokens", 0),
        "position": "rope",
        "qkv_bias": "qv" if words.get("query_bias", True) else "none",
        "layer_scale": words.get("layerscale_value", 1.0),
        "gated_mlp": words.get("use_gated_mlp", False),
        "activation": words.one_of("hidden_act", TRANSFORMERS_ACTIVATIONS, "gelu"),
        "norm_eps": words.get("layer_norm_eps", 1e-5),
        "attention_dropout": float(words.get("attention_dropout", 0.0)),
    }


def _config(spec: VitSpec) -> dict[str, Any]:
    return {
        "image_size": spec.image_size[0] if len(set(spec.image_size)) == 1 else list(spec.image_size),
        "patch_size": spec.patch_size,
        "num_channels": spec.in_channels,
        "hidden_size": spec.embed_dim,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.num_heads,
        "intermediate_size": spec.mlp_dim,
        "num_register_tokens": spec.num_registers,
        "rope_theta": ROPE_BASE,
        "query_bias": spec.qkv_bias == "qv",
        "key_bias": False,
        "value_bias": spec.qkv_bias == "qv",
        "layerscale_value": spec.layer_scale,
        "use_gated_mlp": spec.gated_mlp,
        "hidden_act": ACTIVATIONS_FOR_TRANSFORMERS[spec.activation],
        "layer_norm_eps": spec.norm_eps,
        "attention_dropout": spec.attention_dropout,
    }


def _refuses(spec: VitSpec) -> Iterable[str]:
    if spec.num_classes:
        yield "it has no class with a head; remove the head (num_classes=0)"
    if not spec.layer_scale:
        yield "its blocks have a layer scale"


TRANSFORMERS_DINOV3_VIT = Dialect(
    name="transformers' DINOv3",
    kind="dinov3_vit",
    classes=("DINOv3ViTModel", "DINOv3ViTModel"),
    layouts=("transformers/dinov3", "transformers/dinov3"),
    holds={
        "class_token": (True,),
        "distillation_token": (False,),
        "position": ("rope",),
        "pre_norm": (False,),
        "qkv_bias": ("qv", "none"),
        "final_norm": ("tokens",),
        "pool": ("cls",),
        "pre_logits_dim": (0,),
        "stem_depths": (None,),
        "stem_channels": (None,),
    },
    refuses=_refuses,
    fields=_fields,
    config=_config,
)


# What timm's Eva has beside DINOv3. Its architectures of that name set the rest, which no config.json repeats.
TIMM_FIXED: Mapping[str, tuple[Any, ...]] = {
    "num_kv_heads": (None,),
    "qkv_fused": (True,),
    "qk_norm": (False,),
    "scale_mlp": (False,),
    "scale_attn_inner": (False,),
    "attn_type": ("eva",),
    "norm_layer": (None,),
    "attn_only_layer_scale": (False,),
    "use_abs_pos_emb": (False,),
    "use_rot_pos_emb": (True,),
    "rope_type": ("dinov3",),
    "rope_grid_offset": (0.0,),
    "rope_grid_indexing": ("ij",),
    "rope_temperature": (ROPE_BASE,),
    "rope_rotate_half": (True,),
    "rope_mrope_section": (None,),
    "use_post_norm": (False,),
    "use_pre_transformer_norm": (False,),
    "use_post_transformer_norm": (None,),
    "dynamic_img_pad": (False,),
    "ref_feat_shape": (None,),
}
# Without positions to add, no token has one; the rest is for training.
TIMM_UNREAD = (
    *TIMM_IGNORED,
    "no_embed_class",
    "rope_shift_coords",
    "rope_jitter_coords",
    "rope_rescale_coords",
    "head_init_scale",
)
TIMM_POOLS = {"avg": "mean", "token": "cls"}
POOLS_FOR_TIMM = {ours: theirs for theirs, ours in TIMM_POOLS.items()}


def _timm_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    for key, allowed in TIMM_FIXED.items():
        words.only(key, *allowed)
    for key in TIMM_UNREAD:
        words.get(key)
    embed_dim = words.get("embed_dim", 768)
    hidden = int(embed_dim * words.get("mlp_ratio", 4.0))
    gated, align = words.get("swiglu_mlp", False), words.get("swiglu_align_to", 0)
    if gated and not align:
        words.faults.append("swiglu_align_to 0 isn't supported with swiglu_mlp; supported: 1 and above")
    fields = {
        "image_size": words.size("img_size", 224),
        "patch_size": words.get("patch_size", 16),
        "in_channels": words.get("in_chans", 3),
        "num_classes": outputs.num_classes,
        "embed_dim": embed_dim,
        "depth": words.get("depth", 12),
        "num_heads": words.get("num_heads", 12),
        "mlp_dim": hidden + (-hidden % align if gated and align else 0),
        "class_token": words.get("class_token", True),
        "num_registers": words.get("num_reg_tokens", 0),
        "position": "rope",
        "qkv_bias": "qv" if words.get("qkv_bias", True) else "none",
        "layer_scale": words.get("init_values") or 0.0,
        "gated_mlp": gated,
        "activation": "silu" if gated else "gelu",
        "norm_eps": 1e-5,
        "pool": words.one_of("global_pool", TIMM_POOLS, "avg"),
        "final_norm": "pooled" if words.get("use_fc_norm") else "tokens",
    }
    words.nothing_else()
    return fields


def _timm_arguments(spec: VitSpec) -> dict[str, Any]:
    return {
        "img_size": list(spec.image_size),
        "patch_size": spec.patch_size,
        "in_chans": spec.in_channels,
        "embed_dim": spec.embed_dim,
        "depth": spec.depth,
        "num_heads": spec.num_heads,
        "mlp_ratio": timm_ratio(spec),
        "swiglu_mlp": spec.gated_mlp,
        "swiglu_align_to": int(spec.gated_mlp),
        "qkv_bias": spec.qkv_bias == "qv",
        "init_values": spec.layer_scale,
        "class_token": spec.class_token,
        "num_reg_tokens": spec.num_registers,
        "global_pool": POOLS_FOR_TIMM[spec.pool],
        "use_fc_norm": spec.final_norm == "pooled",
    }


def _timm_refuses(spec: VitSpec) -> Iterable[str]:
    if not spec.layer_scale:
        yield "its blocks have a layer scale"
    if spec.activation != ("silu" if spec.gated_mlp else "gelu"):
        yield f"its MLP is activated by gelu, a gated one by silu, not {spec.activation}"


TIMM_EVA = Dialect(
    name="timm's DINOv3",
    kind="Eva",
    layouts=("timm/dinov3", "timm/dinov3"),
    holds={
        "distillation_token": (False,),
        "position": ("rope",),
        "pre_norm": (False,),
        "qkv_bias": ("qv", "none"),
        "norm_eps": (1e-5,),
        "pool": tuple(POOLS_FOR_TIMM),
        "pre_logits_dim": (0,),
        "stem_depths": (None,),
        "stem_channels": (None,),
    },
    refuses=_timm_refuses,
    fields=_timm_fields,
    config=_timm_arguments,
)

FAMILY = Family(layouts=LAYOUTS, transformers=(TRANSFORMERS_DINOV3_VIT,), timm=(TIMM_EVA,))
