"""train: pictures to a trained model in a run folder, from scratch or from a checkpoint, resumable at any moment."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitkit.api.baseline import Baseline, keep_baseline
from vitkit.api.batch_size import choose_batch_size, split_auto
from vitkit.api.loaders import make_loaders
from vitkit.api.objectives import find_objective
from vitkit.api.run_report import write_results
from vitkit.api.runs import RunSpec, check_new_run, new_run, read_run
from vitkit.api.starts import check_early_size, find_start, natural_size, start_model
from vitkit.api.teachers import open_teacher
from vitkit.checkpoint.card import Card, Provenance
from vitkit.checkpoint.save import save_native
from vitkit.config import from_dict, to_dict
from vitkit.data.augment import named_augment
from vitkit.data.doctor import first_look
from vitkit.data.readable import leave_out_unreadable
from vitkit.data.samples import MapDataset, Samples, Splits
from vitkit.data.sources.dataset import read_dataset
from vitkit.data.sources.open import open_data
from vitkit.data.split import split, thin
from vitkit.device import has_native_bfloat16, keep_freed_memory, pick_device, share_machine
from vitkit.errors import CheckpointError, ConfigError, list_faults
from vitkit.files import why_unwritten
from vitkit.model.base import ImageModel
from vitkit.model.build import model_spec
from vitkit.model.lora import merge_lora
from vitkit.training.boards import check_boards, open_boards
from vitkit.training.distillation import Distillation, check_distilling
from vitkit.training.loop import fit
from vitkit.training.memory import MemoryPlan
from vitkit.training.objective import Objective
from vitkit.training.optim import build_optimizer, suited_to
from vitkit.training.processes import Processes, joined
from vitkit.training.recipes import Recipe, read_recipe
from vitkit.training.sharing import unevenly_drawn
from vitkit.training.spec import TrainSpec, differences
from vitkit.training.starts import recipe_for
from vitkit.training.state import Progress
from vitkit.training.tune import check_tuning

__all__ = ["TrainResult", "train"]

logger = logging.getLogger("vitkit")

VAL_FRACTION = 0.2
"""Held out where the data has no such part of its own."""


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


@joined()
def train(
    data: str | os.PathLike[str] | Samples | Splits | MapDataset | None = None,
    *,
    model: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    revision: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    value_range: tuple[float, float] | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    recipe: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    train_fraction: float | None = None,
    val_fraction: float | None = None,
    split_seed: int | None = None,
    bad_files: str | None = None,
    device: str | None = None,
    workers: int = 0,
    shard: bool = False,
    baseline: bool = True,
    log_to: Sequence[str] | None = None,
    on_read: Callable[[int, int], None] | None = None,
    on_memory_plan: Callable[[MemoryPlan], None] | None = None,
    on_start: Callable[[RunSpec, Path], None] | None = None,
    on_baseline: Callable[[Baseline], None] | None = None,
    on_step: Callable[[Progress, dict[str, float]], None] | None = None,
) -> TrainResult:
    """Trains on `data`: "digits", a folder of class folders (or of train/ and val/ or test/), a table, or a Dataset.

    `model` is a checkpoint to start from (as `load` takes it); without one a new model is made: a small one, or of the
    shape of `preset`. `settings` are fields of TrainSpec and go over `recipe` (TOML, or the name of one that comes
    along), which goes over the defaults that fit the start; a `batch_size` of "auto" is the largest that fits, told to
    `on_memory_plan`. `output` is the run's folder, runs/<name> unless said;
    `resume` is one to go on with, under the same settings. `value_range` is what pictures of more than 8 bits are read
    in, all that they hold unless said; `train_fraction` the part of the training pictures to learn from. The `baseline`
    comes first, in a minute at most: what the start's features say already; not where evaluate_every is 0, since it
    reads the held-out pictures. `log_to` names boards to show the log on: "tensorboard", "trackio". Where `torchrun`
    started several processes, all call this alike: each computes its part of every batch, with `shard` also holding a
    part of the weights, and the first one writes and talks. Pictures that can't be read are left out and named where
    `bad_files` is "skip". Raises DataError for the pictures, ConfigError for settings (each difference named on a
    resume), all before the first step.
    """
    processes = Processes.here(sharded=shard)
    if not processes.first:
        on_read = on_memory_plan = on_start = on_baseline = on_step = None
    resumed = None if resume is None else processes.on_first(lambda: read_run(Path(resume)))
    chosen = "" if resumed is None else resumed.chosen
    if resumed is not None:  # what isn't said again stays as it was
        data = resumed.data if data is None else data
        value_range = resumed.preprocess.value_range if value_range is None else value_range
        train_fraction = resumed.train_fraction if train_fraction is None else train_fraction
        val_fraction = resumed.val_fraction if val_fraction is None else val_fraction
        split_seed = resumed.split_seed if split_seed is None else split_seed
        log_to = resumed.log_to if log_to is None else log_to
        bad_files = resumed.bad_files if bad_files is None else bad_files
    val_fraction = VAL_FRACTION if val_fraction is None else val_fraction
    split_seed = split_seed or 0
    bad_files = bad_files or "fail"
    if bad_files not in ("fail", "skip"):
        raise ConfigError(f"bad_files is {bad_files!r}; allowed: fail, skip")
    if data is None:
        raise ConfigError("train needs pictures: a folder of class folders, a table, or 'digits'; or --resume RUN")
    if output is not None:
        if resume is not None:
            raise ConfigError(f"a resumed run goes on in its own folder, {resume}; leave the output {output} out")
        processes.on_first(lambda: check_new_run(Path(output)))
    check_boards(log_to or ())
    target = pick_device(device)
    told = Recipe("no recipe") if recipe is None else read_recipe(recipe)
    said = [(told.origin, told.settings), ("settings", settings or {})]
    layers, automatic, rate_said = split_auto(said)
    start = find_start(model, preset, revision, image_size, patch_size, told, resumed)
    spec = _resolve(TrainSpec() if resumed is None else resumed.train, layers)
    kind = find_objective(spec.objective)
    splits, data_name, left_out = _splits(data, val_fraction, split_seed, skip_bad=bad_files == "skip")
    if train_fraction is not None:
        splits = dataclasses.replace(splits, train=thin(splits.train, train_fraction, seed=split_seed))
    class_names = splits.train.class_names
    if resumed is None:  # only now is known which defaults fit
        size, _ = natural_size(splits.train, start.image_size)
        usual, chosen = recipe_for(
            from_checkpoint=start.model is not None, image_size=size, pictures=len(splits.train), tune=spec.tune
        )
        fitting = kind.defaults(usual, splits.train)
        spec = _resolve(suited_to(spec.optimizer, fitting), layers)
        _check_labels_are_read(kind, spec)
        check_distilling(spec)
        check_tuning(spec, from_checkpoint=start.model is not None)
    num_classes = len(class_names) if kind.classifies else 0
    module, preprocess = start_model(start, value_range, splits.train, num_classes, spec)
    check_early_size(module, spec)
    objective, teacher = kind.make(module, spec, splits.train), None
    if isinstance(objective, Distillation) and spec.distill.teacher is not None:
        objective.teacher, teacher = open_teacher(spec.distill.teacher, class_names, preprocess, target)
    build_optimizer(module, objective, spec)  # so that its faults come before the pictures are read
    dtype = _dtype(spec, target)
    if automatic and resumed is None:
        asked, count = spec, processes.count
        spec, plan = processes.on_first(
            lambda: choose_batch_size(
                module, objective, splits, preprocess, asked, rate_said, count, device=target, dtype=dtype
            )
        )
        if on_memory_plan is not None:
            on_memory_plan(plan)
    run = RunSpec(
        data=data_name,
        model=start.model,
        preset=start.preset,
        revision=start.revision,
        train_fraction=train_fraction,
        val_fraction=val_fraction,
        split_seed=split_seed,
        spec=model_spec(module.spec),
        preprocess=preprocess,
        class_names=class_names,
        pictures=tuple(map(len, (splits.train, *splits.held_out()))),
        chosen=chosen,
        bad_files=bad_files,
        left_out=left_out,
        train=spec,
        teacher=teacher,
        log_to=tuple(log_to or ()),
    )
    if resumed is not None and (changed := differences(dataclasses.replace(resumed, log_to=run.log_to), run)):
        raise ConfigError(f"{resume} was started otherwise: {list_faults(changed)}; leave that out, or start anew")
    threads = share_machine(target)
    with processes.together():
        loader, evaluation, test = make_loaders(
            splits, preprocess, spec, objective, workers, target, processes, on_read
        )
    folder = processes.on_first(lambda: new_run(output, run)) if resume is None else Path(resume)
    if on_start is not None:
        on_start(run, folder)

    if processes.first:
        _tell_slices(processes, spec, module, threads, workers)
    if target.type == "cpu":
        keep_freed_memory()
    if isinstance(objective, Distillation) and spec.distill.cache:
        loader = loader.with_answers(objective.all_answers(loader, on_read))
    with loader, evaluation:
        if baseline and kind.classifies and spec.evaluate_every:
            learned = module if start.model is not None else None
            found = processes.on_first(
                lambda: keep_baseline(folder, learned, loader, evaluation, num_classes, spec, target, dtype)
            )
            if on_baseline is not None:
                on_baseline(found)
        fitted = fit(
            module,
            objective,
            loader,
            evaluation if spec.evaluate_every else None,
            spec,
            folder,
            device=target,
            dtype=dtype,
            processes=processes,
            boards=open_boards(run.log_to, folder, to_dict(run)) if processes.first else (),
            on_step=on_step,
        )

    def conclude() -> tuple[dict[str, float], dict[str, float]]:
        trained = fitted.model.cpu()
        assert isinstance(trained, ImageModel)
        merge_lora(trained)
        card = Card(
            preprocess=preprocess,
            class_names=class_names if kind.classifies else None,
            scores="sigmoid" if objective.per_class else "softmax",
            provenance=Provenance(source=f"trained on {data_name}", layout="vitkit"),
        )
        try:
            scores, test_scores = write_results(
                folder,
                trained,
                fitted.objective.eval().cpu(),
                fitted.weights,
                card,
                to_dict(run),
                splits,
                evaluation,
                test,
                loader,
            )
            metrics = {f"held-out {name}": value for name, value in scores.items()}
            metrics |= {f"test {name}": value for name, value in test_scores.items()}
            save_native(trained, folder / "model", card=dataclasses.replace(card, metrics=metrics), overwrite=True)
            return scores, test_scores
        except (OSError, ConfigError, CheckpointError) as error:
            raise ConfigError(
                f"{folder}: the results can't be written ({why_unwritten(error)}); --resume {folder} makes them anew"
            ) from error

    scores, test_scores = processes.on_first(conclude)
    return TrainResult(folder, folder / "model", scores, test_scores, fitted.weights, fitted.progress.seconds)


def _tell_slices(processes: Processes, spec: TrainSpec, model: nn.Module, threads: int, workers: int) -> None:
    """Who computes, and what isn't the same because batches are cut into slices."""
    if processes.count > 1:
        kind = "FSDP2" if processes.sharded else "DDP"
        logger.warning("%d processes (%s) of %d threads, %d workers each", processes.count, kind, threads, workers)
    if processes.count * spec.accumulate > 1 and (uneven := unevenly_drawn(model)):
        logger.warning(
            "%s: each slice of a batch has its own; with other --accumulate or processes, results differ by more than "
            "rounding",
            " and ".join(uneven),
        )


