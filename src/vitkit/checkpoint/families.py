"""Name tables, one per family and layout: data only. The engine that reads them is `namemap`.

Checked against transformers 5.23 (models/vit/modeling_vit.py and the names its save_pretrained writes), timm 1.0.31
(models/vision_transformer.py, `_load_weights` for Google's arrays) and google-research/vision_transformer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitkit.checkpoint.namemap import Op, Rule, concat_rows
from vitkit.model.spec import Resample

__all__ = ["LAYOUTS", "Layout"]


@dataclass(frozen=True)
class Layout:
    """A way to name the tensors of one architecture."""

    arch: str
    marks: tuple[str, ...]
    """Patterns that this layout has and no other: a file of this layout matches all of them."""
    rules: tuple[Rule, ...]
    position_resample: Resample
    """What the layout's own library does to positions on another grid."""
    bound: Mapping[str, str]
    """Placeholders our names don't have, as this layout is written."""


def _kernel(tensors: Sequence[Tensor], spec: Any) -> Tensor:
    return tensors[0].T


def _convolution(tensors: Sequence[Tensor], spec: Any) -> Tensor:
    return tensors[0].permute(3, 2, 0, 1)  # HWIO to OIHW


def _heads_to_rows(tensors: Sequence[Tensor], spec: Any) -> Tensor:
    return torch.cat([kernel.flatten(1).T for kernel in tensors])  # each [D, A, D/A] to [D, D]


def _heads_bias_to_rows(tensors: Sequence[Tensor], spec: Any) -> Tensor:
    return torch.cat([bias.flatten() for bias in tensors])  # each [A, D/A] to [D]


def _rows_from_heads(tensors: Sequence[Tensor], spec: Any) -> Tensor:
    return tensors[0].flatten(0, 1).T  # [A, D/A, D] to [D, D]


def _split_heads(tensor: Tensor, spec: Any, count: int) -> list[Tensor]:
    return [rows.T.reshape(spec.embed_dim, spec.num_heads, -1) for rows in tensor.chunk(count)]


kernel = Op(_kernel, lambda tensor, spec, count: [tensor.T])
convolution = Op(_convolution, lambda tensor, spec, count: [tensor.permute(2, 3, 1, 0)])
heads_to_rows = Op(_heads_to_rows, _split_heads)
heads_bias_to_rows = Op(
    _heads_bias_to_rows, lambda tensor, spec, count: [b.reshape(spec.num_heads, -1) for b in tensor.chunk(count)]
)
rows_from_heads = Op(
    _rows_from_heads, lambda tensor, spec, count: [tensor.T.reshape(spec.num_heads, -1, spec.embed_dim)]
)

POOLER_UNREAD = "transformers' classifier reads the class token, not the pooler"
MASKED_ONLY = "only used in masked pre-training"

