"""train: pictures to a trained model in a run folder, from scratch or from a checkpoint, resumable at any moment."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vitkit
from vitkit.api.load import read_source
from vitkit.api.objectives import find_objective
from vitkit.api.run_report import write_results
from vitkit.checkpoint.card import Card, Provenance
from vitkit.checkpoint.save import save_native
from vitkit.config import from_dict, to_dict
from vitkit.data.loader import Loader
from vitkit.data.samples import MapDataset, Samples, Splits, open_data, read_dataset
from vitkit.data.split import split
from vitkit.data.store import Store, make_store
from vitkit.device import has_native_bfloat16, keep_freed_memory, pick_device
from vitkit.errors import CheckpointError, ConfigError, DataError, list_faults
from vitkit.files import check_new_folder, new_folder, why_unwritten, writing
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel
from vitkit.model.build import build, model_spec
from vitkit.model.spec import AnySpec, ModelSpec
from vitkit.training.loop import fit
from vitkit.training.objective import Objective
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
    pictures: tuple[int, ...]
    """How many there are in train, val and, where there is one, test: pictures that came or went change a run."""
    train: TrainSpec


@dataclass(frozen=True)
class TrainResult:
    """A finished run."""

    folder: Path
    model: Path
    """The native folder of the weights to use."""
    scores: Mapping[str, float]
    """Of those weights, after the last step, on the held-out pictures."""
    test_scores: Mapping[str, float]
    """And on the test pictures, which nothing else reads; empty where the data has no test part."""
    weights: str
    """"ema", the moving average of the weights, or "raw", the last ones."""
    seconds: float


def train(
    data: str | os.PathLike[str] | Samples | Splits | MapDataset | None = None,
    *,
    model: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    revision: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    recipe: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    val_fraction: float | None = None,
    split_seed: int | None = None,
    device: str | None = None,
    workers: int = 0,
    on_read: Callable[[int, int], None] | None = None,
    on_start: Callable[[RunSpec, Path], None] | None = None,
    on_step: Callable[[Progress, dict[str, float]], None] | None = None,
) -> TrainResult:
    """Trains on `data`: "digits", a folder of class folders (or of train/ and val/ or test/), a CSV, or a Dataset.

    `model` is a checkpoint to start from (as `load` takes it); without one a new small model is made. `settings` are
    fields of TrainSpec and go over `recipe` (TOML), which goes over the defaults that fit the start. `output` is the
    run's folder, runs/<name> unless said; `resume` is one to go on with, under the same settings. Raises DataError for
    the pictures, ConfigError for settings (each difference named on a resume), all before the first step.
    """
    resumed = None if resume is None else _read_run(Path(resume))
    if resumed is not None:  # what isn't said again stays as it was
        data = resumed.data if data is None else data
        model = resumed.model if model is None else model
        preset = resumed.preset if preset is None else preset
        revision = resumed.revision if revision is None else revision
        image_size = resumed.spec.spec.image_size if image_size is None else image_size
        patch_size = getattr(resumed.spec.spec, "patch_size", None) if patch_size is None else patch_size
        val_fraction = resumed.val_fraction if val_fraction is None else val_fraction
        split_seed = resumed.split_seed if split_seed is None else split_seed
    val_fraction = VAL_FRACTION if val_fraction is None else val_fraction
    split_seed = split_seed or 0
    if data is None:
        raise ConfigError("train needs pictures: a folder of class folders, a CSV, or 'digits'; or --resume RUN")
    if output is not None:
        if resume is not None:
            raise ConfigError(f"a resumed run goes on in its own folder, {resume}; leave the output {output} out")
        _check_new_run(Path(output))
    target = pick_device(device)
    layers = [(str(recipe), read_recipe(Path(recipe)) if recipe is not None else {}), ("settings", settings or {})]
    spec = _resolve(TrainSpec() if resumed is None else resumed.train, layers)
    kind = find_objective(spec.objective)
    splits, data_name = _splits(data, val_fraction, split_seed)
    class_names = splits.train.class_names
    if resumed is None:  # only now is known which defaults fit
        size, _ = _natural_size(splits.train, image_size)
        spec = _resolve(kind.defaults(recipe_for(from_checkpoint=model is not None, image_size=size)), layers)
        _check_labels_are_read(kind, spec)
    num_classes = len(class_names) if kind.classifies else 0
    module, preprocess = _start(model, preset, revision, image_size, patch_size, splits.train, num_classes, spec)
    objective = kind.make(module, spec)
    run = RunSpec(
        data=data_name,
        model=None if model is None else os.fspath(model),
        preset=preset,
        revision=revision,
        val_fraction=val_fraction,
        split_seed=split_seed,
        spec=model_spec(module.spec),
        preprocess=preprocess,
        class_names=class_names,
        pictures=tuple(map(len, (splits.train, *splits.held_out()))),
        train=spec,
    )
    if resumed is not None and (changed := differences(resumed, run)):
        raise ConfigError(f"{resume} was started otherwise: {list_faults(changed)}; leave that out, or start anew")
    loader, evaluation, test = _loaders(splits, preprocess, spec, objective, workers, target, on_read)
    folder = _new_run(output, run) if resume is None else Path(resume)
    if on_start is not None:
        on_start(run, folder)

    if target.type == "cpu":
        keep_freed_memory()
    with loader, evaluation:
        fitted = fit(
            module,
            objective,
            loader,
            evaluation if spec.evaluate_every else None,
            spec,
            folder,
            device=target,
            dtype=_dtype(spec, target),
            on_step=on_step,
        )
    trained = fitted.model.cpu()
    assert isinstance(trained, ImageModel)
    card = Card(
        preprocess=preprocess,
        class_names=class_names if kind.classifies else None,
        provenance=Provenance(source=f"trained on {data_name}", layout="vitkit"),
    )
    try:
        scores, test_scores = write_results(
            folder,
            trained,
            objective.eval().cpu(),
            fitted.weights,
            card,
            to_dict(run),
            splits.train,
            evaluation,
            test,
            loader,
        )
        metrics = {f"held-out {name}": value for name, value in scores.items()}
        metrics |= {f"test {name}": value for name, value in test_scores.items()}
        save_native(trained, folder / "model", card=dataclasses.replace(card, metrics=metrics), overwrite=True)
    except (OSError, ConfigError, CheckpointError) as error:
        raise ConfigError(
            f"{folder}: the results can't be written ({why_unwritten(error)}); --resume {folder} makes them anew"
        ) from error
    return TrainResult(folder, folder / "model", scores, test_scores, fitted.weights, fitted.progress.seconds)


def _splits(
    data: str | os.PathLike[str] | Samples | Splits | MapDataset, val_fraction: float, seed: int
) -> tuple[Splits, str]:
    """The pictures to learn from and those held out, and a name for them all."""
    if isinstance(data, str | os.PathLike):
        return split(open_data(data), val_fraction=val_fraction, seed=seed), os.fspath(data)
    opened = data if isinstance(data, Samples | Splits) else read_dataset(data)
    name = opened.train.name if isinstance(opened, Splits) else opened.name
    return split(opened, val_fraction=val_fraction, seed=seed), name


def _check_labels_are_read(kind: type[Objective], spec: TrainSpec) -> None:
    wanted = {"label_smoothing": spec.label_smoothing, "mix.mixup": spec.mix.mixup, "mix.cutmix": spec.mix.cutmix}
    named = [f"{name} is {value}" for name, value in wanted.items() if value]
    if named and not kind.classifies:
        raise ConfigError(f"{list_faults(named)}: the objective {spec.objective!r} reads no labels; leave that out")


def _start(
    model: str | os.PathLike[str] | None,
    preset: str | None,
    revision: str | None,
    image_size: int | tuple[int, int] | None,
    patch_size: int | None,
    samples: Samples,
    num_classes: int,
    spec: TrainSpec,
) -> tuple[ImageModel, Preprocess]:
    """The model to train and its preprocessing: a checkpoint's, of whole pictures, or those of a new small model."""
    torch.manual_seed(spec.seed)
    if model is None:
        size, channels = _natural_size(samples, image_size)
        small = small_spec(size, in_channels=channels, num_classes=num_classes, patch_size=patch_size)
        module = _build(small, spec.drop_path)
        spread_positions(module)
        return module, _new_preprocess(size, channels)
    found = read_source(
        model,
        revision=revision,
        preset=preset,
        num_classes=num_classes,
        image_size=image_size,
        patch_size=patch_size,
    )
    if found.card.preprocess is None:
        raise ConfigError(f"{found.report.source}: its preprocessing is unknown; name one with --preset")
    module = _build(found.model.spec, spec.drop_path)
    module.load_state_dict(found.state)
    return module, _whole(found.card.preprocess)


