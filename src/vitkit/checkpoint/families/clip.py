"""CLIP and SigLIP, both towers or the image's alone, as transformers, OpenAI and OpenCLIP write them.

Checked against transformers 5.23 (models/clip/modeling_clip.py, models/siglip/modeling_siglip.py and the names their
save_pretrained writes), openai/CLIP (clip/model.py), open_clip (src/open_clip/model.py) and timm 1.0.31
(models/vision_transformer.py, `checkpoint_filter_fn`). timm's own image towers are its ViTs. The projection into the
shared space belongs to the two-tower model: transformers' CLIPVisionModel, which has none, is a plain ViT.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from vitkit.checkpoint.dialect import Dialect, Family, Layout, Outputs, Words, plain
from vitkit.checkpoint.families.vit import ACTIVATIONS_FOR_TRANSFORMERS, TRANSFORMERS_ACTIVATIONS
from vitkit.checkpoint.namemap import Op, Rule, concat_rows
from vitkit.model.spec import AnySpec, ClipSpec, VitSpec
from vitkit.model.text_spec import TextSpec

__all__ = ["FAMILY", "openclip_fields"]

COUNTED = "the numbers 0, 1, 2, ..."
SAID = "a number of the configuration"
UNREAD = "transformers' classifier reads the mean of the patches instead"

# Positions [N, D] and a class token [D], ours [1, N, D] and [1, 1, D].
positions = Op(lambda tensors, spec: tensors[0][None], lambda tensor, spec, count: [tensor[0]])
token = Op(lambda tensors, spec: tensors[0][None, None], lambda tensor, spec, count: [tensor[0, 0]])
transposed = Op(lambda tensors, spec: tensors[0].T, lambda tensor, spec, count: [tensor.T])
number = Op(lambda tensors, spec: tensors[0].reshape(()), lambda tensor, spec, count: [tensor.reshape(1)])
# The pooling's fused projection holds the query's rows, then those of key and value.
query_rows = Op(lambda tensors, spec: tensors[0].chunk(3)[0], lambda tensor, spec, count: [tensor])
key_value_rows = Op(lambda tensors, spec: torch.cat(tensors[0].chunk(3)[1:]), lambda tensor, spec, count: [tensor])


def _transformers_blocks(theirs: str, ours: str) -> tuple[Rule, ...]:
    attention = f"{theirs}.self_attn"
    return (
        Rule(f"{theirs}.layer_norm1.{{p}}", f"{ours}.norm1.{{p}}"),
        Rule(
            (f"{attention}.q_proj.{{p}}", f"{attention}.k_proj.{{p}}", f"{attention}.v_proj.{{p}}"),
            f"{ours}.attn.qkv.{{p}}",
            op=concat_rows,
        ),
        Rule(f"{attention}.out_proj.{{p}}", f"{ours}.attn.proj.{{p}}"),
        Rule(f"{theirs}.layer_norm2.{{p}}", f"{ours}.norm2.{{p}}"),
        Rule(f"{theirs}.mlp.fc{{j}}.{{p}}", f"{ours}.mlp.fc{{j}}.{{p}}"),
    )


def _original_blocks(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{theirs}.ln_1.{{p}}", f"{ours}.norm1.{{p}}"),
        Rule(f"{theirs}.attn.in_proj_{{p}}", f"{ours}.attn.qkv.{{p}}"),
        Rule(f"{theirs}.attn.out_proj.{{p}}", f"{ours}.attn.proj.{{p}}"),
        Rule(f"{theirs}.ln_2.{{p}}", f"{ours}.norm2.{{p}}"),
        Rule(f"{theirs}.mlp.c_fc.{{p}}", f"{ours}.mlp.fc1.{{p}}"),
        Rule(f"{theirs}.mlp.c_proj.{{p}}", f"{ours}.mlp.fc2.{{p}}"),
    )


IMAGE = (
    Rule("{base}embeddings.patch_embedding.{p}", "patch_embed.proj.{p}"),
    Rule("{base}embeddings.position_embedding.weight", "pos_embed", op=positions),
    Rule("{base}embeddings.position_ids", None, why=COUNTED),
    *_transformers_blocks("{base}encoder.layers.{i}", "blocks.{i}"),
)
LAST_NORM = (Rule("{base}post_layernorm.{p}", "norm.{p}"),)
CLASS_TOKEN = (
    Rule("{base}embeddings.class_embedding", "cls_token", op=token),
    Rule("{base}pre_layrnorm.{p}", "norm_pre.{p}"),
)
POOLING = (
    Rule("{base}head.probe", "attn_pool.latent"),
    Rule("{base}head.attention.in_proj_{p}", "attn_pool.q.{p}", op=query_rows),
    Rule("{base}head.attention.in_proj_{p}", "attn_pool.kv.{p}", op=key_value_rows),
    Rule("{base}head.attention.out_proj.{p}", "attn_pool.proj.{p}"),
    Rule("{base}head.layernorm.{p}", "attn_pool.norm.{p}"),
    Rule("{base}head.mlp.fc{j}.{p}", "attn_pool.mlp.fc{j}.{p}"),
)
PROJECTION = (Rule("visual_projection.weight", "projection.weight"),)
CLASSIFIER = (Rule("classifier.{p}", "head.{p}"),)
TEXT = (
    Rule("text_model.embeddings.token_embedding.weight", "text.token_embedding.weight"),
    Rule("text_model.embeddings.position_embedding.weight", "text.pos_embed", op=positions),
    Rule("text_model.embeddings.position_ids", None, why=COUNTED),
    *_transformers_blocks("text_model.encoder.layers.{i}", "text.blocks.{i}"),
    Rule("text_model.final_layer_norm.{p}", "text.norm.{p}"),
)
OPENAI = (
    Rule("visual.conv1.weight", "patch_embed.proj.weight"),
    Rule("visual.class_embedding", "cls_token", op=token),
    Rule("visual.positional_embedding", "pos_embed", op=positions),
    Rule("visual.ln_pre.{p}", "norm_pre.{p}"),
    *_original_blocks("visual.transformer.resblocks.{i}", "blocks.{i}"),
    Rule("visual.ln_post.{p}", "norm.{p}"),
    Rule("visual.proj", "projection.weight", op=transposed),
    Rule("token_embedding.weight", "text.token_embedding.weight"),
    Rule("positional_embedding", "text.pos_embed", op=positions),
    *_original_blocks("transformer.resblocks.{i}", "text.blocks.{i}"),
    Rule("ln_final.{p}", "text.norm.{p}"),
    Rule("text_projection", "text.projection.weight", op=transposed),
    Rule("logit_scale", "logit_scale"),
    Rule("logit_bias", "logit_bias"),
    *(Rule(name, None, why=SAID) for name in ("input_resolution", "context_length", "vocab_size")),
)
OPENCLIP_SIGLIP = (
    Rule("text.token_embedding.weight", "text.token_embedding.weight"),
    Rule("text.positional_embedding", "text.pos_embed", op=positions),
    *_original_blocks("text.transformer.resblocks.{i}", "text.blocks.{i}"),
    Rule("text.ln_final.{p}", "text.norm.{p}"),
    Rule("text.text_projection.{p}", "text.projection.{p}"),
    Rule("logit_scale", "logit_scale"),
    Rule("logit_bias", "logit_bias"),
    Rule("visual.trunk.{name}", "{name}"),
)

PRE_NORM, PROBE = "{base}pre_layrnorm.weight", "{base}head.probe"

LAYOUTS: Mapping[str, Layout] = {
    "transformers/clip": Layout(
        arch="clip",
        marks=(PRE_NORM, "visual_projection.weight", "text_projection.weight"),
        rules=(
            *(*IMAGE, *CLASS_TOKEN, *LAST_NORM, *PROJECTION, *TEXT),
            Rule("text_projection.weight", "text.projection.weight"),
            Rule("logit_scale", "logit_scale"),
        ),
        implies=plain("bicubic"),
        bound={"base": "vision_model."},
    ),
    "transformers/clip-image": Layout(
        arch="clip",
        marks=(PRE_NORM, "visual_projection.weight"),
        rules=(*IMAGE, *CLASS_TOKEN, *LAST_NORM, *PROJECTION),
        implies=plain("bicubic"),
        bound={"base": "vision_model."},
    ),
    "transformers/clip-classifier": Layout(
        arch="vit",
        marks=(PRE_NORM, "classifier.weight"),
        rules=(*IMAGE, *CLASS_TOKEN, *CLASSIFIER, Rule("{base}post_layernorm.{p}", None, why=UNREAD)),
        implies=plain("bicubic"),
        bound={"base": "vision_model."},
    ),
    "transformers/clip-vision": Layout(
        arch="vit",
        marks=(PRE_NORM,),
        rules=(*IMAGE, *CLASS_TOKEN, *LAST_NORM),
        implies=plain("bicubic"),
        bound={"base": ""},
    ),
    "transformers/siglip": Layout(
        arch="clip",
        marks=(PROBE, "text_model.head.weight"),
        rules=(
            *(*IMAGE, *LAST_NORM, *POOLING, *TEXT),
            Rule("text_model.head.{p}", "text.projection.{p}"),
            Rule("logit_scale", "logit_scale", op=number),
            Rule("logit_bias", "logit_bias", op=number),
        ),
        implies=plain("bicubic"),
        bound={"base": "vision_model."},
    ),
    "transformers/siglip-classifier": Layout(
        arch="vit",
        marks=(PROBE, "classifier.weight"),
        rules=(*IMAGE, *LAST_NORM, *CLASSIFIER, Rule("{base}head.{name}", None, why=UNREAD)),
        implies=plain("bicubic"),
        bound={"base": "vision_model."},
    ),
    "transformers/siglip-vision": Layout(
        arch="vit",
        marks=(PROBE,),
        rules=(*IMAGE, *LAST_NORM, *POOLING),
        implies=plain("bicubic"),
        bound={"base": ""},
    ),
    # OpenCLIP's names for these towers are OpenAI's; of the two only OpenCLIP takes other sizes.
    "openai/clip": Layout(
        arch="clip",
        marks=("visual.class_embedding", "visual.proj", "token_embedding.weight"),
        rules=OPENAI,
        implies=plain("bicubic_antialias"),
    ),
    "openclip/siglip": Layout(
        arch="clip",
        marks=("visual.trunk.attn_pool.latent", "text.token_embedding.weight"),
        rules=OPENCLIP_SIGLIP,
        implies=plain("bicubic_antialias"),
    ),
}


def _encoder_fields(words: Words, width: int, depth: int, heads: int, mlp: int, **own: Any) -> dict[str, Any]:
    """What both towers say; absent keys mean the class's own."""
    return {
        "embed_dim": words.get("hidden_size", width),
        "depth": words.get("num_hidden_layers", depth),
        "num_heads": words.get("num_attention_heads", heads),
        "mlp_dim": words.get("intermediate_size", mlp),
        "activation": words.one_of("hidden_act", TRANSFORMERS_ACTIVATIONS, own["hidden_act"]),
        "norm_eps": words.get("layer_norm_eps", own["layer_norm_eps"]),
        "attention_dropout": float(words.get("attention_dropout", 0.0)),
    }


