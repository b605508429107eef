"""A module to a folder, whole or absent: native, which timm and transformers load as it is, or transformers' ViT.

The native folder holds model.safetensors (timm's names), config.json (timm's, where timm computes exactly the same),
vitkit.json (spec, card, digests), proof.safetensors, a text tower's tokenizer and a model card.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import vitkit
from vitkit.checkpoint import proof
from vitkit.checkpoint.card import Card
from vitkit.checkpoint.dialect import Dialect, Layout
from vitkit.checkpoint.families import LAYOUTS, TIMM, TRANSFORMERS
from vitkit.checkpoint.namemap import invert
from vitkit.checkpoint.presets import PRESETS
from vitkit.checkpoint.read import NATIVE, NativeFile
from vitkit.config import to_dict
from vitkit.errors import CheckpointError
from vitkit.files import new_folder, sha256_of, why_unwritten
from vitkit.image.sources import to_timm, to_transformers
from vitkit.model.base import ImageModel
from vitkit.model.build import model_spec
from vitkit.model.spec import AnySpec, ModelSpec

__all__ = ["save_native", "save_timm", "save_transformers"]

WEIGHTS = "model.safetensors"


def save_native(
    module: ImageModel, folder: str | os.PathLike[str], *, card: Card, overwrite: bool = False
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
    timm, notes = native_timm_config(module.spec, card)
    with _writing(folder), new_folder(folder, overwrite=overwrite) as part:
        save_file(_plain_state(module), part / WEIGHTS, metadata={"format": "pt"})
        proof.write_proof(part / proof.FILE, proof.make(module, card.preprocess))
        if timm is not None:
            _write_json(part / "config.json", timm)
        _write_tokenizer(part, card)
        _write_text(part / "README.md", model_card(module.spec, card, notes))
        written = NativeFile(
            format=1,
            vitkit=vitkit.__version__,
            model=model_spec(module.spec),
            card=card,
            sha256={file.name: sha256_of(file) for file in sorted(part.iterdir()) if file.name != "README.md"},
        )
        _write_json(part / "vitkit.json", to_dict(written))
    return notes


def save_transformers(
    module: ImageModel, folder: str | os.PathLike[str], *, card: Card, overwrite: bool = False
) -> list[str]:
    """Writes a folder for the transformers class that computes the same; returns notes.

    Raises CheckpointError where there is none.
    """
    spec = module.spec
    dialect, reasons = _speaker("transformers", TRANSFORMERS, model_spec(spec))
    if dialect is None:
        raise CheckpointError("; ".join(reasons))
    config = transformers_config(dialect, spec, card)
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
    layout = LAYOUTS[dialect.layouts[0 if spec.num_classes else 1]]
    notes += [f"at other sizes transformers {difference}" for difference in _other_policies(layout, spec)]
    tensors = invert(layout.rules, _plain_state(module), spec, bound=layout.bound)
    with _writing(folder), new_folder(folder, overwrite=overwrite) as part:
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        _write_json(part / "config.json", config)
        if processor is not None:
            _write_json(part / "preprocessor_config.json", processor)
        _write_tokenizer(part, card)
    return notes


def save_timm(module: ImageModel, folder: str | os.PathLike[str], *, card: Card, overwrite: bool = False) -> list[str]:
    """Writes a folder for `timm.create_model("local-dir:...")`; returns notes.

    Raises CheckpointError where none of timm's classes computes the same, or its transforms have no words for the
    preprocessing.
    """
    spec = module.spec
    dialect, reasons = _speaker("timm", TIMM.values(), model_spec(spec))
    words = None if card.preprocess is None else to_timm(card.preprocess)
    if words is None:
        reasons.append("timm's transforms have no words for this preprocessing")
    if dialect is None or words is None:
        raise CheckpointError("; ".join(reasons))
    layout = LAYOUTS[dialect.layouts[0 if spec.num_classes else 1]]
    tensors = invert(layout.rules, _plain_state(module), spec, bound=layout.bound)
    with _writing(folder), new_folder(folder, overwrite=overwrite) as part:
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        _write_json(part / "config.json", timm_config(dialect, spec, card, words))
    return [f"at other sizes timm {difference}" for difference in _other_policies(layout, spec)]


def native_timm_config(spec: AnySpec, card: Card) -> tuple[dict[str, Any] | None, list[str]]:
    """timm's config.json that makes timm read the native folder as it is, or None and the reasons why it can't."""
    assert card.preprocess is not None
    # The native folder's tensors have our names: timm's classes that call them otherwise need `save_timm`.
    alike = [d for d in TIMM.values() if all(LAYOUTS[name].rules == NATIVE for name in d.layouts)]
    dialect, reasons = _speaker("timm", alike, model_spec(spec))
    other, others = _speaker("timm", TIMM.values(), model_spec(spec))
    if dialect is None:
        named = None if other is None else f"{other.name} has other names for its tensors; --to timm writes them"
        reasons = others if named is None else [named]
    words = to_timm(card.preprocess)
    if words is None:
        reasons.append("its transforms have no words for this preprocessing")
    if words is None or dialect is None:
        return None, [f"no config.json for timm: {reason}" for reason in reasons]
    return timm_config(dialect, spec, card, words), []


def timm_config(dialect: Dialect, spec: AnySpec, card: Card, words: dict[str, Any]) -> dict[str, Any]:
    """timm's config.json for exactly this model, `words` saying its preprocessing."""
    arguments = dialect.config(spec)
    # Any architecture of the class will do, since model_args says all sizes: the published one, else the nearest.
    names = [name for name, preset in PRESETS.items() if preset.timm == dialect.kind]
    return {
        "architecture": min(names, key=lambda name: _unlikeness(PRESETS[name].model.spec, spec)),
        "num_classes": spec.num_classes,
        "num_features": spec.feature_dim,
        **({"global_pool": arguments["global_pool"]} if "global_pool" in arguments else {}),
        **({"label_names": list(card.class_names)} if card.class_names else {}),
        "model_args": arguments,
        "pretrained_cfg": {
            **words,
            "fixed_input_size": not spec.any_size,
            "custom_load": False,
            "first_conv": dialect.first_conv,
            "classifier": dialect.classifier,
        },
    }