# What both generations of transformers' names share.
TRANSFORMERS_VIT_ENDS = (
    Rule("{vit}embeddings.cls_token", "cls_token"),
    Rule("{vit}embeddings.position_embeddings", "pos_embed"),
    Rule("{vit}embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
    Rule("{vit}layernorm.{p}", "norm.{p}"),
    Rule("classifier.{p}", "head.{p}"),
    Rule("{vit}embeddings.mask_token", None, why=MASKED_ONLY),
    Rule("decoder.0.{p}", None, why=MASKED_ONLY),
)

# On disk, and up to transformers 4 also in memory.
TRANSFORMERS_VIT_BLOCKS = (
    Rule("{vit}encoder.layer.{i}.layernorm_before.{p}", "blocks.{i}.norm1.{p}"),
    Rule(
        (
            "{vit}encoder.layer.{i}.attention.attention.query.{p}",
            "{vit}encoder.layer.{i}.attention.attention.key.{p}",
            "{vit}encoder.layer.{i}.attention.attention.value.{p}",
        ),
        "blocks.{i}.attn.qkv.{p}",
        op=concat_rows,
    ),
    Rule("{vit}encoder.layer.{i}.attention.output.dense.{p}", "blocks.{i}.attn.proj.{p}"),
    Rule("{vit}encoder.layer.{i}.layernorm_after.{p}", "blocks.{i}.norm2.{p}"),
    Rule("{vit}encoder.layer.{i}.intermediate.dense.{p}", "blocks.{i}.mlp.fc1.{p}"),
    Rule("{vit}encoder.layer.{i}.output.dense.{p}", "blocks.{i}.mlp.fc2.{p}"),
)

# The names transformers 5 has in memory: files of state_dict() have them.
TRANSFORMERS5_VIT_BLOCKS = (
    Rule("{vit}layers.{i}.layernorm_before.{p}", "blocks.{i}.norm1.{p}"),
    Rule(
        (
            "{vit}layers.{i}.attention.q_proj.{p}",
            "{vit}layers.{i}.attention.k_proj.{p}",
            "{vit}layers.{i}.attention.v_proj.{p}",
        ),
        "blocks.{i}.attn.qkv.{p}",
        op=concat_rows,
    ),
    Rule("{vit}layers.{i}.attention.o_proj.{p}", "blocks.{i}.attn.proj.{p}"),
    Rule("{vit}layers.{i}.layernorm_after.{p}", "blocks.{i}.norm2.{p}"),
    Rule("{vit}layers.{i}.mlp.fc1.{p}", "blocks.{i}.mlp.fc1.{p}"),
    Rule("{vit}layers.{i}.mlp.fc2.{p}", "blocks.{i}.mlp.fc2.{p}"),
)

POOLER_READ = (Rule("{vit}pooler.dense.{p}", "pre_logits.fc.{p}"),)
POOLER_DROPPED = (Rule("{vit}pooler.dense.{p}", None, why=POOLER_UNREAD),)

# Google's AugReg and original ViT arrays.
GOOGLE_VIT = (
    Rule("cls", "cls_token"),
    Rule("Transformer/posembed_input/pos_embedding", "pos_embed"),
    Rule("embedding/kernel", "patch_embed.proj.weight", op=convolution),
    Rule("embedding/bias", "patch_embed.proj.bias"),
    Rule("Transformer/encoderblock_{i}/LayerNorm_0/scale", "blocks.{i}.norm1.weight"),
    Rule("Transformer/encoderblock_{i}/LayerNorm_0/bias", "blocks.{i}.norm1.bias"),
    Rule(
        (
            "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/query/kernel",
            "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/key/kernel",
            "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/value/kernel",
        ),
        "blocks.{i}.attn.qkv.weight",
        op=heads_to_rows,
    ),
    Rule(
        (
            "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/query/bias",
            "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/key/bias",
            "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/value/bias",
        ),
        "blocks.{i}.attn.qkv.bias",
        op=heads_bias_to_rows,
    ),
    Rule(
        "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/out/kernel",
        "blocks.{i}.attn.proj.weight",
        op=rows_from_heads,
    ),
    Rule("Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/out/bias", "blocks.{i}.attn.proj.bias"),
    Rule("Transformer/encoderblock_{i}/LayerNorm_2/scale", "blocks.{i}.norm2.weight"),
    Rule("Transformer/encoderblock_{i}/LayerNorm_2/bias", "blocks.{i}.norm2.bias"),
    Rule("Transformer/encoderblock_{i}/MlpBlock_3/Dense_0/kernel", "blocks.{i}.mlp.fc1.weight", op=kernel),
    Rule("Transformer/encoderblock_{i}/MlpBlock_3/Dense_0/bias", "blocks.{i}.mlp.fc1.bias"),
    Rule("Transformer/encoderblock_{i}/MlpBlock_3/Dense_1/kernel", "blocks.{i}.mlp.fc2.weight", op=kernel),
    Rule("Transformer/encoderblock_{i}/MlpBlock_3/Dense_1/bias", "blocks.{i}.mlp.fc2.bias"),
    Rule("Transformer/encoder_norm/scale", "norm.weight"),
    Rule("Transformer/encoder_norm/bias", "norm.bias"),
    Rule("pre_logits/kernel", "pre_logits.fc.weight", op=kernel),
    Rule("pre_logits/bias", "pre_logits.fc.bias"),
    Rule("head/kernel", "head.weight", op=kernel),
    Rule("head/bias", "head.bias"),
)

LAYOUTS: Mapping[str, Layout] = {
    # Our names are timm's, so the native layout and timm's are one.
    "timm/vit": Layout(
        arch="vit",
        marks=("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"),
        rules=(Rule("{name}", "{name}"),),
        position_resample="bicubic_antialias",
        bound={},
    ),
    "transformers/vit": Layout(
        arch="vit",
        marks=("{vit}encoder.layer.0.layernorm_before.weight", "classifier.weight"),
        rules=(*TRANSFORMERS_VIT_ENDS, *TRANSFORMERS_VIT_BLOCKS, *POOLER_DROPPED),
        position_resample="bicubic",
        bound={"vit": "vit."},
    ),
    "transformers/vit-model": Layout(
        arch="vit",
        marks=("{vit}encoder.layer.0.layernorm_before.weight",),
        rules=(*TRANSFORMERS_VIT_ENDS, *TRANSFORMERS_VIT_BLOCKS, *POOLER_READ),
        position_resample="bicubic",
        bound={"vit": ""},
    ),
    "transformers5/vit": Layout(
        arch="vit",
        marks=("{vit}layers.0.layernorm_before.weight", "classifier.weight"),
        rules=(*TRANSFORMERS_VIT_ENDS, *TRANSFORMERS5_VIT_BLOCKS, *POOLER_DROPPED),
        position_resample="bicubic",
        bound={"vit": "vit."},
    ),
    "transformers5/vit-model": Layout(
        arch="vit",
        marks=("{vit}layers.0.layernorm_before.weight",),
        rules=(*TRANSFORMERS_VIT_ENDS, *TRANSFORMERS5_VIT_BLOCKS, *POOLER_READ),
        position_resample="bicubic",
        bound={"vit": ""},
    ),
    "google/vit": Layout(
        arch="vit",
        marks=("Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel", "embedding/kernel"),
        rules=GOOGLE_VIT,
        position_resample="bilinear_align_corners",
        bound={},
    ),
}