def _encoder_config(spec: VitSpec | TextSpec) -> dict[str, Any]:
    """The same, the other way."""
    return {
        "hidden_size": spec.embed_dim,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.num_heads,
        "intermediate_size": spec.mlp_dim,
        "hidden_act": ACTIVATIONS_FOR_TRANSFORMERS[spec.activation],
        "layer_norm_eps": spec.norm_eps,
        "attention_dropout": spec.attention_dropout,
    }


CLIP_OWN: Mapping[str, Any] = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
SIGLIP_OWN: Mapping[str, Any] = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
CLIP_IMAGE: Mapping[str, Any] = {"pre_norm": True, "class_token": True, "pool": "cls"}
SIGLIP_IMAGE: Mapping[str, Any] = {"pre_norm": False, "class_token": False, "pool": "attention"}


def _image_fields(words: Words, own: Mapping[str, Any], patch_size: int) -> dict[str, Any]:
    size, patch = words.size("image_size", 224), words.square("patch_size", patch_size)
    return {
        **_encoder_fields(words, 768, 12, 12, 3072, **own),
        "image_size": size,
        "patch_size": patch,
        "ragged_edges": any(side % patch for side in ((size,) if isinstance(size, int) else size)),
        "in_channels": words.get("num_channels", 3),
        "num_classes": 0,
        "position_resample": "bicubic",
    }


