"""train: pictures to a trained model in a run folder, from scratch or from a checkpoint, resumable at any moment."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vitkit.api.baseline import Baseline, keep_baseline
from vitkit.api.loaders import make_loaders
from vitkit.api.plan import Asked, Plan, settle
from vitkit.api.run_report import write_results
from vitkit.api.runs import RunSpec, new_run
from vitkit.checkpoint.card import Card, Provenance
from vitkit.checkpoint.save import save_native
from vitkit.config import to_dict
from vitkit.data.loader import Loader
from vitkit.data.samples import MapDataset, Samples, Splits
from vitkit.device import keep_freed_memory, share_machine
from vitkit.errors import CheckpointError, ConfigError
from vitkit.files import why_unwritten
from vitkit.model.base import ImageModel
from vitkit.model.lora import merge_lora
from vitkit.training.boards import open_boards
from vitkit.training.distillation import Distillation
from vitkit.training.loop import Fitted, fit
from vitkit.training.memory import MemoryPlan
from vitkit.training.processes import Processes, joined
from vitkit.training.sharing import unevenly_drawn
from vitkit.training.spec import TrainSpec
from vitkit.training.state import Progress

__all__ = ["TrainResult", "train"]

logger = logging.getLogger("vitkit")


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
    asked = Asked(
        data=data,
        model=model,
        preset=preset,
        revision=revision,
        image_size=image_size,
        patch_size=patch_size,
        value_range=value_range,
        output=None if output is None else Path(output),
        resume=None if resume is None else Path(resume),
        recipe=recipe,
        settings=settings,
        train_fraction=train_fraction,
        val_fraction=val_fraction,
        split_seed=split_seed,
        bad_files=bad_files,
        device=device,
        log_to=log_to,
    )
    processes = Processes.here(sharded=shard)
    if not processes.first:
        on_read = on_memory_plan = on_start = on_baseline = on_step = None
    plan = settle(asked, processes, on_memory_plan)
    run, spec = plan.run, plan.run.train
    threads = share_machine(plan.device)
    with processes.together():
        loaders = make_loaders(
            plan.splits, run.preprocess, spec, plan.objective, workers, plan.device, processes, on_read
        )
    folder = processes.on_first(lambda: new_run(asked.output, run)) if asked.resume is None else asked.resume
    if on_start is not None:
        on_start(run, folder)
    if processes.first:
        _tell_slices(processes, spec, plan.module, threads, workers)
    if plan.device.type == "cpu":
        keep_freed_memory()
    loader, evaluation, _ = loaders
    if isinstance(plan.objective, Distillation) and spec.distill.cache:
        loader = loader.with_answers(plan.objective.all_answers(loader, on_read))
    with loader, evaluation:
        if baseline and plan.objective.classifies and spec.evaluate_every:
            learned = plan.module if run.model is not None else None
            found = processes.on_first(
                lambda: keep_baseline(
                    folder, learned, loader, evaluation, len(run.class_names), spec, plan.device, plan.dtype
                )
            )
            if on_baseline is not None:
                on_baseline(found)
        with open_boards(run.log_to if processes.first else (), folder, to_dict(run)) as boards:
            fitted = fit(
                plan.module,
                plan.objective,
                loader,
                evaluation if spec.evaluate_every else None,
                spec,
                folder,
                device=plan.device,
                dtype=plan.dtype,
                processes=processes,
                boards=boards,
                on_step=on_step,
            )
    scores, test_scores = processes.on_first(lambda: _conclude(plan, fitted, loaders, folder))
    return TrainResult(folder, folder / "model", scores, test_scores, fitted.weights, fitted.progress.seconds)


def _conclude(
    plan: Plan, fitted: Fitted, loaders: tuple[Loader, Loader, Loader | None], folder: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Writes the results and the model of a finished training; returns the scores of held-out and of test pictures."""
    trained, run = fitted.model.cpu(), plan.run
    assert isinstance(trained, ImageModel)
    merge_lora(trained)
    card = Card(
        preprocess=run.preprocess,
        class_names=run.class_names if plan.objective.classifies else None,
        scores="sigmoid" if plan.objective.per_class else "softmax",
        provenance=Provenance(source=f"trained on {run.data}", layout="vitkit"),
    )
    training, evaluation, test = loaders
    objective = fitted.objective.eval().cpu()
    try:
        scores, test_scores = write_results(
            folder,
            trained,
            objective,
            fitted.weights,
            card,
            to_dict(run),
            plan.splits,
            evaluation,
            test,
            training,
        )
        metrics = {f"held-out {name}": value for name, value in scores.items()}
        metrics |= {f"test {name}": value for name, value in test_scores.items()}
        save_native(trained, folder / "model", card=dataclasses.replace(card, metrics=metrics), overwrite=True)
        return scores, test_scores
    except (OSError, ConfigError, CheckpointError) as error:
        raise ConfigError(
            f"{folder}: the results can't be written ({why_unwritten(error)}); --resume {folder} makes them anew"
        ) from error


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
