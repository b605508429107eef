"""What a training will be: settled from all that is said, and checked, before a picture is learnt from."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitkit.api.batch_size import Layers, affordable_epochs, choose_batch_size, split_auto
from vitkit.api.objectives import find_objective
from vitkit.api.runs import RunSpec, check_new_run, read_run
from vitkit.api.starts import Start, check_early_size, find_start, natural_size, start_model
from vitkit.api.teachers import open_teacher
from vitkit.data.doctor import first_look
from vitkit.data.readable import find_unreadable, leave_out
from vitkit.data.samples import MapDataset, Samples, Splits
from vitkit.data.sources.dataset import read_dataset
from vitkit.data.sources.open import open_data
from vitkit.data.split import check_fractions, split, thin
from vitkit.device import has_native_bfloat16, pick_device
from vitkit.errors import ConfigError, list_faults
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel
from vitkit.model.build import model_spec
from vitkit.training.boards import check_boards
from vitkit.training.distillation import Distillation, check_distilling
from vitkit.training.memory import MemoryPlan
from vitkit.training.objective import Objective
from vitkit.training.optim import build_optimizer, suited_to, takes_muon
from vitkit.training.processes import Processes
from vitkit.training.recipes import Recipe, read_recipe, resolve
from vitkit.training.spec import TrainSpec, differences
from vitkit.training.starts import recipe_for
from vitkit.training.tune import check_tuning

__all__ = ["Asked", "Plan", "settle", "training_dtype"]

VAL_FRACTION = 0.2
"""Held out where the data has no such part of its own."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What `train` was called with, as it explains; None is what wasn't said."""

    data: str | os.PathLike[str] | Samples | Splits | MapDataset | None = None
    model: str | os.PathLike[str] | None = None
    preset: str | None = None
    revision: str | None = None
    image_size: int | tuple[int, int] | None = None
    patch_size: int | None = None
    value_range: tuple[float, float] | None = None
    output: Path | None = None
    resume: Path | None = None
    recipe: str | os.PathLike[str] | None = None
    settings: Mapping[str, Any] | None = None
    train_fraction: float | None = None
    val_fraction: float | None = None
    split_seed: int | None = None
    bad_files: str | None = None
    device: str | None = None
    log_to: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Checks what needs no look at the data."""
        if self.data is None and self.resume is None:
            raise ConfigError("train needs pictures: a folder of class folders, a table, or 'digits'; or --resume RUN")
        if self.output is not None and self.resume is not None:
            raise ConfigError(
                f"a resumed run goes on in its own folder, {self.resume}; leave the output {self.output} out"
            )
        if self.bad_files not in (None, "fail", "skip"):
            raise ConfigError(f"bad_files is {self.bad_files!r}; allowed: fail, skip")
        check_fractions(self.val_fraction, self.train_fraction)
        check_boards(self.log_to or ())

    def after(self, resumed: RunSpec | None) -> Asked:
        """The same with what isn't said as the resumed run has it, or as usual."""
        before: dict[str, Any] = {"val_fraction": VAL_FRACTION, "split_seed": 0, "bad_files": "fail", "log_to": ()}
        if resumed is not None:
            names = ("data", "train_fraction", "val_fraction", "split_seed", "bad_files", "log_to")
            before = {name: getattr(resumed, name) for name in names}
            before["value_range"] = resumed.preprocess.value_range
        return dataclasses.replace(self, **{n: value for n, value in before.items() if getattr(self, n) is None})


@dataclass(frozen=True, eq=False)
class Plan:
    """A training that is ready to begin."""

    run: RunSpec
    splits: Splits
    module: ImageModel
    objective: Objective
    device: torch.device
    dtype: torch.dtype