def _clip_vision_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    return {**_image_fields(words, CLIP_OWN, 32), **CLIP_IMAGE}


def _clip_image_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    return {**_clip_vision_fields(words, outputs), "projection_dim": words.get("projection_dim", 512)}


def _clip_part(words: Words, name: str) -> Words:
    """A tower's configuration: what older files say twice, the second time in whole, is meant the second time."""
    twice = f"{name}_config_dict"
    return words.part(f"{name}_config" if words.get(twice) is None else twice)


def _clip_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    text = _clip_part(words, "text")
    # Configurations written before transformers 4.31 have an id that no text ends with; they mean the highest one.
    end = text.get("eos_token_id", 49_407)
    return {
        **_clip_vision_fields(_clip_part(words, "vision"), outputs),
        "projection_dim": words.get("projection_dim", 512),
        "text": TextSpec(
            **_encoder_fields(text, 512, 12, 8, 2048, **CLIP_OWN),
            vocab_size=text.get("vocab_size", 49_408),
            context_length=text.get("max_position_embeddings", 77),
            pool="highest" if end == 2 else "end",
            end_token=0 if end == 2 else end,
        ),
    }


def _siglip_vision_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    return {**_image_fields(words, SIGLIP_OWN, 16), **SIGLIP_IMAGE}