def _whole(preprocess: Preprocess) -> Preprocess:
    """Without the margin that many checkpoints cut off: what one's own pictures show may reach to the edge."""
    return preprocess if preprocess.resize == "none" else dataclasses.replace(preprocess, resize_size=preprocess.size)


def _build(spec: AnySpec, drop_path: float | None) -> ImageModel:
    return build(model_spec(spec if drop_path is None else dataclasses.replace(spec, drop_path=drop_path)))


def _natural_size(samples: Samples, image_size: int | tuple[int, int] | None) -> tuple[tuple[int, int], int]:
    """Size and channels for a new model: those of small arrays, else 128x128 RGB; `image_size` has the last word.

    RGBA arrays become RGB, as pictures with alpha do; arrays of other channels keep them.
    """
    first = samples.pictures[0]
    size, channels = (128, 128), 3
    if isinstance(first, np.ndarray):
        channels = 1 if first.ndim == 2 else first.shape[2] if first.shape[2] != 4 else 3
        if max(first.shape[:2]) <= 96:
            size = first.shape[0], first.shape[1]
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return size, channels


def _new_preprocess(size: tuple[int, int], channels: int) -> Preprocess:
    """Of a new model: photos are cropped to a square, small figures keep all their pixels."""
    cropped = size[0] == size[1] and max(size) > 16
    return Preprocess(
        size=size,
        resize="shortest" if cropped else "squash",
        crop="center_round" if cropped else "none",
        interpolation="bicubic",
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )


