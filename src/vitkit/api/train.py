"""train: pictures to a trained model in a run folder, from scratch or from a checkpoint, resumable at any moment."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vitkit
from vitkit.api.load import read_source
from vitkit.api.run_report import write_results
from vitkit.checkpoint.card import Card, Provenance
from vitkit.checkpoint.save import save_native
from vitkit.config import from_dict, to_dict
from vitkit.data.augment import Augmentation
from vitkit.data.loader import Loader
from vitkit.data.samples import Samples, Splits, open_data
from vitkit.data.split import split
from vitkit.data.store import make_store
from vitkit.device import has_native_bfloat16, pick_device
from vitkit.errors import ConfigError, list_faults
from vitkit.files import replace_file
from vitkit.image.preprocess import Preprocess
from vitkit.model.build import build
from vitkit.model.spec import ModelSpec
from vitkit.model.vit import VisionTransformer
from vitkit.training.loop import fit
from vitkit.training.objective import Classification
from vitkit.training.spec import TrainSpec, differences, read_recipe
from vitkit.training.starts import recipe_for, small_spec, spread_positions
from vitkit.training.state import Progress

__all__ = ["RunSpec", "TrainResult", "train"]

RUN_FILE = "run.json"
VAL_FRACTION = 0.2
"""Held out where the data has no such part of its own."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything a run is made from, as its folder keeps it: what a resumed run is compared with."""

    data: str
    model: str | None
    """The checkpoint started from; None for a new model."""
    preset: str | None
    revision: str | None
    val_fraction: float
    split_seed: int
    spec: ModelSpec
    preprocess: Preprocess
    class_names: tuple[str, ...]
    train: TrainSpec


@dataclass(frozen=True)
class TrainResult:
    """A finished run."""

    folder: Path
    model: Path
    """The native folder of the weights to use."""
    scores: Mapping[str, float]
    """Of those weights, after the last step, on the held-out pictures."""
    weights: str
    """"ema", the moving average of the weights, or "raw", the last ones."""
    seconds: float


def train(
    data: str | os.PathLike[str] | Samples | Splits | None = None,
    *,
    model: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    revision: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    recipe: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    val_fraction: float | None = None,
    split_seed: int | None = None,
    device: str | None = None,
    workers: int = 0,
    on_start: Callable[[RunSpec, Path], None] | None = None,
    on_step: Callable[[Progress, dict[str, float]], None] | None = None,
) -> TrainResult:
    """Trains a classifier on `data`: "digits", a folder of class folders (or of train/ and val/), a CSV, or Samples.

    `model` is a checkpoint to start from (as `load` takes it); without one a new small model is made. `settings` are
    fields of TrainSpec and go over `recipe` (TOML), which goes over the defaults that fit the start. `output` is the
    run's folder, runs/<name> unless said; `resume` is one to go on with, under the same settings. Raises DataError for
    the pictures, ConfigError for settings (each difference named on a resume), all before the first step.
    """
    if resume is not None:
        folder = Path(resume)
        run = _read_run(folder)
        data = run.data if data is None else data
        model = run.model if model is None else model
        preset = run.preset if preset is None else preset
        revision = run.revision if revision is None else revision
        image_size = run.spec.spec.image_size if image_size is None else image_size
        val_fraction = run.val_fraction if val_fraction is None else val_fraction
        split_seed = run.split_seed if split_seed is None else split_seed
    val_fraction = VAL_FRACTION if val_fraction is None else val_fraction
    split_seed = split_seed or 0
    if data is None:
        raise ConfigError("train needs pictures: a folder of class folders, a CSV, or 'digits'; or --resume RUN")
    target = pick_device(device)
    splits, data_name = _splits(data, val_fraction, split_seed)
    class_names = splits.train.class_names
    start, preprocess = _start(model, preset, revision, image_size, splits.train)
    table = read_recipe(Path(recipe)) if recipe is not None else {}
    # On a resume, what isn't said again stays as it was.
    base = recipe_for(from_checkpoint=model is not None, image_size=start.spec.image_size)
    spec = _resolve(run.train if resume is not None else base, table, dict(settings or {}), str(recipe))
    if spec.drop_path is not None:
        start = dataclasses.replace(start, spec=dataclasses.replace(start.spec, drop_path=spec.drop_path))
    wanted = RunSpec(
        data=data_name,
        model=None if model is None else os.fspath(model),
        preset=preset,
        revision=revision,
        val_fraction=val_fraction,
        split_seed=split_seed,
        spec=start,
        preprocess=preprocess,
        class_names=class_names,
        train=spec,
    )
    if resume is not None:
        changed = differences(run, wanted)
        if changed:
            raise ConfigError(f"{folder} was started otherwise: {list_faults(changed)}; leave that out, or start anew")
    else:
        folder = _new_run(output, data_name)
        _write_run(folder, wanted)
    if on_start is not None:
        on_start(wanted, folder)

    module = _module(model, preset, revision, image_size, start, spec)
    training = make_store(splits.train, preprocess, training=True)
    held_out = make_store(splits.val, preprocess, training=False)
    mix = dataclasses.replace(spec.mix, label_smoothing=spec.label_smoothing)
    loader = Loader(
        training,
        splits.train.labels,
        len(class_names),
        preprocess,
        batch_size=spec.batch_size,
        seed=spec.seed,
        shuffle=True,
        drop_last=True,
        augment=[Augmentation(spec.augment, training.size, preprocess.size)],
        mix=mix if mix.mixup or mix.cutmix else None,
        workers=workers,
        device=target,
    )
    evaluation = Loader(
        held_out, splits.val.labels, len(class_names), preprocess, batch_size=spec.batch_size, device=target
    )
    dtype = _dtype(spec, target)
    with loader, evaluation:
        fitted = fit(
            module,
            Classification(spec.label_smoothing),
            loader,
            functools.partial(evaluation.batches, 0, evaluation.steps_per_epoch) if spec.evaluate_every else None,
            spec,
            folder,
            device=target,
            dtype=dtype,
            on_step=on_step,
        )
    trained = fitted.model
    assert isinstance(trained, VisionTransformer)
    card = Card(
        preprocess=preprocess,
        class_names=class_names,
        provenance=Provenance(source=f"trained on {data_name}", layout="vitkit"),
    )
    settings_shown = to_dict(wanted)
    scores = write_results(folder, trained.cpu(), fitted.weights, card, settings_shown, splits.val, evaluation, loader)
    card = dataclasses.replace(card, metrics={f"held-out {name}": value for name, value in scores.items()})
    save_native(trained, folder / "model", card=card, overwrite=True)
    return TrainResult(folder, folder / "model", scores, fitted.weights, fitted.progress.seconds)