def _siglip_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    text = words.part("text_config")
    image = _siglip_vision_fields(words.part("vision_config"), outputs)
    if text.get("projection_size") not in (None, image["embed_dim"]):
        words.faults.append(f"projection_size {text.get('projection_size')} isn't the image tower's hidden_size")
    return {
        **image,
        "logit_bias": True,
        "text": TextSpec(
            **_encoder_fields(text, 768, 12, 12, 3072, **SIGLIP_OWN),
            vocab_size=text.get("vocab_size", 32_000),
            context_length=text.get("max_position_embeddings", 64),
            causal=False,
            pool="last",
            end_token=0,
            output_bias=True,
        ),
    }


def _check_classifier(words: Words, outputs: Outputs) -> None:
    if not outputs.num_classes:
        words.faults.append("this model_type is for both towers or a classifier, the file has neither's tensors")


def _clip_classifier_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    _check_classifier(words, outputs)
    image = _clip_vision_fields(_clip_part(words, "vision"), outputs)
    return {**image, "num_classes": outputs.num_classes, "pool": "mean", "final_norm": "none"}


def _siglip_classifier_fields(words: Words, outputs: Outputs) -> dict[str, Any]:
    _check_classifier(words, outputs)
    image = _siglip_vision_fields(words.part("vision_config"), outputs)
    return {**image, "num_classes": outputs.num_classes, "pool": "mean"}


OPENCLIP_ASIDE = (
    *("custom_text", "timm_model_name", "timm_model_kwargs", "timm_model_pretrained", "timm_drop", "timm_drop_path"),
    *("image_size", "patch_dropout", "output_tokens", "hf_tokenizer_name", "tokenizer_kwargs", "pad_id"),
)
"""What OpenCLIP says of training, of the tokenizer, or of outputs beside the embedding."""


def _openclip_encoder(words: Words, width: int, quick: bool) -> dict[str, Any]:
    """What OpenCLIP says of both towers, under the same names."""
    D = words.get("width", width)
    tanh = (words.get("act_kwargs") or {}).get("approximate") == "tanh"
    return {
        "embed_dim": D,
        "depth": words.get("layers", 12),
        "mlp_dim": int(D * words.get("mlp_ratio", 4.0)),
        "activation": "quick_gelu" if quick else "gelu_tanh" if tanh else "gelu",
        "norm_eps": (words.get("norm_kwargs") or {}).get("eps", 1e-5),
    }


