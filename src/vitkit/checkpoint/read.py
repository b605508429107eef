"""From a folder or file on disk to a Checkpoint: our tensors under our names, the spec, the card, and a report.

Loading fails closed: what isn't complete and consistent is an error that names every fault, and nothing is guessed from
a file's name.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitkit.checkpoint.card import Card, Provenance, imagenet1k
from vitkit.checkpoint.families import LAYOUTS
from vitkit.checkpoint.identify import (
    layout_of,
    outputs_of,
    presets_that_fit,
    spec_from_openclip,
    spec_from_timm,
    spec_from_transformers,
)
from vitkit.checkpoint.namemap import Mapped, Rule, apply
from vitkit.checkpoint.presets import Preset, find_preset
from vitkit.checkpoint.weights import find_weights, read_json, read_tensors, read_weights
from vitkit.config import from_dict
from vitkit.errors import CheckpointError, ConfigError, list_faults
from vitkit.files import sha256_of
from vitkit.image.preprocess import Preprocess
from vitkit.image.sources import from_openclip, from_timm, from_transformers
from vitkit.model.base import ImageModel
from vitkit.model.build import build_empty, model_spec
from vitkit.model.spec import SPECS, ModelSpec
from vitkit.text.tokenizer import tokenizer_files

__all__ = ["Checkpoint", "Difference", "NativeFile", "Report", "read"]


@dataclass(frozen=True, kw_only=True)
class NativeFile:
    """The content of `vitkit.json`."""

    format: int
    vitkit: str
    """Version that wrote the folder."""
    model: ModelSpec
    card: Card
    sha256: Mapping[str, str]
    """Digests of the folder's other files."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting that libraries don't agree on for the same weights, in words; None where it isn't known."""

    setting: str
    """A field of the spec or of the preprocessing."""
    in_force: str | None
    timm: str | None = None
    hf: str | None = None
    original: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was read from where, for people."""

    source: str
    layout: str
    weights: tuple[str, ...]
    origins: Mapping[str, str]
    """Part of the checkpoint (model, preprocess, class_names, ...) to the file or preset that said it."""
    filled: Mapping[str, tuple[str, ...]]
    """The model's tensors, and those of the file that each was made of."""
    dropped: Mapping[str, str]
    """Tensors left out on purpose, and why."""
    notes: tuple[str, ...] = ()
    published: str | None = None
    """A Hub id of the published weights that these are, or are like."""
    original: str | None = None
    """The repository of their authors' code."""
    differences: tuple[Difference, ...] = ()
    """Where libraries differ over these weights, as they were read."""

    @property
    def used(self) -> int:
        """Number of the file's tensors that fill the model."""
        return len({name for names in self.filled.values() for name in names})

    @property
    def renamed(self) -> Mapping[str, tuple[str, ...]]:
        """What in `filled` has another name here, is a part of the file's tensor or joins several."""
        return {ours: theirs for ours, theirs in self.filled.items() if theirs != (ours,)}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model on disk, read completely: spec, state under our names, card, report."""

    model: ModelSpec
    state: dict[str, Tensor]
    card: Card
    report: Report
    folder: Path | None = None
    """Where its proof may lie: the folder read, None for a bare file."""

    def with_preprocess(self, preprocess: Preprocess) -> Checkpoint:
        """The same weights, fed by other preprocessing than their own, as the caller says."""
        report = dataclasses.replace(self.report, origins={**self.report.origins, "preprocess": "the caller"})
        return dataclasses.replace(self, card=dataclasses.replace(self.card, preprocess=preprocess), report=report)

    def module(self, *, dtype: torch.dtype = torch.float32) -> ImageModel:
        """The module with these weights, in eval mode on the CPU, its `.card` set."""
        module = build_empty(self.model)
        state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in self.state.items()}
        module.load_state_dict(state, strict=True, assign=True)
        module.card = self.card
        return module.eval()


@dataclass(frozen=True, kw_only=True)
class _Description:
    """What a source's own configuration says, before its tensors are looked at."""

    model: ModelSpec
    layout: str
    card: Card
    origins: dict[str, str] = field(default_factory=dict)


