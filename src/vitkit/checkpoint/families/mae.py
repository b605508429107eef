"""MAE, encoder and decoder, as Meta and transformers write it.

Checked against facebookresearch/mae (models_mae.py) and transformers 5.23 (models/vit_mae/modeling_vit_mae.py and the
names its save_pretrained writes). The encoder alone, also fine-tuned, has the names of a ViT in both. At other sizes
transformers' decoder stretches its positions as if the grid were one line; here they follow as the encoder's do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from vitkit.checkpoint.dialect import Dialect, Family, Layout, Outputs, Words, plain
from vitkit.checkpoint.families.vit import (
    TRANSFORMERS5_VIT_BLOCKS,
    TRANSFORMERS_VIT_BLOCKS,
    TRANSFORMERS_VIT_ENDS,
    TRANSFORMERS_VIT_HOLDS,
    transformers_vit_config,
    transformers_vit_fields,
)
from vitkit.checkpoint.namemap import Rule
from vitkit.model.spec import MaeSpec, VitSpec

__all__ = ["FAMILY"]


def _decoder_blocks(rules: Iterable[Rule], theirs: str, ours: str) -> Iterable[Rule]:
    """The rules of an encoder's blocks, called `theirs` there, for the decoder's, called `ours`."""
    for rule in rules:
        sources = tuple(source.replace(theirs, ours, 1) for source in rule.sources)
        yield dataclasses.replace(rule, source=sources, target=f"decoder.{rule.target}")


META = (
    *(Rule(name, name) for name in ("cls_token", "pos_embed", "patch_embed.{name}", "blocks.{name}", "norm.{p}")),
    Rule("mask_token", "decoder.mask_token"),
    Rule("decoder_pos_embed", "decoder.pos_embed"),
    Rule("decoder_embed.{p}", "decoder.embed.{p}"),
    Rule("decoder_blocks.{name}", "decoder.blocks.{name}"),
    Rule("decoder_norm.{p}", "decoder.norm.{p}"),
    Rule("decoder_pred.{p}", "decoder.pred.{p}"),
)

ON_DISK, IN_MEMORY = "{base}encoder.layer.{i}.", "{base}layers.{i}."
RENAMED = [rule for rule in TRANSFORMERS5_VIT_BLOCKS if "layernorm" not in rule.sources[0]]  # in memory alone
TRANSFORMERS = (
    *TRANSFORMERS_VIT_ENDS,
    *TRANSFORMERS_VIT_BLOCKS,
    *TRANSFORMERS5_VIT_BLOCKS,
    Rule("decoder.mask_token", "decoder.mask_token"),
    Rule("decoder.decoder_pos_embed", "decoder.pos_embed"),
    Rule("decoder.decoder_embed.{p}", "decoder.embed.{p}"),
    Rule("decoder.decoder_norm.{p}", "decoder.norm.{p}"),
    Rule("decoder.decoder_pred.{p}", "decoder.pred.{p}"),
    *_decoder_blocks(TRANSFORMERS_VIT_BLOCKS, ON_DISK, "decoder.decoder_layers.{i}."),
    *_decoder_blocks(RENAMED, IN_MEMORY, "decoder.decoder_layers.{i}."),
    # What transformers 5 makes of "decoder_layers." when it writes a file: it takes its end for an encoder's "layers.".
    *_decoder_blocks(TRANSFORMERS_VIT_BLOCKS, ON_DISK, "decoder.decoder_encoder.layer.{i}."),
)

LAYOUTS: Mapping[str, Layout] = {
    "meta/mae": Layout(
        arch="mae",
        marks=("mask_token", "decoder_blocks.0.attn.qkv.weight", "decoder_pred.weight"),
        rules=META,
        implies=plain("bicubic"),
    ),
    "transformers/mae": Layout(
        arch="mae",
        marks=("{base}embeddings.cls_token", "decoder.decoder_pred.weight"),
        rules=TRANSFORMERS,
        implies=plain("bicubic"),
        bound={"base": "vit."},
    ),
}


def _fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    return {
        **transformers_vit_fields(words, outputs),
        "decoder_dim": words.get("decoder_hidden_size", 512),
        "decoder_depth": words.get("decoder_num_hidden_layers", 8),
        "decoder_heads": words.get("decoder_num_attention_heads", 16),
        "decoder_mlp_dim": words.get("decoder_intermediate_size", 2048),
        "norm_pix_loss": words.get("norm_pix_loss", False),
    }


def _config(spec: MaeSpec) -> dict[str, Any]:
    return {
        **transformers_vit_config(spec),
        "decoder_hidden_size": spec.decoder_dim,
        "decoder_num_hidden_layers": spec.decoder_depth,
        "decoder_num_attention_heads": spec.decoder_heads,
        "decoder_intermediate_size": spec.decoder_mlp_dim,
        "norm_pix_loss": spec.norm_pix_loss,
    }


def _refuses(spec: MaeSpec) -> Iterable[str]:
    if len(set(spec.image_size)) != 1:
        yield "its pictures are square"


def _refuses_encoder(spec: VitSpec) -> Iterable[str]:
    yield "it is only read: it hides patches whatever it is asked; transformers' ViT computes the same and doesn't"


TRANSFORMERS_MAE = Dialect(
    name="transformers' ViT-MAE",
    kind="vit_mae",
    arch="mae",
    classes=("ViTMAEForPreTraining",) * 2,
    layouts=("transformers/mae",) * 2,
    holds={**TRANSFORMERS_VIT_HOLDS, "num_classes": (0,), "pre_logits_dim": (0,)},
    refuses=_refuses,
    fields=_fields,
    config=_config,
)
TRANSFORMERS_MAE_ENCODER = Dialect(
    name="transformers' ViT-MAE encoder",
    kind="vit_mae",
    classes=("ViTMAEModel",) * 2,
    layouts=("transformers/vit", "transformers/vit-model"),
    holds=TRANSFORMERS_VIT_HOLDS,
    refuses=_refuses_encoder,
    fields=transformers_vit_fields,
    config=transformers_vit_config,
)

FAMILY = Family(layouts=LAYOUTS, transformers=(TRANSFORMERS_MAE, TRANSFORMERS_MAE_ENCODER))