def openclip_fields(words: Words, trunk: AnySpec | None) -> dict[str, Any]:
    """The fields that the model_cfg of OpenCLIP describes; `trunk` is the image tower where that is one of timm's."""
    quick = words.get("quick_gelu", False)
    vision, text = words.part("vision_cfg"), words.part("text_cfg")
    if trunk is None:
        image = {
            **_openclip_encoder(vision, 768, quick),
            **CLIP_IMAGE,
            "image_size": vision.size("image_size", 224),
            "patch_size": vision.square("patch_size", 16),
            "projection_dim": words.get("embed_dim"),
        }
        image["num_heads"] = image["embed_dim"] // vision.get("head_width", 64)
        vision.only("pool_type", "tok")
    else:
        image = dict(vars(trunk))
        vision.one_of("timm_pool", {"map": None}, "avg")
        vision.one_of("timm_proj", {"none": None, "": None}, "linear")
        if words.get("embed_dim") != trunk.feature_dim:
            words.faults.append(f"embed_dim {words.get('embed_dim')} isn't the image tower's {trunk.feature_dim}")
    pool = text.one_of("pool_type", {"argmax": "highest", "eos": "end", "last": "last"}, "argmax")
    text.only("proj_type", "linear")
    tower = TextSpec(
        **_openclip_encoder(text, 512, quick),
        num_heads=text.get("heads", 8),
        vocab_size=text.get("vocab_size", 49_408),
        context_length=text.get("context_length", 77),
        causal=not text.get("no_causal_mask", False),
        pool=pool,
        end_token=text.get("eos_id") or 0,
        output_bias=text.get("proj_bias", False),
    )
    bias = words.get("init_logit_bias") is not None
    for part in (words, vision, text):  # what is null or false isn't in use
        other = [key for key, value in part.config.items() if value and key not in {*part.read, *OPENCLIP_ASIDE}]
        words.faults += [f"{key!r} isn't supported" for key in other]
    resample = {"num_classes": 0, "position_resample": "bicubic_antialias"}
    return {**image, **resample, "text": tower, "logit_bias": bias}


def _image_config(spec: VitSpec) -> dict[str, Any]:
    return {
        **_encoder_config(spec),
        "image_size": spec.image_size[0],
        "patch_size": spec.patch_size,
        "num_channels": spec.in_channels,
    }


def _text_config(text: TextSpec) -> dict[str, Any]:
    return {
        **_encoder_config(text),
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        "eos_token_id": {"highest": 2, "end": text.end_token}.get(text.pool, 0),
    }


def _both_config(spec: ClipSpec) -> dict[str, Any]:
    assert spec.text is not None
    return {"vision_config": _image_config(spec), "text_config": _text_config(spec.text)}


def _clip_config(spec: ClipSpec) -> dict[str, Any]:
    return {**_both_config(spec), "projection_dim": spec.projection_dim}


def _clip_image_config(spec: ClipSpec) -> dict[str, Any]:
    return {**_image_config(spec), "projection_dim": spec.projection_dim}


def _siglip_config(spec: ClipSpec) -> dict[str, Any]:
    config = _both_config(spec)
    return {**config, "text_config": {**config["text_config"], "projection_size": spec.feature_dim}}


def _refuses_sides(spec: VitSpec) -> Iterable[str]:
    """Why transformers' image towers can't hold a spec."""
    if spec.image_size[0] != spec.image_size[1]:
        yield f"its pictures are square, not {spec.image_size[0]}x{spec.image_size[1]}"
    if spec.dropout:
        yield "it has no dropout but the attention's"


def _refuses_clip(spec: ClipSpec) -> Iterable[str]:
    yield from _refuses_sides(spec)
    text = spec.text
    if text is None or not text.causal or text.pool == "last" or text.output_bias:
        yield "its text tower is causal, reads the end of the text and has no bias after it"
    elif text.pool == "end" and text.end_token == 2:
        yield "its configuration means the highest id by an end_token of 2"
    if not spec.projection_dim:
        yield "it has a projection"


