"""DINO and DINOv2 as Meta, transformers and timm write them: plain and gated MLPs, with registers and without.

Checked against facebookresearch/dino (vision_transformer.py), facebookresearch/dinov2 (models/vision_transformer.py,
hub/backbones.py), transformers 5.23 (models/dinov2, models/dinov2_with_registers and the names its save_pretrained
writes) and timm 1.0.31 (models/vision_transformer.py, `_convert_dinov2`). In transformers and timm DINO is a ViT.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from vitkit.checkpoint.dialect import Dialect, Family, Layout, Outputs, Words, plain
from vitkit.checkpoint.families.vit import (
    MASKED_ONLY,
    TIMM_VIT,
    timm_ratio,
    timm_vit_arguments,
    timm_vit_fields,
    transformers_vit_config,
    transformers_vit_fields,
)
from vitkit.checkpoint.namemap import Op, Rule, concat_rows
from vitkit.model.spec import VitSpec

__all__ = ["FAMILY", "GATED", "PLAIN", "PRETRAINING_HEAD"]

PRETRAINING_HEAD = "a projection head of pre-training"
PLAIN, GATED = {"gated_mlp": False}, {"gated_mlp": True}

# Registers were added after the positions, which stayed those of the class token and the patches. As in timm, the
# class token's is part of the token here, and the table holds the patches' alone.
PLACED, FOLDED = {"prefix_positions": True}, {"prefix_positions": False}
with_position = Op(
    lambda tensors, spec: tensors[0] + tensors[1][:, :1],
    lambda tensor, spec, count: [tensor, None],
)
of_patches = Op(
    lambda tensors, spec: tensors[0][:, 1:],
    lambda tensor, spec, count: [torch.cat([torch.zeros_like(tensor[:, :1]), tensor], dim=1)],
)


def _tokens(class_token: str, positions: str, registers: str) -> tuple[Rule, ...]:
    return (
        Rule(class_token, "cls_token", when=PLACED),
        Rule(positions, "pos_embed", when=PLACED),
        Rule((class_token, positions), "cls_token", op=with_position, when=FOLDED),
        Rule(positions, "pos_embed", op=of_patches, when=FOLDED),
        Rule(registers, "reg_token"),
    )


# A training state has "backbone." in front, and its blocks in chunks: blocks.{chunk}.{number}.
META_DINOV2 = (
    *_tokens("{base}cls_token", "{base}pos_embed", "{base}register_tokens"),
    Rule("{base}patch_embed.proj.{p}", "patch_embed.proj.{p}"),
    *(
        Rule(f"{blocks}{theirs}", f"blocks.{{i}}.{ours}")
        for blocks in ("{base}blocks.{i}.", "{base}blocks.{j}.{i}.")
        for theirs, ours in {
            "norm1.{p}": "norm1.{p}",
            "attn.qkv.{p}": "attn.qkv.{p}",
            "attn.proj.{p}": "attn.proj.{p}",
            "ls1.gamma": "ls1.gamma",
            "norm2.{p}": "norm2.{p}",
            "mlp.fc1.{p}": "mlp.fc1.{p}",
            "mlp.fc2.{p}": "mlp.fc2.{p}",
            "mlp.w12.{p}": "mlp.fc1.{p}",
            "mlp.w3.{p}": "mlp.fc2.{p}",
            "ls2.gamma": "ls2.gamma",
        }.items()
    ),
    Rule("{base}norm.{p}", "norm.{p}"),
    Rule("{base}mask_token", None, why=MASKED_ONLY),
    Rule("dino_head.{name}", None, why=PRETRAINING_HEAD),
    Rule("ibot_head.{name}", None, why=PRETRAINING_HEAD),
)

# What is on disk comes first, then what transformers 5 calls otherwise in memory: files of state_dict() have it.
TRANSFORMERS_DINOV2 = (
    *_tokens("{base}embeddings.cls_token", "{base}embeddings.position_embeddings", "{base}embeddings.register_tokens"),
    Rule("{base}embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
    Rule("{base}encoder.layer.{i}.norm1.{p}", "blocks.{i}.norm1.{p}"),
    Rule(
        (
            "{base}encoder.layer.{i}.attention.attention.query.{p}",
            "{base}encoder.layer.{i}.attention.attention.key.{p}",
            "{base}encoder.layer.{i}.attention.attention.value.{p}",
        ),
        "blocks.{i}.attn.qkv.{p}",
        op=concat_rows,
    ),
    Rule(
        (
            "{base}encoder.layer.{i}.attention.q_proj.{p}",
            "{base}encoder.layer.{i}.attention.k_proj.{p}",
            "{base}encoder.layer.{i}.attention.v_proj.{p}",
        ),
        "blocks.{i}.attn.qkv.{p}",
        op=concat_rows,
    ),
    Rule("{base}encoder.layer.{i}.attention.output.dense.{p}", "blocks.{i}.attn.proj.{p}"),
    Rule("{base}encoder.layer.{i}.attention.o_proj.{p}", "blocks.{i}.attn.proj.{p}"),
    Rule("{base}encoder.layer.{i}.layer_scale1.lambda1", "blocks.{i}.ls1.gamma"),
    Rule("{base}encoder.layer.{i}.norm2.{p}", "blocks.{i}.norm2.{p}"),
    Rule("{base}encoder.layer.{i}.mlp.fc1.{p}", "blocks.{i}.mlp.fc1.{p}", when=PLAIN),
    Rule("{base}encoder.layer.{i}.mlp.fc2.{p}", "blocks.{i}.mlp.fc2.{p}", when=PLAIN),
    Rule("{base}encoder.layer.{i}.mlp.weights_in.{p}", "blocks.{i}.mlp.fc1.{p}", when=GATED),
    Rule("{base}encoder.layer.{i}.mlp.weights_out.{p}", "blocks.{i}.mlp.fc2.{p}", when=GATED),
    Rule(
        ("{base}encoder.layer.{i}.mlp.gate_proj.{p}", "{base}encoder.layer.{i}.mlp.up_proj.{p}"),
        "blocks.{i}.mlp.fc1.{p}",
        op=concat_rows,
        when=GATED,
    ),
    Rule("{base}encoder.layer.{i}.mlp.down_proj.{p}", "blocks.{i}.mlp.fc2.{p}", when=GATED),
    Rule("{base}encoder.layer.{i}.layer_scale2.lambda1", "blocks.{i}.ls2.gamma"),
    Rule("{base}layernorm.{p}", "norm.{p}"),
    Rule("classifier.{p}", "head.{p}"),
    Rule("{base}embeddings.mask_token", None, why=MASKED_ONLY),
)

META_MARKS = ("{base}mask_token", "{base}pos_embed", "{base}blocks.{name}.ls1.gamma")
TRANSFORMERS_MARKS = ("{base}encoder.layer.0.layer_scale1.lambda1",)
TRANSFORMERS_REGISTERS = (*TRANSFORMERS_MARKS, "{base}embeddings.register_tokens")
CLASSIFIER = "classifier.weight"

LAYOUTS: Mapping[str, Layout] = {
    # A training state. The published files have timm's names: the preset says whose they are.
    "meta/dino": Layout(
        arch="vit",
        marks=("backbone.patch_embed.proj.weight", "backbone.pos_embed", "backbone.blocks.0.mlp.fc1.weight"),
        without=("backbone.mask_token", "backbone.blocks.{name}.ls1.gamma"),
        rules=(Rule("backbone.{name}", "{name}"), Rule("head.{name}", None, why=PRETRAINING_HEAD)),
        implies=plain("bicubic_offset"),
    ),
    "meta/dinov2-registers": Layout(
        arch="vit",
        marks=(*META_MARKS, "{base}register_tokens"),
        rules=META_DINOV2,
        implies=plain("bicubic_antialias"),
    ),
    "meta/dinov2": Layout(arch="vit", marks=META_MARKS, rules=META_DINOV2, implies=plain("bicubic_offset")),
    "transformers/dinov2-registers": Layout(
        arch="vit",
        marks=(*TRANSFORMERS_REGISTERS, CLASSIFIER),
        rules=TRANSFORMERS_DINOV2,
        implies={**plain("bicubic_antialias"), "pool": "cls_mean"},
        bound={"base": "dinov2_with_registers."},
    ),
    "transformers/dinov2-registers-model": Layout(
        arch="vit",
        marks=TRANSFORMERS_REGISTERS,
        rules=TRANSFORMERS_DINOV2,
        implies={**plain("bicubic_antialias"), "pool": "cls"},
        bound={"base": ""},
    ),
    "transformers/dinov2": Layout(
        arch="vit",
        marks=(*TRANSFORMERS_MARKS, CLASSIFIER),
        rules=TRANSFORMERS_DINOV2,
        implies={**plain("bicubic"), "pool": "cls_mean"},
        bound={"base": "dinov2."},
    ),
    "transformers/dinov2-model": Layout(
        arch="vit",
        marks=TRANSFORMERS_MARKS,
        rules=TRANSFORMERS_DINOV2,
        implies={**plain("bicubic"), "pool": "cls"},
        bound={"base": ""},
    ),
}


def _hidden(embed_dim: int, ratio: int, *, gated: bool) -> int:
    """The MLP's width: two thirds where it is gated, rounded up to a multiple of 8 (dinov2/layers/swiglu_ffn.py)."""
    return (int(embed_dim * ratio * 2 / 3) + 7) // 8 * 8 if gated else embed_dim * ratio