def _splits(
    data: str | os.PathLike[str] | Samples | Splits | MapDataset, val_fraction: float, seed: int, *, skip_bad: bool
) -> tuple[Splits, str, tuple[str, ...]]:
    """The pictures to learn from and those held out, a name for them all, and the bad files that were left out."""
    if isinstance(data, str | os.PathLike):
        opened, name = open_data(data), os.fspath(data)
    else:
        opened = data if isinstance(data, Samples | Splits) else read_dataset(data)
        name = opened.train.name if isinstance(opened, Splits) else opened.name
    opened, left_out = leave_out_unreadable(opened) if skip_bad else (opened, ())
    first_look.warn(opened)
    return split(opened, val_fraction=val_fraction, seed=seed), name, left_out


def _check_labels_are_read(kind: type[Objective], spec: TrainSpec) -> None:
    plain = TrainSpec()
    wanted = {
        "label_smoothing": spec.label_smoothing,
        "mix.mixup": spec.mix.mixup,
        "mix.cutmix": spec.mix.cutmix,
        "class_weights": spec.class_weights,
        "loss": spec.loss if spec.loss != plain.loss else None,
        "sampling": spec.sampling if spec.sampling != plain.sampling else None,
    }
    named = [f"{name} is {value}" for name, value in wanted.items() if value]
    if named and not kind.classifies:
        raise ConfigError(f"{list_faults(named)}: the objective {spec.objective!r} reads no labels; leave that out")


def _resolve(base: TrainSpec, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> TrainSpec:
    """`base` under the layers, each an origin and its settings; ConfigError names the origin of what isn't allowed."""
    spec, content = base, to_dict(base)
    for origin, layer in layers:
        for name, value in layer.items():
            if name == "augment":
                value = _augment_table(value, origin)
            if isinstance(value, Mapping) and isinstance(content.get(name), dict):
                content[name] = {**content[name], **value}
            else:
                content[name] = value
        spec = from_dict(TrainSpec, content, origin=origin)
        content = to_dict(spec)
    return spec


def _augment_table(value: Any, origin: str) -> Any:
    """The fields that a name of AUGMENTS stands for, and those beside it where it is the entry "name" of a table."""
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        return value
    try:
        start = to_dict(named_augment(table["name"]))
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    return {**start, **{name: entry for name, entry in table.items() if name != "name"}}


def _dtype(spec: TrainSpec, device: torch.device) -> torch.dtype:
    if spec.dtype == "auto":
        return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[spec.dtype]