def read(
    path: Path,
    *,
    source: str | None = None,
    preset: str | None = None,
    num_classes: int | None = None,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Reads a native, transformers or timm folder, or one weight file whose spec is the preset's.

    `source` is what the checkpoint is called in reports and errors. `preset` gives what the files don't say and never
    overrules them. `num_classes` names the head a bare file is expected to have, where it isn't the preset's.
    """
    origin = source or str(path)
    chosen = find_preset(preset) if preset else None
    if path.is_dir():
        folder: Path | None = path
        files = find_weights(path, allow_pickle=allow_pickle)
    elif path.is_file():
        folder, files = None, [path]
    else:
        raise CheckpointError(f"{origin}: no such file or folder")
    if folder is not None and (folder / "vitkit.json").is_file():
        return _read_native(folder, files, origin)
    tensors, notes = read_weights(files, allow_pickle=allow_pickle)
    layout = layout_of(tensors, origin=origin)
    tensors = LAYOUTS[layout].unstacked(tensors)
    config = read_json(folder / "config.json") if folder is not None and (folder / "config.json").is_file() else None
    openclip = None if folder is None else folder / "open_clip_config.json"
    if openclip is not None and openclip.is_file() and layout.startswith(("openai/", "openclip/")):
        with _sane(f"{origin}: {openclip.name}"):
            described = _describe_openclip(read_json(openclip), layout, f"{origin}: {openclip.name}")
    elif config is not None and "architecture" in config:
        with _sane(f"{origin}: config.json"):
            described = _describe_timm(config, layout, origin)
    elif folder is not None and config is not None and "model_type" in config:
        with _sane(f"{origin}: config.json or preprocessor_config.json"):
            described = _describe_transformers(folder, config, tensors, layout, origin)
    elif chosen is not None and preset is not None:
        described = _describe_bare(chosen, preset, tensors, layout, num_classes, origin)
    else:
        fits = presets_that_fit(tensors, layout)
        advice = f"its shapes fit {' or '.join(fits)}" if fits else "list: vitkit models"
        what = "a bare weight file" if folder is None else "a folder with neither vitkit.json nor a known config.json"
        raise CheckpointError(f"{origin}: {what}; name what it is with --preset NAME (preset=...); {advice}")
    if chosen is not None and preset is not None and described.card.preprocess is None:
        card = dataclasses.replace(described.card, preprocess=chosen.preprocess)
        described = dataclasses.replace(
            described, card=card, origins=described.origins | {"preprocess": f"preset {preset}"}
        )
    return _finish(described, tensors, files, folder, origin, notes)


@contextlib.contextmanager
def _sane(origin: str) -> Iterator[None]:
    """Turns what values of a wrong type raise, wherever they are used, into a CheckpointError that names the file."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise CheckpointError(f"{origin}: a value has the wrong type ({error}); fetch the file again") from error


def _finish(
    described: _Description,
    tensors: Mapping[str, Tensor],
    files: list[Path],
    folder: Path | None,
    origin: str,
    notes: tuple[str, ...] = (),
) -> Checkpoint:
    model, card = described.model, described.card
    if model.spec.any_size and card.preprocess is not None:
        model = dataclasses.replace(model, spec=dataclasses.replace(model.spec, image_size=card.preprocess.size))
    mapped = _map(model, described.layout, tensors, origin)
    if card.class_names is not None and len(card.class_names) != model.spec.num_classes:
        raise CheckpointError(
            f"{origin}: {len(card.class_names)} class names for {model.spec.num_classes} outputs "
            f"({described.origins.get('class_names')})"
        )
    origins = dict(described.origins)
    if folder is not None and model.spec.has_text:
        names = tokenizer_files([file.name for file in folder.iterdir()])
        card = dataclasses.replace(card, tokenizer={name: (folder / name).read_bytes() for name in names})
        origins |= {"tokenizer": names[0]} if names else {}
    if card.provenance is None:
        card = dataclasses.replace(card, provenance=Provenance(source=origin, layout=described.layout))
    report = Report(
        source=origin,
        layout=described.layout,
        weights=tuple(file.name for file in files),
        origins=origins,
        filled=mapped.filled,
        dropped=mapped.dropped,
        notes=notes,
    )
    return Checkpoint(model=model, state=mapped.state, card=card, report=report, folder=folder)


NATIVE = (Rule("{name}", "{name}"),)


def _map(model: ModelSpec, layout: str, tensors: Mapping[str, Tensor], origin: str) -> Mapped:
    expected = {name: tensor.shape for name, tensor in build_empty(model).state_dict().items()}
    rules = NATIVE if layout == "native" else LAYOUTS[layout].rules
    return apply(rules, tensors, model.spec, expected, origin=origin)


def _read_native(folder: Path, files: list[Path], origin: str) -> Checkpoint:
    written = from_dict(NativeFile, read_json(folder / "vitkit.json"), origin=f"{origin}: vitkit.json")
    # Hashing releases the GIL: the digests are made while the tensors are read.
    with ThreadPoolExecutor(max_workers=2) as pool:
        digests = {name: pool.submit(sha256_of, folder / name) for name in written.sha256 if (folder / name).is_file()}
        tensors = read_tensors(files)
    changed = [n for n, digest in written.sha256.items() if n not in digests or digests[n].result() != digest]
    if changed:
        raise CheckpointError(
            f"{origin}: files missing or changed since they were written: {list_faults(changed)}; copy the folder again"
        )
    described = _Description(
        model=written.model,
        layout="native",
        card=written.card,
        origins=dict.fromkeys(("model", "preprocess", "class_names"), "vitkit.json"),
    )
    return _finish(described, tensors, files, folder, origin)


def _describe_timm(config: Mapping[str, Any], layout: str, origin: str) -> _Description:
    spec = spec_from_timm(config, origin=f"{origin}: config.json")
    published = config.get("pretrained_cfg", config)
    origins = {"model": "config.json", "preprocess": "config.json"}
    try:
        preprocess = from_timm({**published, "input_size": (spec.in_channels, *spec.image_size)})
    except ConfigError as error:
        raise CheckpointError(f"{origin}: config.json: {error}") from None
    names = config.get("label_names") or published.get("label_names")
    card = Card(
        preprocess=preprocess,
        class_names=tuple(names) if names else None,
        provenance=Provenance(source=origin, layout=layout, licence=published.get("license")),
    )
    if names:
        origins["class_names"] = "config.json"
    elif spec.num_classes == 1000 and str(published.get("tag") or "").endswith("in1k"):
        card = _with_imagenet1k(card)
        origins["class_names"] = "ImageNet-1k, as pretrained_cfg.tag says"
    return _Description(model=model_spec(spec), layout=layout, card=card, origins=origins)


def _describe_openclip(config: Mapping[str, Any], layout: str, origin: str) -> _Description:
    spec = spec_from_openclip(config["model_cfg"], origin=origin)
    try:
        preprocess = from_openclip(config.get("preprocess_cfg") or {}, spec.image_size)
    except ConfigError as error:
        raise CheckpointError(f"{origin}: {error}") from None
    origins = dict.fromkeys(("model", "preprocess"), "open_clip_config.json")
    return _Description(model=model_spec(spec), layout=layout, card=Card(preprocess=preprocess), origins=origins)


def _describe_transformers(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], layout: str, origin: str
) -> _Description:
    outputs = outputs_of(tensors, layout)
    spec = spec_from_transformers(config, outputs, arch=LAYOUTS[layout].arch, origin=f"{origin}: config.json")
    origins = {"model": "config.json"}
    preprocess = None
    name, processor = _image_processor(folder)
    if processor is not None:
        origins["preprocess"] = name
        try:
            preprocess = from_transformers(processor, model_type=config["model_type"])
        except ConfigError as error:
            raise CheckpointError(f"{origin}: {name}: {error}") from None
    names = config.get("id2label") if outputs.num_classes else None
    class_names = None
    if names:
        by_index = {int(index): str(name) for index, name in names.items()}
        if sorted(by_index) != list(range(len(by_index))):
            raise CheckpointError(f"{origin}: config.json: id2label doesn't count from 0 to {len(by_index) - 1}")
        # LABEL_0, LABEL_1, ... is what transformers writes when nobody said what the classes are.
        if any(name != f"LABEL_{index}" for index, name in by_index.items()):
            class_names = tuple(by_index[index] for index in range(len(by_index)))
            origins["class_names"] = "config.json"
    multi_label = config.get("problem_type") == "multi_label_classification"
    card = Card(preprocess=preprocess, class_names=class_names, scores="sigmoid" if multi_label else "softmax")
    if class_names == imagenet1k()[1]:
        card = _with_imagenet1k(card)
    return _Description(model=model_spec(spec), layout=layout, card=card, origins=origins)