def _splits(data: str | os.PathLike[str] | Samples | Splits, val_fraction: float, seed: int) -> tuple[Splits, str]:
    opened = data if isinstance(data, Samples | Splits) else open_data(data)
    name = os.fspath(data) if isinstance(data, str | os.PathLike) else _name(opened)
    return (opened if isinstance(opened, Splits) else split(opened, val_fraction=val_fraction, seed=seed)), name


def _name(data: Samples | Splits) -> str:
    return data.name if isinstance(data, Samples) else data.train.name


def _start(
    model: str | os.PathLike[str] | None,
    preset: str | None,
    revision: str | None,
    image_size: int | tuple[int, int] | None,
    samples: Samples,
) -> tuple[ModelSpec, Preprocess]:
    """The model's spec and preprocessing: the checkpoint's for these classes, or those of a new small model."""
    if model is not None:
        found = read_source(
            model, revision=revision, preset=preset, num_classes=len(samples.class_names), image_size=image_size
        )
        if found.card.preprocess is None:
            raise ConfigError(f"{found.report.source}: its preprocessing is unknown; name one with --preset")
        return found.model, found.card.preprocess
    size, channels = _natural_size(samples)
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
    spec = small_spec(size, in_channels=channels, num_classes=len(samples.class_names))
    preprocess = Preprocess(
        size=size,
        resize="shortest" if size[0] == size[1] and max(size) > 16 else "squash",
        crop="center_round" if size[0] == size[1] and max(size) > 16 else "none",
        interpolation="bicubic",
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
    return ModelSpec(arch="vit", spec=spec), preprocess


def _natural_size(samples: Samples) -> tuple[tuple[int, int], int]:
    """Size and channels for a new model: those of arrays that are all alike, else 128x128 RGB."""
    first = samples.pictures[0]
    if isinstance(first, np.ndarray) and max(first.shape[:2]) <= 96:
        return (first.shape[0], first.shape[1]), first.shape[2]
    return (128, 128), 3


def _module(
    model: str | os.PathLike[str] | None,
    preset: str | None,
    revision: str | None,
    image_size: int | tuple[int, int] | None,
    start: ModelSpec,
    spec: TrainSpec,
) -> VisionTransformer:
    torch.manual_seed(spec.seed)
    fresh = build(start)
    if model is None:
        spread_positions(fresh)
        return fresh
    checkpoint = read_source(
        model, revision=revision, preset=preset, num_classes=start.spec.num_classes, image_size=image_size
    )
    fresh.load_state_dict(checkpoint.state)
    return fresh


def _resolve(base: TrainSpec, table: dict[str, Any], settings: dict[str, Any], recipe: str) -> TrainSpec:
    """default < recipe < flag."""
    content = to_dict(base)
    for origin, layer in ((recipe, table), ("settings", settings)):
        for name, value in layer.items():
            if isinstance(value, Mapping) and isinstance(content.get(name), dict):
                content[name] = {**content[name], **value}
            else:
                content[name] = value
        content = to_dict(from_dict(TrainSpec, content, origin=origin))
    return from_dict(TrainSpec, content, origin="settings")


def _dtype(spec: TrainSpec, device: torch.device) -> torch.dtype:
    if spec.dtype == "auto":
        return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[spec.dtype]


def _new_run(output: str | os.PathLike[str] | None, data_name: str) -> Path:
    if output is not None:
        folder = Path(output)
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"the run folder {folder} exists; go on with --resume {folder}, or choose another")
    else:
        stem = Path(data_name).stem or "run"
        number = 1
        while (folder := Path("runs") / f"{stem}-{number}").exists():
            number += 1
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_run(folder: Path, run: RunSpec) -> None:
    with replace_file(folder / RUN_FILE) as part:
        text = json.dumps({"vitkit": vitkit.__version__, "run": to_dict(run)}, indent=2)
        part.write_text(text + "\n", encoding="utf-8")


def _read_run(folder: Path) -> RunSpec:
    file = folder / RUN_FILE
    if not file.is_file():
        raise ConfigError(f"{folder} is no run to resume: it has no {RUN_FILE}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: can't be read ({error})") from None
    return from_dict(RunSpec, content.get("run"), origin=str(file))
