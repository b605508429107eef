"""THE training loop: every objective runs in it, read it from top to bottom.

Each step seeds torch's generator from (seed, step), so that a training stopped at any moment and resumed from its last
checkpoint makes the same steps to the bit; pictures, their order and their augmentation are functions of the step too.
"""

from __future__ import annotations

import itertools
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vitkit.data.batch import Batch
from vitkit.data.keys import step_seed
from vitkit.errors import DataError, Interrupted
from vitkit.model.block import dropping_as_one
from vitkit.training.ema import Ema
from vitkit.training.log import Log
from vitkit.training.objective import Loss, Objective, Step
from vitkit.training.optim import Grouped, build_optimizer
from vitkit.training.planning import Clock, keep_time, plan_steps
from vitkit.training.recompute import recomputed
from vitkit.training.schedule import lr_scale
from vitkit.training.spec import TrainSpec
from vitkit.training.state import Progress, TrainState, find_checkpoint, restore, save_checkpoint

__all__ = ["Fitted", "TrainingData", "fit"]

logger = logging.getLogger("vitkit")


class TrainingData(Protocol):
    """Batches as functions of the step; to train with, the `accumulate` slices of each in the place of each."""

    steps_per_epoch: int

    def batches(self, start: int, stop: int, *, is_early: Callable[[int], bool] = ...) -> Iterator[Batch]: ...


class Model(Grouped, Protocol):
    """What the loop asks of a model, beside being a module."""


@dataclass(frozen=True)
class Fitted:
    """The end of a training."""

    model: nn.Module
    """The weights to use: the moving average where there is one, else the last weights."""
    weights: str
    """"ema" or "raw"."""
    progress: Progress


