"""ViT in Google's .npz arrays: vit_jax (the original, AugReg), and big_vision, whose blocks may lie in one array.

Checked against timm 1.0.31 (models/vision_transformer.py, `_load_weights`), google-research/vision_transformer and
google-research/big_vision (models/vit.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.checkpoint.dialect import Family, Layout, plain
from vitkit.checkpoint.namemap import Op, Rule

__all__ = ["FAMILY", "VIT_JAX", "convolution", "kernel", "linear", "norm"]


def _flat_heads(tensors: Sequence[Tensor], spec: Any) -> Tensor:
    return torch.cat([kernel.flatten(1).T for kernel in tensors])  # each [D, A, D/A] to [D, D]


def _flat_biases(tensors: Sequence[Tensor], spec: Any) -> Tensor:
    return torch.cat([bias.flatten() for bias in tensors])  # each [A, D/A] to [D]


def _positions(tensors: Sequence[Tensor], spec: Any) -> Tensor:
    """[1, h*w, D] or [1, 1 + h*w, D]; a class token that has none is one whose position is zero."""
    (table,) = tensors
    lacks = spec.class_token and table.shape[1] == spec.num_positions - 1
    return F.pad(table, (0, 0, 1, 0)) if lacks else table


kernel = Op(lambda tensors, spec: tensors[0].T)
convolution = Op(lambda tensors, spec: tensors[0].permute(3, 2, 0, 1))  # HWIO to OIHW
flat_heads = Op(_flat_heads)
flat_biases = Op(_flat_biases)
from_heads = Op(lambda tensors, spec: tensors[0].flatten(0, 1).T)  # [A, D/A, D] to [D, D]
positions = Op(_positions)


def linear(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """The rows of flax's Dense."""
    return Rule(f"{theirs}/kernel", f"{ours}.weight", op=kernel), Rule(f"{theirs}/bias", f"{ours}.bias")


def norm(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """The rows of flax's LayerNorm or GroupNorm."""
    return Rule(f"{theirs}/scale", f"{ours}.weight"), Rule(f"{theirs}/bias", f"{ours}.bias")


def _projection(theirs: str, parts: tuple[str, ...], ours: str) -> tuple[Rule, Rule]:
    return (
        Rule(tuple(f"{theirs}/{part}/kernel" for part in parts), f"{ours}.weight", op=flat_heads),
        Rule(tuple(f"{theirs}/{part}/bias" for part in parts), f"{ours}.bias", op=flat_biases),
    )


def _mixing(theirs: str, ours: str) -> tuple[Rule, Rule]:
    return Rule(f"{theirs}/out/kernel", f"{ours}.weight", op=from_heads), Rule(f"{theirs}/out/bias", f"{ours}.bias")


def _vit(*, attention: str, norm2: str, mlp: str, pos_embedding: str) -> tuple[Rule, ...]:
    """All rows of a ViT whose blocks' modules have these names."""
    block, attention = "{root}Transformer/encoderblock_{i}", "{root}Transformer/encoderblock_{i}/" + attention
    return (
        Rule("{root}cls", "cls_token"),
        Rule("{root}" + pos_embedding, "pos_embed", op=positions),
        Rule("{root}embedding/kernel", "patch_embed.proj.weight", op=convolution),
        Rule("{root}embedding/bias", "patch_embed.proj.bias"),
        *norm(f"{block}/LayerNorm_0", "blocks.{i}.norm1"),
        *_projection(attention, ("query", "key", "value"), "blocks.{i}.attn.qkv"),
        *_mixing(attention, "blocks.{i}.attn.proj"),
        *norm(f"{block}/{norm2}", "blocks.{i}.norm2"),
        *linear(f"{block}/{mlp}/Dense_0", "blocks.{i}.mlp.fc1"),
        *linear(f"{block}/{mlp}/Dense_1", "blocks.{i}.mlp.fc2"),
        *norm("{root}Transformer/encoder_norm", "norm"),
        *linear("{root}pre_logits", "pre_logits.fc"),
        *linear("{root}head", "head"),
    )


# flax numbers a block's modules by kind or, as it once did, in one row.
VIT_JAX = _vit(
    attention="MultiHeadDotProductAttention_1",
    norm2="LayerNorm_2",
    mlp="MlpBlock_3",
    pos_embedding="Transformer/posembed_input/pos_embedding",
)
POOL = "{root}MAPHead_0"
TEXT_TOWER = "belongs to the text tower and the loss that joins it to this one"
BIG_VISION = (
    *_vit(
        attention="MultiHeadDotProductAttention_0",
        norm2="LayerNorm_1",
        mlp="MlpBlock_0",
        pos_embedding="pos_embedding",
    ),
    Rule(f"{POOL}/probe", "attn_pool.latent"),
    *_projection(f"{POOL}/MultiHeadDotProductAttention_0", ("query",), "attn_pool.q"),
    *_projection(f"{POOL}/MultiHeadDotProductAttention_0", ("key", "value"), "attn_pool.kv"),
    *_mixing(f"{POOL}/MultiHeadDotProductAttention_0", "attn_pool.proj"),
    *norm(f"{POOL}/LayerNorm_0", "attn_pool.norm"),
    *linear(f"{POOL}/MlpBlock_0/Dense_0", "attn_pool.mlp.fc1"),
    *linear(f"{POOL}/MlpBlock_0/Dense_1", "attn_pool.mlp.fc2"),
    Rule("params/txt/{name}", None, why=TEXT_TOWER),
    Rule("params/t", None, why=TEXT_TOWER),
    Rule("params/b", None, why=TEXT_TOWER),
)

LAYOUTS: Mapping[str, Layout] = {
    "google/vit": Layout(
        arch="vit",
        marks=(
            "{root}Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel",
            "{root}embedding/kernel",
        ),
        rules=VIT_JAX,
        implies=plain("bilinear_align_corners"),
    ),
    "google/big-vision": Layout(
        arch="vit",
        marks=(
            "{root}Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel",
            "{root}embedding/kernel",
        ),
        rules=BIG_VISION,
        implies=plain("bilinear_align_corners"),
    ),
    "google/big-vision-stacked": Layout(
        arch="vit",
        marks=("{root}Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel", "{root}embedding/kernel"),
        rules=BIG_VISION,
        implies=plain("bilinear_align_corners"),
        stacked=("{root}Transformer/encoderblock/{name}", "{root}Transformer/encoderblock_{i}/{name}"),
    ),
}

FAMILY = Family(layouts=LAYOUTS)