def transformers_config(dialect: Dialect, spec: AnySpec, card: Card) -> dict[str, Any]:
    """transformers' config.json for exactly this model, in a dialect that holds it."""
    config: dict[str, Any] = {
        "architectures": [dialect.classes[0 if spec.num_classes else 1]],
        "model_type": dialect.kind,
        **dialect.config(spec),
    }
    if spec.num_classes:
        names = card.class_names or tuple(f"LABEL_{index}" for index in range(spec.num_classes))
        config["id2label"] = {str(index): name for index, name in enumerate(names)}
        config["label2id"] = {name: index for index, name in enumerate(names)}
        if card.scores == "sigmoid":
            config["problem_type"] = "multi_label_classification"
    return config


def _other_policies(layout: Layout, spec: AnySpec) -> list[str]:
    """What the library of `layout` does at other sizes than the trained one, where `spec` says something else."""
    words = {entry.name: entry.metadata.get("policy") for entry in dataclasses.fields(spec)}
    return [
        f"{words[name]} {layout.implies[name]}, not {ours}"
        for name, ours in spec.policies.items()
        if layout.implies.get(name, ours) != ours
    ]


def _speaker(library: str, dialects: Iterable[Dialect], model: ModelSpec) -> tuple[Dialect | None, list[str]]:
    """The first dialect of a library that holds `model`; else None, and why the nearest one can't."""
    kin = [dialect for dialect in dialects if dialect.arch == model.arch]
    if not kin:
        return None, [f"{library} has no class for a {model.spec.title}"]
    dialect = min(kin, key=lambda one: (len(one.faults(model.spec)), len(one.unheld(model.spec))))
    reasons = dialect.faults(model.spec)
    return (dialect, []) if not reasons else (None, [f"{dialect.name} can't hold this model: {'; '.join(reasons)}"])


def model_card(spec: AnySpec, card: Card, notes: list[str]) -> str:
    """The folder's README.md: what it is, how to use it, where it comes from."""
    provenance = card.provenance
    licence = provenance.licence if provenance else None
    head = ["library_name: vitkit", "tags: [image-classification, vision-transformer, vitkit, timm]"]
    head += [f"license: {licence}"] if licence else []
    height, width = spec.image_size
    shape = f"{spec.facts()['encoder']}, pictures of {height}x{width}, {spec.facts()['head']}"
    lines = [
        "---",
        *head,
        "---",
        "",
        f"# {spec.title}",
        "",
        f"{spec.num_parameters():,} parameters: {shape}.",
        "",
        "```python",
        "import vitkit",
        "",
        'vit = vitkit.load("THIS FOLDER OR ITS HUB ID")',
        _first_call(spec),
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


def _first_call(spec: AnySpec) -> str:
    if spec.num_classes:
        return 'vit.classify("picture.jpg")'
    if spec.has_text:
        return 'vit.with_labels(["a cat", "a dog"]).classify("picture.jpg")'
    return 'vit.embed(["picture.jpg"])'


def _check_card(spec: AnySpec, card: Card) -> None:
    for name, entries in (("class_names", card.class_names), ("class_ids", card.class_ids)):
        if entries is not None and len(entries) != spec.num_classes:
            raise CheckpointError(f"{name} has {len(entries)} entries, the model {spec.num_classes} outputs")
    if card.preprocess is not None and card.preprocess.channels != spec.in_channels:
        raise CheckpointError(
            f"preprocess gives {card.preprocess.channels} channels, the model reads {spec.in_channels}"
        )


def _plain_state(module: ImageModel) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def _unlikeness(a: AnySpec, b: AnySpec) -> tuple[bool, int, int]:
    """Whether two models differ in what timm's arguments can't say, by how many parameters, in how many fields."""
    eps = [getattr(spec, "norm_eps", None) for spec in (a, b)]
    counts = [dataclasses.replace(spec, num_classes=0).num_parameters() for spec in (a, b)]
    return eps[0] != eps[1], abs(counts[0] - counts[1]), sum(getattr(a, name) != getattr(b, name) for name in vars(a))


def _write_tokenizer(folder: Path, card: Card) -> None:
    for name, content in card.tokenizer.items():
        (folder / name).write_bytes(content)


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
        raise CheckpointError(
            f"{os.fspath(folder)}: can't be written ({why_unwritten(error)}); nothing was left behind"
        ) from error