def _image_processor(folder: Path) -> tuple[str, dict[str, Any] | None]:
    """The file that configures the image processor, and what it says, in transformers' order."""
    both, alone = "processor_config.json", "preprocessor_config.json"
    if (folder / both).is_file() and "image_processor" in (said := read_json(folder / both)):
        return both, said["image_processor"]
    return alone, read_json(folder / alone) if (folder / alone).is_file() else None


def _describe_bare(
    preset: Preset, name: str, tensors: Mapping[str, Tensor], layout: str, num_classes: int | None, origin: str
) -> _Description:
    outputs = outputs_of(tensors, layout)
    arch, spec = LAYOUTS[layout].arch, preset.model.spec
    if arch != preset.model.arch:
        raise CheckpointError(
            f"{origin}: preset {name} is a {spec.title}, the file's tensors are of a {SPECS[arch].title}; "
            "list: vitkit models"
        )
    fields: dict[str, Any] = {"pre_logits_dim": outputs.pre_logits_dim} if outputs.pre_logits_dim else {}
    # Our names are many libraries': of a file that has them, the preset says whose it is.
    if LAYOUTS[layout].rules != NATIVE:
        fields |= LAYOUTS[layout].implies
    spec = dataclasses.replace(spec, **fields)
    # Said explicitly, another class count is no fault: the file's own head is read (and replaced later if it differs).
    if num_classes is not None:
        spec = dataclasses.replace(spec, num_classes=outputs.num_classes)
    origins = {"model": f"preset {name}", "preprocess": f"preset {name}"}
    card = Card(preprocess=preset.preprocess)
    if preset.imagenet1k and spec.num_classes == preset.model.spec.num_classes:
        card = _with_imagenet1k(card)
        origins["class_names"] = "ImageNet-1k, as the preset says"
    return _Description(model=model_spec(spec), layout=layout, card=card, origins=origins)


def _with_imagenet1k(card: Card) -> Card:
    class_ids, class_names = imagenet1k()
    return dataclasses.replace(card, class_ids=class_ids, class_names=class_names)