def settle(asked: Asked, processes: Processes, on_memory_plan: Callable[[MemoryPlan], None] | None) -> Plan:
    """The training that is asked for. Raises DataError for the pictures, ConfigError for what can't be or, on a resume,
    for each difference.
    """
    resume, output = asked.resume, asked.output
    resumed = None if resume is None else processes.on_first(lambda: read_run(resume))
    asked = asked.after(resumed)
    assert asked.data is not None and asked.val_fraction is not None and asked.split_seed is not None
    if output is not None:
        processes.on_first(lambda: check_new_run(output))
    device = pick_device(asked.device)
    recipe = Recipe("no recipe") if asked.recipe is None else read_recipe(asked.recipe)
    layers, automatic, rate_said = split_auto([(recipe.origin, recipe.settings), ("settings", asked.settings or {})])
    start = find_start(asked.model, asked.preset, asked.revision, asked.image_size, asked.patch_size, recipe, resumed)
    spec = resolve(TrainSpec() if resumed is None else resumed.train, layers)
    kind = find_objective(spec.objective)
    if resumed is None:
        check_distilling(spec)
        check_tuning(spec, from_checkpoint=start.model is not None)
    splits, name, left_out = _splits(
        asked.data, asked.val_fraction, asked.split_seed, processes, skip_bad=asked.bad_files == "skip"
    )
    if asked.train_fraction is not None:
        splits = dataclasses.replace(splits, train=thin(splits.train, asked.train_fraction, seed=asked.split_seed))
    chosen = "" if resumed is None else resumed.chosen
    if resumed is None:  # only now is known which defaults fit
        spec, chosen = _fitting(start, kind, splits, layers, spec.tune)
        _check_labels_are_read(kind, spec)
    module, preprocess, objective = _begin(start, kind, splits, asked.value_range, spec)
    dtype = training_dtype(spec, device)
    free = resumed is None and start.model is None and asked.recipe is None and spec.objective == "classification"
    if free and spec.minutes is not None:  # a recipe has been found as a whole
        affordable = processes.on_first(
            lambda: affordable_epochs(
                module, objective, splits, preprocess, spec, processes.count, device=device, dtype=dtype
            )
        )
        minutes, muon = spec.minutes, takes_muon(module)
        spec, chosen = _fitting(start, kind, splits, layers, spec.tune, affordable=affordable, muon=muon)
        chosen += f"; about {float(f'{affordable:.2g}'):,g} epochs fit into {minutes:g} minutes"
        module, preprocess, objective = _begin(start, kind, splits, asked.value_range, spec)
    teacher = None
    if isinstance(objective, Distillation) and spec.distill.teacher is not None:
        objective.teacher, teacher = open_teacher(
            spec.distill.teacher, splits.train.class_names, preprocess, device, soft=spec.distill.kind == "soft"
        )
    build_optimizer(module, objective, spec)  # so that its faults come before the pictures are read
    if automatic and resumed is None:
        measured, count = spec, processes.count
        spec, memory = processes.on_first(
            lambda: choose_batch_size(
                module, objective, splits, preprocess, measured, rate_said, count, device=device, dtype=dtype
            )
        )
        if on_memory_plan is not None:
            on_memory_plan(memory)
    run = RunSpec(
        data=name,
        model=start.model,
        preset=start.preset,
        revision=start.revision,
        train_fraction=asked.train_fraction,
        val_fraction=asked.val_fraction,
        split_seed=asked.split_seed,
        spec=model_spec(module.spec),
        preprocess=preprocess,
        class_names=splits.train.class_names,
        pictures=tuple(map(len, (splits.train, *splits.held_out()))),
        chosen=chosen,
        bad_files=asked.bad_files or "fail",
        left_out=left_out,
        train=spec,
        teacher=teacher,
        log_to=tuple(asked.log_to or ()),
    )
    if resumed is not None and (changed := differences(dataclasses.replace(resumed, log_to=run.log_to), run)):
        raise ConfigError(f"{resume} was started otherwise: {list_faults(changed)}; leave that out, or start anew")
    return Plan(run, splits, module, objective, device, dtype)


def _splits(
    data: str | os.PathLike[str] | Samples | Splits | MapDataset,
    val_fraction: float,
    seed: int,
    processes: Processes,
    *,
    skip_bad: bool,
) -> tuple[Splits, str, tuple[str, ...]]:
    """The pictures to learn from and those held out, a name for them all, and the bad files that were left out."""
    if isinstance(data, str | os.PathLike):
        opened, name = open_data(data), os.fspath(data)
    else:
        opened = data if isinstance(data, Samples | Splits) else read_dataset(data)
        name = opened.train.name if isinstance(opened, Splits) else opened.name
    left_out: tuple[str, ...] = ()
    if skip_bad:
        opened, left_out = leave_out(opened, processes.on_first(lambda: find_unreadable(opened)))
    processes.on_first(lambda: first_look.warn(opened))
    return split(opened, val_fraction=val_fraction, seed=seed), name, left_out


def _fitting(
    start: Start,
    kind: type[Objective],
    splits: Splits,
    layers: Layers,
    tune: str,
    *,
    affordable: float = math.inf,
    muon: bool = False,
) -> tuple[TrainSpec, str]:
    """The defaults that fit, under the layers of what is said; and why they do."""
    size, _ = natural_size(splits.train, start.image_size)
    usual, why = recipe_for(
        from_checkpoint=start.model is not None,
        image_size=size,
        pictures=len(splits.train),
        tune=tune,
        affordable=affordable,
        muon=muon,
    )
    usual = kind.defaults(usual, splits.train)
    return resolve(suited_to(resolve(usual, layers).optimizer, usual), layers), why


def _begin(
    start: Start,
    kind: type[Objective],
    splits: Splits,
    value_range: tuple[float, float] | None,
    spec: TrainSpec,
) -> tuple[ImageModel, Preprocess, Objective]:
    """The model as it is before the first step, what it shall see, and what it is trained to do."""
    num_classes = len(splits.train.class_names) if kind.classifies else 0
    module, preprocess = start_model(start, value_range, splits.train, num_classes, spec)
    check_early_size(module, spec)
    return module, preprocess, kind.make(module, spec, splits.train)


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


def training_dtype(spec: TrainSpec, device: torch.device) -> torch.dtype:
    """The dtype of the matrix products that `spec` stands for on `device`."""
    if spec.dtype == "auto":
        return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[spec.dtype]