def _ratio(spec: VitSpec) -> int:
    """The whole mlp_ratio that comes nearest to the MLP's width."""
    return round(spec.mlp_dim * (1.5 if spec.gated_mlp else 1) / spec.embed_dim)


def _fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    gated = words.get("use_swiglu_ffn", False)
    shared = transformers_vit_fields(words, outputs)
    return {
        **shared,
        "patch_size": words.square("patch_size", 14),
        "mlp_dim": _hidden(shared["embed_dim"], words.get("mlp_ratio", 4), gated=gated),
        "layer_scale": words.get("layerscale_value", 1.0),
        "gated_mlp": gated,
        "activation": "silu" if gated else shared["activation"],
        "norm_eps": words.get("layer_norm_eps", 1e-6),
        "pool": "cls_mean" if outputs.num_classes else "cls",
    }


def _config(spec: VitSpec) -> dict[str, Any]:
    shared = {key: value for key, value in transformers_vit_config(spec).items() if key != "intermediate_size"}
    return {
        **shared,
        "mlp_ratio": _ratio(spec),
        "layerscale_value": spec.layer_scale,
        "use_swiglu_ffn": spec.gated_mlp,
        "use_mask_token": False,
    }


def _refuses(spec: VitSpec) -> Iterable[str]:
    if not spec.layer_scale:
        yield "its blocks have a layer scale"
    if spec.pool != ("cls_mean" if spec.num_classes else "cls"):
        yield "it pools by 'cls_mean' for a classifier and by 'cls' without one"
    if spec.gated_mlp and spec.activation != "silu":
        yield f"its gated MLP is activated by silu, not {spec.activation}"
    if _hidden(spec.embed_dim, _ratio(spec), gated=spec.gated_mlp) != spec.mlp_dim:
        yield f"no whole mlp_ratio gives its MLP a width of {spec.mlp_dim}"
    if len(set(spec.image_size)) != 1:
        yield "its positions are those of square pictures"