def _loaders(
    splits: Splits,
    preprocess: Preprocess,
    spec: TrainSpec,
    objective: Objective,
    workers: int,
    device: torch.device,
    on_read: Callable[[int, int], None] | None,
) -> tuple[Loader, Loader, Loader | None]:
    """The training pictures as the objective wants to see them, the held-out ones and those for the test as they are.

    Raises DataError that names those of any part that can't be read.
    """
    num_classes = splits.train.num_classes
    training, *held_out = _stores(splits, preprocess, on_read)
    mix = dataclasses.replace(spec.mix, label_smoothing=spec.label_smoothing)
    loader = Loader(
        training,
        splits.train.labels,
        num_classes,
        preprocess,
        batch_size=spec.batch_size,
        seed=spec.seed,
        shuffle=True,
        drop_last=True,
        augment=objective.views(spec.augment, training.size, preprocess.size),
        mix=mix if mix.mixup or mix.cutmix else None,
        workers=workers,
        device=device,
    )
    evaluation, *test = (
        Loader(store, part.labels, num_classes, preprocess, batch_size=spec.batch_size, device=device)
        for store, part in zip(held_out, splits.held_out(), strict=True)
    )
    return loader, evaluation, test[0] if test else None


def _stores(splits: Splits, preprocess: Preprocess, on_read: Callable[[int, int], None] | None) -> list[Store]:
    stores, faults = [], []
    for part in (splits.train, *splits.held_out()):
        try:
            stores.append(make_store(part, preprocess, training=part is splits.train, on_progress=on_read))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError(list_faults(faults))
    return stores


def _resolve(base: TrainSpec, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> TrainSpec:
    """`base` under the layers, each an origin and its settings; ConfigError names the origin of what isn't allowed."""
    spec, content = base, to_dict(base)
    for origin, layer in layers:
        for name, value in layer.items():
            if isinstance(value, Mapping) and isinstance(content.get(name), dict):
                content[name] = {**content[name], **value}
            else:
                content[name] = value
        spec = from_dict(TrainSpec, content, origin=origin)
        content = to_dict(spec)
    return spec


def _dtype(spec: TrainSpec, device: torch.device) -> torch.dtype:
    if spec.dtype == "auto":
        return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[spec.dtype]


def _check_new_run(folder: Path) -> None:
    """Raises ConfigError before any work where `_new_run` would after it."""
    if (folder / RUN_FILE).exists():
        raise ConfigError(f"the run {folder} exists; go on with --resume {folder}, or choose another folder")
    check_new_folder(folder)


def _new_run(output: str | os.PathLike[str] | None, run: RunSpec) -> Path:
    """Makes the run's folder with its settings in it, whole or not at all."""
    if output is not None:
        folder = Path(output)
    else:
        stem = Path(run.data).stem or "run"
        numbered = (Path("runs") / f"{stem}-{number}" for number in itertools.count(1))
        folder = next(path for path in numbered if not path.exists())
    content = json.dumps({"vitkit": vitkit.__version__, "run": to_dict(run)}, indent=2)
    with writing(folder), new_folder(folder) as part:
        (part / RUN_FILE).write_text(content + "\n", encoding="utf-8")
    return folder


def _read_run(folder: Path) -> RunSpec:
    file = folder / RUN_FILE
    if not file.is_file():
        raise ConfigError(f"{folder} is no run to resume: it has no {RUN_FILE}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: can't be read ({error})") from None
    return from_dict(RunSpec, content.get("run") if isinstance(content, dict) else content, origin=str(file))