def fit(
    model: nn.Module,
    objective: Objective,
    data: TrainingData,
    validation: TrainingData | None,
    spec: TrainSpec,
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    on_step: Callable[[Progress, dict[str, float]], None] | None = None,
) -> Fitted:
    """Trains `model` in place under `folder` (log.jsonl, checkpoints/), from the last good checkpoint if there is one.

    `on_step` hears of each step: loss and rate, images_per_s, and the last evaluation's scores as "held-out ...".
    Raises DataError for a loss that isn't finite, CheckpointError where the disk is full and Interrupted after SIGINT
    or SIGTERM; the last good checkpoint is kept in all cases.
    """
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(step_seed(spec.seed, -1))
    model, objective = model.to(device), objective.to(device)
    optimizer = build_optimizer(model, objective, spec)  # type: ignore[arg-type]
    ema = Ema(model, spec.ema_decay) if spec.ema_decay else None
    state = TrainState(model, objective, optimizer, ema, Progress(steps=spec.epochs * data.steps_per_epoch))
    clock = Clock(state)
    autocast = _autocast(device, dtype)
    step_module = _step_module(state, spec)
    with _signals() as stop, recomputed(model, spec.gradient_checkpointing):
        if (last := find_checkpoint(checkpoints)) is not None:
            restore(last, state)
            logger.info("resuming after step %d", state.progress.step)
        else:
            if spec.minutes is not None:
                state.progress.steps = _plan(step_module, data, validation, state, spec, checkpoints, device, autocast)
            save_checkpoint(checkpoints, state)  # the plan, and a good state to keep whatever the first epoch brings
        clock.lap()
        held_out: dict[str, float] = {}
        started, saved_at = replace(state.progress), time.monotonic()
        with Log(folder / "log.jsonl", keep_steps=state.progress.step) as log:
            is_early = partial(_is_early, state.progress, spec)
            batches = data.batches(state.progress.step, state.progress.steps, is_early=is_early)
            while state.progress.step < state.progress.steps:
                step = state.progress.step
                try:
                    row, pictures = _train_step(step_module, batches, state, spec, device, autocast)
                except DataError as error:
                    raise DataError(f"{error}; {_advice(checkpoints, step)}") from None
                state.progress.step += 1
                seconds = clock.lap()
                if spec.minutes is not None:
                    keep_time(state.progress, started, spec.minutes)
                log.step(step, step // data.steps_per_epoch, row, seconds, pictures)
                epoch, rest = divmod(state.progress.step, data.steps_per_epoch)
                done = state.progress.step == state.progress.steps
                if validation and (done or (rest == 0 and epoch % spec.evaluate_every == 0)):
                    held_out = _evaluate(state, validation, log, autocast)
                if on_step is not None:
                    on_step(state.progress, {**row, "images_per_s": pictures / seconds, **held_out})
                asked = stop.signum  # read once: a signal from here on ends the next step
                if done or rest == 0 or asked or time.monotonic() - saved_at > spec.save_every_s:
                    save_checkpoint(checkpoints, state)
                    saved_at = time.monotonic()
                clock.lap()
                if asked and not done:
                    went_on = f"stopped after step {state.progress.step:,}; go on with vitkit train --resume {folder}"
                    raise Interrupted(went_on, asked)
    return Fitted(state.kept.eval(), state.kept_name, state.progress)


def _train_step(
    step_module: nn.Module,
    batches: Iterator[Batch],
    state: TrainState,
    spec: TrainSpec,
    device: torch.device,
    autocast: AbstractContextManager[object],
) -> tuple[dict[str, float], int]:
    """One optimiser step; returns what the log says of it, and how many pictures it saw.

    DataError, and nothing changed, where it isn't finite.
    """
    progress, optimizer = state.progress, state.optimizer
    warmup = round(spec.warmup * progress.steps)
    scale = lr_scale(progress.step, steps=progress.steps, warmup_steps=warmup, final=spec.final_lr)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * scale
    step_module.train()
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for batch in itertools.islice(batches, spec.accumulate):
        loss = _add_gradients(step_module, batch.to(device), progress.step, spec, autocast)
        for name, value in {"loss": loss.total.detach(), **loss.parts}.items():
            sums[name] = sums.get(name, 0.0) + value * batch.share
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    limit = math.inf if spec.clip_norm is None else spec.clip_norm
    norm = float(nn.utils.clip_grad_norm_(parameters, limit))
    row = {name: float(value) for name, value in sums.items()}
    if not math.isfinite(row["loss"]) or not math.isfinite(norm):
        pictures = ", ".join(map(str, batch.index[:5].tolist()))
        raise DataError(
            f"step {progress.step}: the loss is {row['loss']}, the gradient's norm {norm}, at learning rate "
            f"{spec.lr * scale:.3g} and pictures {pictures}, ..."
        )
    optimizer.step()
    if state.ema is not None:
        state.ema.update(state.model, progress.step)
    state.objective.after_step(state.model, progress.step, progress.steps)
    return {**row, "lr": spec.lr * scale, "grad_norm": norm}, batch.whole_size


def _is_early(progress: Progress, spec: TrainSpec, step: int) -> bool:
    """Whether `step` comes before the late ones, by the plan as it stands."""
    return spec.early_size is not None and step < round((1 - spec.late) * progress.steps)


def _plan(
    step_module: nn.Module,
    data: TrainingData,
    validation: TrainingData | None,
    state: TrainState,
    spec: TrainSpec,
    checkpoints: Path,
    device: torch.device,
    autocast: AbstractContextManager[object],
) -> int:
    """Steps that fit into the minutes; nothing else changes."""
    kinds = {True: 1 - spec.late, False: spec.late} if spec.early_size else {False: 1.0}
    train_steps = []
    for early, share in kinds.items():
        batches = data.batches(0, state.progress.steps, is_early=partial(_same, early))
        train_steps.append((share, partial(_train_step, step_module, batches, state, spec, device, autocast)))
    return plan_steps(
        state,
        spec,
        checkpoints,
        data.steps_per_epoch,
        train_steps,
        None if validation is None else (validation.steps_per_epoch, partial(_validate, state, validation, autocast)),
    )


def _same(early: bool, step: int) -> bool:
    return early


def _add_gradients(
    step_module: nn.Module, batch: Batch, step: int, spec: TrainSpec, autocast: AbstractContextManager[object]
) -> Loss:
    """Adds what a step's batch, or a slice of it, says of the weights to their gradients."""
    torch.manual_seed(step_seed(spec.seed, step))  # each slice draws for the whole batch, and keeps its own
    part = batch.part
    with nullcontext() if part is None else dropping_as_one(step_module, part.rows, part.size):
        with autocast:
            loss: Loss = step_module(batch, step)
        (loss.total * batch.share).backward()  # type: ignore[no-untyped-call]
    return loss


def _advice(checkpoints: Path, step: int) -> str:
    """What to do after a loss that isn't finite at `step`."""
    good = find_checkpoint(checkpoints, before=step)
    kept = "no step was good" if good is None else f"the last good checkpoint, {good}, is kept"
    return f"resumed, the run would end here again: start anew with a lower --lr; {kept}"


def _evaluate(
    state: TrainState, validation: TrainingData, log: Log, autocast: AbstractContextManager[object]
) -> dict[str, float]:
    """Scores the weights that would be kept on the held-out pictures, and remembers the best step."""
    scores = _validate(state, validation, autocast, validation.steps_per_epoch)
    log.evaluation(state.progress.step, scores, state.kept_name)
    score = state.objective.score
    if score is not None and scores.get(score, -math.inf) > state.progress.best_score:
        state.progress.best_score = scores[score]
        state.progress.best_step = state.progress.step
    return {f"held-out {name}": value for name, value in scores.items()}


def _validate(
    state: TrainState, validation: TrainingData, autocast: AbstractContextManager[object], steps: int
) -> dict[str, float]:
    with torch.inference_mode(), autocast:
        return state.objective.eval().validate(state.kept.eval(), validation.batches(0, steps))


@dataclass
class Stop:
    """Set by a signal, read between steps."""

    signum: int = 0


@contextmanager
def _signals() -> Iterator[Stop]:
    """SIGINT and SIGTERM ask the loop to end after its step; a second one ends the process as usual."""
    stop = Stop()
    previous: dict[int, Any] = {}

    def ask(signum: int, frame: FrameType | None) -> None:
        stop.signum = signum
        signal.signal(signum, previous[signum])

    for signum in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[signum] = signal.signal(signum, ask)
        except ValueError:  # not the main thread: the caller's handlers stay
            break
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def _step_module(state: TrainState, spec: TrainSpec) -> nn.Module:
    module = Step(state.model, state.objective)
    if spec.compile:
        module.compile()
    return module