def _refuses_clip_image(spec: ClipSpec) -> Iterable[str]:
    yield from _refuses_sides(spec)
    if spec.text is not None:
        yield "it has no text tower"
    if not spec.projection_dim:
        yield "it has a projection"


def _refuses_siglip(spec: ClipSpec) -> Iterable[str]:
    yield from _refuses_sides(spec)
    text = spec.text
    if text is None or text.causal or text.pool != "last" or not text.output_bias:
        yield "its text tower sees the whole text, reads the last token and has a bias after it"


def _refuses_classifier(spec: VitSpec) -> Iterable[str]:
    yield "it is only read: it has parts that its own answers don't need, and these weights lack"


IMAGE_HOLDS: Mapping[str, tuple[Any, ...]] = {
    "distillation_token": (False,),
    "num_registers": (0,),
    "position": ("learned",),
    "prefix_positions": (True,),
    "qkv_bias": ("qkv",),
    "layer_scale": (0.0,),
    "gated_mlp": (False,),
    "stem_depths": (None,),
    "stem_channels": (None,),
    "final_norm": ("tokens",),
    "pre_logits_dim": (0,),
    "num_classes": (0,),
}
CLIP_HOLDS = {**IMAGE_HOLDS, **{name: (value,) for name, value in CLIP_IMAGE.items()}}
SIGLIP_HOLDS = {**IMAGE_HOLDS, **{name: (value,) for name, value in SIGLIP_IMAGE.items()}}

DIALECTS = (
    Dialect(
        name="transformers' CLIP",
        kind="clip",
        arch="clip",
        classes=("CLIPModel",) * 2,
        layouts=("transformers/clip",) * 2,
        holds={**CLIP_HOLDS, "logit_bias": (False,)},
        refuses=_refuses_clip,
        fields=_clip_fields,
        config=_clip_config,
    ),
    Dialect(
        name="transformers' CLIP image half",
        kind="clip_vision_model",
        arch="clip",
        classes=("CLIPVisionModelWithProjection",) * 2,
        layouts=("transformers/clip-image",) * 2,
        holds=CLIP_HOLDS,
        refuses=_refuses_clip_image,
        fields=_clip_image_fields,
        config=_clip_image_config,
    ),
    Dialect(
        name="transformers' CLIP image tower",
        kind="clip_vision_model",
        classes=("CLIPVisionModel",) * 2,
        layouts=("transformers/clip-vision",) * 2,
        holds=CLIP_HOLDS,
        refuses=_refuses_sides,
        fields=_clip_vision_fields,
        config=_image_config,
    ),
    Dialect(
        name="transformers' CLIP classifier",
        kind="clip",
        classes=("CLIPForImageClassification",) * 2,
        layouts=("transformers/clip-classifier",) * 2,
        holds={**CLIP_HOLDS, "pool": ("mean",), "final_norm": ("none",)},
        refuses=_refuses_classifier,
        fields=_clip_classifier_fields,
        config=_image_config,
    ),
    Dialect(
        name="transformers' SigLIP",
        kind="siglip",
        arch="clip",
        classes=("SiglipModel",) * 2,
        layouts=("transformers/siglip",) * 2,
        holds={**SIGLIP_HOLDS, "projection_dim": (0,), "logit_bias": (True,)},
        refuses=_refuses_siglip,
        fields=_siglip_fields,
        config=_siglip_config,
    ),
    Dialect(
        name="transformers' SigLIP image tower",
        kind="siglip_vision_model",
        classes=("SiglipVisionModel",) * 2,
        layouts=("transformers/siglip-vision",) * 2,
        holds=SIGLIP_HOLDS,
        refuses=_refuses_sides,
        fields=_siglip_vision_fields,
        config=_image_config,
    ),
    Dialect(
        name="transformers' SigLIP classifier",
        kind="siglip",
        classes=("SiglipForImageClassification",) * 2,
        layouts=("transformers/siglip-classifier",) * 2,
        holds={**SIGLIP_HOLDS, "pool": ("mean",)},
        refuses=_refuses_classifier,
        fields=_siglip_classifier_fields,
        config=_image_config,
    ),
)

FAMILY = Family(layouts=LAYOUTS, transformers=DIALECTS)
