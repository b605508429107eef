"""A module to a folder, whole or absent: native, which timm and transformers load as it is, or transformers' ViT.

The native folder holds model.safetensors (timm's names), config.json (timm's, where timm computes exactly the same),
vitkit.json (spec, card, digests), proof.safetensors and a model card.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import vitkit
from vitkit.checkpoint import proof
from vitkit.checkpoint.card import Card
from vitkit.checkpoint.families import LAYOUTS
from vitkit.checkpoint.identify import timm_ratio
from vitkit.checkpoint.namemap import invert
from vitkit.checkpoint.presets import PRESETS
from vitkit.checkpoint.read import NativeFile
from vitkit.config import to_dict
from vitkit.errors import CheckpointError
from vitkit.files import new_folder, sha256_of
from vitkit.image.sources import to_timm, to_transformers
from vitkit.model.spec import ModelSpec, VitSpec
from vitkit.model.vit import VisionTransformer

__all__ = ["save_native", "save_transformers"]

WEIGHTS = "model.safetensors"


def save_native(
    module: VisionTransformer, folder: str | os.PathLike[str], *, card: Card, overwrite: bool = False
) -> list[str]:
    """Writes the native folder; returns notes on what other libraries can't express about this model.

    Raises CheckpointError where the card has no preprocessing or the disk is full, ConfigError where the folder is in
    use; nothing half-written stays.
    """
    if card.preprocess is None:
        raise CheckpointError(
            "a checkpoint needs to say how pictures become its pixels: pass preprocess=vitkit.Preprocess(...), "
            "the one the weights were trained with"
        )
    _check_card(module.spec, card)
    timm, notes = timm_config(module.spec, card)
    with _writing(folder), new_folder(folder, overwrite=overwrite) as part:
        save_file(_plain_state(module), part / WEIGHTS, metadata={"format": "pt"})
        proof.write_proof(part / proof.FILE, proof.make(module, card.preprocess))
        if timm is not None:
            _write_json(part / "config.json", timm)
        _write_text(part / "README.md", model_card(module.spec, card, notes))
        written = NativeFile(
            format=1,
            vitkit=vitkit.__version__,
            model=ModelSpec(arch="vit", spec=module.spec),
            card=card,
            sha256={file.name: sha256_of(file) for file in sorted(part.iterdir()) if file.name != "README.md"},
        )
        _write_json(part / "vitkit.json", to_dict(written))
    return notes


def save_transformers(
    module: VisionTransformer, folder: str | os.PathLike[str], *, card: Card, overwrite: bool = False
) -> list[str]:
    """Writes a folder for transformers' ViTForImageClassification (ViTModel without a head); returns notes.

    Raises CheckpointError where transformers' ViT can't compute what this model computes.
    """
    spec = module.spec
    config = transformers_config(spec, card)
    notes = []
    processor = None
    if card.preprocess is not None:
        processor = to_transformers(card.preprocess)
        if processor is None and card.preprocess.crop == "center_round":
            processor = to_transformers(dataclasses.replace(card.preprocess, crop="center_floor"))
            if processor is not None:
                notes.append(
                    "transformers' centre crop rounds down where this preprocessing rounds half to even: "
                    "some pictures shift by one pixel"
                )
        if processor is None:
            notes.append("no preprocessor_config.json: transformers has no image processor for this preprocessing")
    if spec.position_resample != "bicubic":
        notes.append(f"at other sizes transformers resamples positions by bicubic, not {spec.position_resample}")
    layout = LAYOUTS["transformers/vit" if spec.num_classes else "transformers/vit-model"]
    tensors = invert(layout.rules, _plain_state(module), spec, bound=layout.bound)
    with _writing(folder), new_folder(folder, overwrite=overwrite) as part:
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        _write_json(part / "config.json", config)
        if processor is not None:
            _write_json(part / "preprocessor_config.json", processor)
    return notes


def timm_config(spec: VitSpec, card: Card) -> tuple[dict[str, Any] | None, list[str]]:
    """timm's config.json for exactly this model, or None and the reasons why timm would compute something else."""
    assert card.preprocess is not None
    words = to_timm(card.preprocess)
    reasons = []
    if spec.norm_eps != 1e-6:
        reasons.append(f"timm's ViT computes LayerNorm with eps 1e-6, these weights need {spec.norm_eps:g}")
    if spec.pre_logits_dim:
        reasons.append("timm's ViT has no hidden layer before the head")
    if spec.position == "sincos":
        reasons.append("timm's ViT has no computed sine-cosine positions")
    if words is None:
        reasons.append("timm's transforms have no words for this preprocessing")
    if words is None or reasons:
        return None, [f"no config.json for timm: {reason}" for reason in reasons]
    # Any architecture name will do, since model_args says all sizes: take the published one, else the nearest.
    architecture = min(PRESETS, key=lambda name: _unlikeness(PRESETS[name].model.spec, spec))
    names = {"label_names": list(card.class_names)} if card.class_names else {}
    config = {
        "architecture": architecture,
        "num_classes": spec.num_classes,
        "num_features": spec.embed_dim,
        "global_pool": {"cls": "token", "mean": "avg"}[spec.pool],
        **names,
        "model_args": {
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
            "global_pool": {"cls": "token", "mean": "avg"}[spec.pool],
            "fc_norm": spec.final_norm == "pooled",
            **({} if spec.activation == "gelu" else {"act_layer": spec.activation}),
        },
        "pretrained_cfg": {
            **words,
            "fixed_input_size": True,
            "custom_load": False,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    return config, []


def transformers_config(spec: VitSpec, card: Card) -> dict[str, Any]:
    """transformers' ViTConfig for exactly this model. Raises CheckpointError naming what it has no words for."""
    faults = []
    if not spec.class_token or spec.pool != "cls" or spec.final_norm != "tokens":
        faults.append("its head reads the normed class token, this model's doesn't")
    if spec.position != "learned":
        faults.append(f"its positions are learned, this model's are {spec.position!r}")
    if spec.num_classes and spec.pre_logits_dim:
        faults.append("its classifier has no hidden layer before the head")
    if faults:
        raise CheckpointError("transformers' ViT can't hold this model: " + "; ".join(faults))
    names = card.class_names or tuple(f"LABEL_{index}" for index in range(spec.num_classes))
    activation = {"gelu_tanh": "gelu_pytorch_tanh"}.get(spec.activation, spec.activation)
    config: dict[str, Any] = {
        "architectures": ["ViTForImageClassification" if spec.num_classes else "ViTModel"],
        "model_type": "vit",
        "image_size": spec.image_size[0] if len(set(spec.image_size)) == 1 else list(spec.image_size),
        "patch_size": spec.patch_size,
        "num_channels": spec.in_channels,
        "hidden_size": spec.embed_dim,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.num_heads,
        "intermediate_size": spec.mlp_dim,
        "hidden_act": activation,
        "layer_norm_eps": spec.norm_eps,
        "qkv_bias": spec.qkv_bias == "qkv",
        "hidden_dropout_prob": spec.dropout,
        "attention_probs_dropout_prob": spec.attention_dropout,
    }
    if spec.num_classes:
        config["id2label"] = {str(index): name for index, name in enumerate(names)}
        config["label2id"] = {name: index for index, name in enumerate(names)}
        if card.scores == "sigmoid":
            config["problem_type"] = "multi_label_classification"
    if spec.pre_logits_dim:
        config["pooler_output_size"] = spec.pre_logits_dim
        config["pooler_act"] = "tanh"
    return config


def model_card(spec: VitSpec, card: Card, notes: list[str]) -> str:
    """The folder's README.md: what it is, how to use it, where it comes from."""
    provenance = card.provenance
    licence = provenance.licence if provenance else None
    head = ["library_name: vitkit", "tags: [image-classification, vision-transformer, vitkit, timm]"]
    head += [f"license: {licence}"] if licence else []
    height, width = spec.image_size
    task = f"{spec.num_classes:,} classes" if spec.num_classes else "embeddings, no head"
    widths = f"width {spec.embed_dim}, depth {spec.depth}, {spec.num_heads} heads"
    shape = f"{widths}, patches of {spec.patch_size} pixels, pictures of {height}x{width}, {task}"
    lines = [
        "---",
        *head,
        "---",
        "",
        "# Vision Transformer",
        "",
        f"{spec.num_parameters():,} parameters: {shape}.",
        "",
        "```python",
        "import vitkit",
        "",
        'vit = vitkit.load("THIS FOLDER OR ITS HUB ID")',
        'vit.classify("picture.jpg")' if spec.num_classes else 'vit.embed(["picture.jpg"])',
        "```",
        "",
        "`vitkit verify` proves that these weights answer on your machine as they did where they were written.",
    ]
    if provenance:
        lines += ["", f"Source of the weights: {provenance.source} (layout {provenance.layout})."]
    if card.metrics:
        lines += ["", *(f"- {name}: {value:g}" for name, value in card.metrics.items())]
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def _check_card(spec: VitSpec, card: Card) -> None:
    for name, entries in (("class_names", card.class_names), ("class_ids", card.class_ids)):
        if entries is not None and len(entries) != spec.num_classes:
            raise CheckpointError(f"{name} has {len(entries)} entries, the model {spec.num_classes} outputs")
    if card.preprocess is not None and card.preprocess.channels != spec.in_channels:
        raise CheckpointError(
            f"preprocess gives {card.preprocess.channels} channels, the model reads {spec.in_channels}"
        )


def _plain_state(module: VisionTransformer) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def _unlikeness(a: VitSpec, b: VitSpec) -> tuple[int, ...]:
    sizes = ((a.embed_dim, b.embed_dim), (a.depth, b.depth), (a.patch_size, b.patch_size), (a.num_heads, b.num_heads))
    return *(abs(one - other) for one, other in sizes), a.image_size != b.image_size


def _write_json(file: Path, content: dict[str, Any]) -> None:
    _write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def _writing(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what a full disk or a forbidden folder raises, in whichever writer, into one CheckpointError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = (
            "os error 28" in str(error)
            or "os error 27" in str(error)
            or getattr(error, "errno", None)
            in (
                errno.ENOSPC,
                errno.EFBIG,
                errno.EDQUOT,
            )
        )
        reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{os.fspath(folder)}: can't be written ({reason}); nothing was left behind") from error