HOLDS: Mapping[str, tuple[Any, ...]] = {
    "class_token": (True,),
    "distillation_token": (False,),
    "num_registers": (0,),
    "position": ("learned",),
    "prefix_positions": (True,),
    "pre_norm": (False,),
    "qkv_bias": ("qkv", "none"),
    "final_norm": ("tokens",),
    "pre_logits_dim": (0,),
    "stem_depths": (None,),
    "stem_channels": (None,),
}

TRANSFORMERS_DINOV2_PLACED = Dialect(
    name="transformers' DINOv2",
    kind="dinov2",
    classes=("Dinov2ForImageClassification", "Dinov2Model"),
    layouts=("transformers/dinov2", "transformers/dinov2-model"),
    holds=HOLDS,
    refuses=_refuses,
    fields=_fields,
    config=_config,
)


def _registers_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    return {
        **_fields(words, outputs),
        "patch_size": words.square("patch_size", 16),
        "num_registers": words.get("num_register_tokens", 4),
        "prefix_positions": False,
        "position_resample": "bicubic_antialias",
    }


def _registers_config(spec: VitSpec) -> dict[str, Any]:
    shared = {key: value for key, value in _config(spec).items() if key != "use_mask_token"}
    return {**shared, "num_register_tokens": spec.num_registers}


def _registers_refuses(spec: VitSpec) -> Iterable[str]:
    yield from _refuses(spec)
    if not spec.num_registers:
        yield "it has registers"


TRANSFORMERS_DINOV2_REGISTERS = Dialect(
    name="transformers' DINOv2 with registers",
    kind="dinov2_with_registers",
    classes=("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersModel"),
    layouts=("transformers/dinov2-registers", "transformers/dinov2-registers-model"),
    holds={name: known for name, known in HOLDS.items() if name != "num_registers"} | {"prefix_positions": (False,)},
    refuses=_registers_refuses,
    fields=_registers_fields,
    config=_registers_config,
)


# timm's giants have an mlp_layer of their own, which no config.json can name: theirs are the only architectures. Its
# hidden width counts both projections.
def _giant_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    fields = timm_vit_fields(words, outputs)
    return {**fields, "gated_mlp": True, "mlp_dim": fields["mlp_dim"] // 2}


def _giant_arguments(spec: VitSpec) -> dict[str, Any]:
    both = dataclasses.replace(spec, mlp_dim=2 * spec.mlp_dim)
    return {**timm_vit_arguments(spec), "mlp_ratio": timm_ratio(both)}


TIMM_GIANT = dataclasses.replace(
    TIMM_VIT,
    name="timm's DINOv2 giant",
    kind="VisionTransformer with SwiGLUPacked",
    holds={**TIMM_VIT.holds, "gated_mlp": (True,)},
    fields=_giant_fields,
    config=_giant_arguments,
)

FAMILY = Family(
    layouts=LAYOUTS, transformers=(TRANSFORMERS_DINOV2_PLACED, TRANSFORMERS_DINOV2_REGISTERS), timm=(TIMM_GIANT,)
)
