"""ViT as torchvision writes it: a bare state dict, read only, for torchvision has no file that says what a model is.

Checked against torchvision 0.28 (models/vision_transformer.py), which still reads the linear_1 and linear_2 that older
releases called the MLP's layers.
"""

from __future__ import annotations

from collections.abc import Mapping

from vitkit.checkpoint.dialect import Family, Layout, plain
from vitkit.checkpoint.namemap import Rule

__all__ = ["FAMILY"]

BLOCK = "encoder.layers.encoder_layer_{i}"

LAYOUTS: Mapping[str, Layout] = {
    "torchvision/vit": Layout(
        arch="vit",
        marks=("class_token", "conv_proj.weight", "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"),
        rules=(
            Rule("class_token", "cls_token"),
            Rule("encoder.pos_embedding", "pos_embed"),
            Rule("conv_proj.{p}", "patch_embed.proj.{p}"),
            Rule(BLOCK + ".ln_1.{p}", "blocks.{i}.norm1.{p}"),
            Rule(BLOCK + ".self_attention.in_proj_{p}", "blocks.{i}.attn.qkv.{p}"),
            Rule(BLOCK + ".self_attention.out_proj.{p}", "blocks.{i}.attn.proj.{p}"),
            Rule(BLOCK + ".ln_2.{p}", "blocks.{i}.norm2.{p}"),
            Rule(BLOCK + ".mlp.0.{p}", "blocks.{i}.mlp.fc1.{p}"),
            Rule(BLOCK + ".mlp.3.{p}", "blocks.{i}.mlp.fc2.{p}"),
            Rule(BLOCK + ".mlp.linear_1.{p}", "blocks.{i}.mlp.fc1.{p}"),
            Rule(BLOCK + ".mlp.linear_2.{p}", "blocks.{i}.mlp.fc2.{p}"),
            Rule("encoder.ln.{p}", "norm.{p}"),
            Rule("heads.pre_logits.{p}", "pre_logits.fc.{p}"),
            Rule("heads.head.{p}", "head.{p}"),
        ),
        implies=plain("bicubic_align_corners"),
    ),
}

FAMILY = Family(layouts=LAYOUTS)
