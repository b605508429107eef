"""DeiT with its distillation token, and DeiT III's layer scale, as transformers, timm and the authors write them.

Checked against transformers 5.23 (models/deit/modeling_deit.py and the names its save_pretrained writes), timm 1.0.31
(models/deit.py, `checkpoint_filter_fn`) and facebookresearch/deit (models.py, models_v2.py). A plain DeiT is a ViT for
all of them. A distillation token without a head of its own is a register: transformers' DeiTForImageClassification and
DeiTModel read the class token alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vitkit.checkpoint.dialect import Dialect, Family, Layout, Outputs, Words, plain
from vitkit.checkpoint.families.vit import (
    POOLER_DROPPED,
    POOLER_READ,
    TRANSFORMERS5_VIT_BLOCKS,
    TRANSFORMERS_VIT_BLOCKS,
    TRANSFORMERS_VIT_ENDS,
    TRANSFORMERS_VIT_HOLDS,
    pooler_config,
    pooler_fields,
    pooler_refuses,
    timm_vit_arguments,
    timm_vit_fields,
    timm_vit_refuses,
)
from vitkit.checkpoint.namemap import Rule
from vitkit.model.spec import VitSpec

__all__ = ["FAMILY"]

TOKEN = "{base}embeddings.distillation_token"
TWO_HEADS = (
    Rule(TOKEN, "dist_token"),
    Rule("cls_classifier.{p}", "head.{p}"),
    Rule("distillation_classifier.{p}", "head_dist.{p}"),
    *TRANSFORMERS_VIT_ENDS,
)
ONE_HEAD = (Rule(TOKEN, "reg_token"), *TRANSFORMERS_VIT_ENDS)
A_REGISTER = {"distillation_token": False, "num_registers": 1}


def _layouts(generation: str, block: str, blocks: tuple[Rule, ...]) -> dict[str, Layout]:
    """transformers' three classes, whose blocks have these names."""
    marks = (f"{block}.layernorm_before.weight", TOKEN)
    return {
        f"{generation}/deit-distilled": Layout(
            arch="vit",
            marks=(*marks, "distillation_classifier.weight"),
            rules=(*TWO_HEADS, *blocks, *POOLER_DROPPED),
            implies=plain("bicubic"),
            bound={"base": "deit."},
        ),
        f"{generation}/deit": Layout(
            arch="vit",
            marks=(*marks, "classifier.weight"),
            rules=(*ONE_HEAD, *blocks, *POOLER_DROPPED),
            implies={**plain("bicubic"), **A_REGISTER},
            bound={"base": "deit."},
        ),
        f"{generation}/deit-model": Layout(
            arch="vit",
            marks=marks,
            rules=(*ONE_HEAD, *blocks, *POOLER_READ),
            implies={**plain("bicubic"), **A_REGISTER},
            bound={"base": ""},
        ),
    }


# The authors' names are timm's, but for DeiT III's layer scale.
AS_TIMM = (
    "cls_token",
    "pos_embed",
    "patch_embed.proj.{p}",
    "blocks.{i}.norm{j}.{p}",
    "blocks.{i}.attn.qkv.{p}",
    "blocks.{i}.attn.proj.{p}",
    "blocks.{i}.mlp.fc{j}.{p}",
    "norm.{p}",
    "head.{p}",
)

LAYOUTS: Mapping[str, Layout] = {
    **_layouts("transformers", "{base}encoder.layer.0", TRANSFORMERS_VIT_BLOCKS),
    **_layouts("transformers5", "{base}layers.0", TRANSFORMERS5_VIT_BLOCKS),
    "facebook/deit3": Layout(
        arch="vit",
        marks=("pos_embed", "blocks.0.gamma_1", "blocks.0.attn.qkv.bias", "blocks.0.mlp.fc1.weight"),
        rules=(*(Rule(name, name) for name in AS_TIMM), Rule("blocks.{i}.gamma_{j}", "blocks.{i}.ls{j}.gamma")),
        implies=plain("bicubic"),
    ),
}


def _fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    return {
        **pooler_fields(words, outputs),
        "distillation_token": outputs.distillation_head,
        "num_registers": int(not outputs.distillation_head),
    }


def _refuses_distilled(spec: VitSpec) -> Iterable[str]:
    if not spec.num_classes:
        yield "it has no class without heads that reads both tokens"


TRANSFORMERS_DEIT = Dialect(
    name="transformers' DeiT",
    kind="deit",
    classes=("DeiTForImageClassification", "DeiTModel"),
    layouts=("transformers/deit", "transformers/deit-model"),
    holds={**TRANSFORMERS_VIT_HOLDS, "num_registers": (1,)},
    refuses=pooler_refuses,
    fields=_fields,
    config=pooler_config,
)
TRANSFORMERS_DISTILLED = Dialect(
    name="transformers' distilled DeiT",
    kind="deit",
    classes=("DeiTForImageClassificationWithTeacher",) * 2,
    layouts=("transformers/deit-distilled",) * 2,
    holds={**TRANSFORMERS_VIT_HOLDS, "distillation_token": (True,)},
    refuses=_refuses_distilled,
    fields=_fields,
    config=pooler_config,
)


def _timm_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    return {**timm_vit_fields(words, outputs), "distillation_token": True}


TIMM_DISTILLED = Dialect(
    name="timm's distilled ViT",
    kind="VisionTransformerDistilled",
    layouts=("timm/vit", "timm/vit"),
    classifier=("head", "head_dist"),
    holds={
        "class_token": (True,),
        "distillation_token": (True,),
        "num_registers": (0,),
        "position": ("learned",),
        "prefix_positions": (True,),
        "qkv_bias": ("qkv", "none"),
        "gated_mlp": (False,),
        "stem_depths": (None,),
        "stem_channels": (None,),
    },
    refuses=timm_vit_refuses,
    fields=_timm_fields,
    config=timm_vit_arguments,
)

FAMILY = Family(layouts=LAYOUTS, transformers=(TRANSFORMERS_DEIT, TRANSFORMERS_DISTILLED), timm=(TIMM_DISTILLED,))
