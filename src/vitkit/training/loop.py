"""THE training loop: every objective runs in it, read it from top to bottom.

Each step seeds torch's generator from (seed, step), so that a training stopped at any moment and resumed from its last
checkpoint makes the same steps to the bit; pictures, their order and their augmentation are functions of the step too.
"""

from __future__ import annotations

import copy
import logging
import math
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import nn

from vitkit.data.batch import Batch
from vitkit.data.keys import step_seed
from vitkit.errors import DataError, Interrupted
from vitkit.training.ema import Ema
from vitkit.training.log import Log
from vitkit.training.objective import Objective, Step
from vitkit.training.optim import Grouped, build_optimizer
from vitkit.training.recompute import recomputed
from vitkit.training.schedule import lr_scale
from vitkit.training.spec import TrainSpec
from vitkit.training.state import Progress, TrainState, find_checkpoint, restore, save_checkpoint

__all__ = ["Fitted", "TrainingData", "fit"]

logger = logging.getLogger("vitkit")

TRIAL_STEPS, TRIAL_BATCHES, TRIAL_SHARE = 24, 4, 0.02
"""With a budget in minutes: steps and held-out batches that are tried for their speed, and the time after which no more
steps are, as a share of the budget."""
PLANNED_SHARE, LATEST_SHARE = 0.95, 0.98
"""Of the minutes, what the plan fills, and what it may come to take before it is shortened."""


class TrainingData(Protocol):
    """Batches as functions of the step."""

    steps_per_epoch: int

    def batches(self, start: int, stop: int) -> Iterator[Batch]: ...


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
    with _signals() as stop, recomputed(model, spec.gradient_checkpointing):
        if (last := find_checkpoint(checkpoints)) is not None:
            restore(last, state)
            logger.info("resuming after step %d", state.progress.step)
        else:
            if spec.minutes is not None:
                trial = copy.deepcopy(state)
                state.progress.steps = _plan(trial, data, validation, spec, checkpoints, device, autocast)
            save_checkpoint(checkpoints, state)  # the plan, and a good state to keep whatever the first epoch brings
        clock.lap()
        step_module = _step_module(state, spec)
        held_out: dict[str, float] = {}
        started, saved_at = replace(state.progress), time.monotonic()
        with Log(folder / "log.jsonl", keep_steps=state.progress.step) as log:
            for batch in data.batches(state.progress.step, state.progress.steps):
                step = state.progress.step
                torch.manual_seed(step_seed(spec.seed, step))
                try:
                    row = _train_step(step_module, batch.to(device), state, spec, autocast)
                except DataError as error:
                    raise DataError(f"{error}; {_advice(checkpoints, step)}") from None
                state.progress.step += 1
                seconds = clock.lap()
                if spec.minutes is not None:
                    _keep_time(state.progress, started, spec.minutes * 60)
                log.step(step, step // data.steps_per_epoch, row, seconds, len(batch))
                epoch, rest = divmod(state.progress.step, data.steps_per_epoch)
                done = state.progress.step == state.progress.steps
                if validation and (done or (rest == 0 and epoch % spec.evaluate_every == 0)):
                    held_out = _evaluate(state, validation, log, autocast)
                if on_step is not None:
                    on_step(state.progress, {**row, "images_per_s": len(batch) / seconds, **held_out})
                asked = stop.signum  # read once: a signal from here on ends the next step
                if done or rest == 0 or asked or time.monotonic() - saved_at > spec.save_every_s:
                    save_checkpoint(checkpoints, state)
                    saved_at = time.monotonic()
                clock.lap()
                if done:
                    break
                if asked:
                    went_on = f"stopped after step {state.progress.step:,}; go on with vitkit train --resume {folder}"
                    raise Interrupted(went_on, asked)
    return Fitted(state.kept.eval(), state.kept_name, state.progress)


def _train_step(
    step_module: nn.Module, batch: Batch, state: TrainState, spec: TrainSpec, autocast: AbstractContextManager[object]
) -> dict[str, float]:
    """One optimiser step; returns what the log says of it. DataError, and nothing changed, where it isn't finite."""
    progress, optimizer = state.progress, state.optimizer
    warmup = round(spec.warmup * progress.steps)
    scale = lr_scale(progress.step, steps=progress.steps, warmup_steps=warmup, final=spec.final_lr)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * scale
    step_module.train()
    optimizer.zero_grad(set_to_none=True)
    with autocast:
        loss = step_module(batch, progress.step)
    loss.total.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    limit = math.inf if spec.clip_norm is None else spec.clip_norm
    norm = float(nn.utils.clip_grad_norm_(parameters, limit))
    total = float(loss.total.detach())
    if not math.isfinite(total) or not math.isfinite(norm):
        pictures = ", ".join(map(str, batch.index[:5].tolist()))
        raise DataError(
            f"step {progress.step}: the loss is {total}, the gradient's norm {norm}, at learning rate "
            f"{spec.lr * scale:.3g} and pictures {pictures}, ..."
        )
    optimizer.step()
    if state.ema is not None:
        state.ema.update(state.model, progress.step)
    state.objective.after_step(state.model, progress.step, progress.steps)
    parts = {name: float(value) for name, value in loss.parts.items()}
    return {"loss": total, **parts, "lr": spec.lr * scale, "grad_norm": norm}


def _advice(checkpoints: Path, step: int) -> str:
    """What to do after a loss that isn't finite at `step`."""
    good = find_checkpoint(checkpoints, before=step)
    kept = "no step was good" if good is None else f"the last good checkpoint, {good}, is kept"
    return f"resumed, the run would end here again: start anew with a lower --lr; {kept}"


def _evaluate(
    state: TrainState, validation: TrainingData, log: Log, autocast: AbstractContextManager[object]
) -> dict[str, float]:
    """Scores the weights that would be kept on the held-out pictures, and remembers the best step."""
    scores = _validate(state, validation, validation.steps_per_epoch, autocast)
    log.evaluation(state.progress.step, scores, state.kept_name)
    score = state.objective.score
    if score is not None and scores.get(score, -math.inf) > state.progress.best_score:
        state.progress.best_score = scores[score]
        state.progress.best_step = state.progress.step
    return {f"held-out {name}": value for name, value in scores.items()}


def _validate(
    state: TrainState, validation: TrainingData, steps: int, autocast: AbstractContextManager[object]
) -> dict[str, float]:
    with torch.inference_mode(), autocast:
        return state.objective.eval().validate(state.kept.eval(), validation.batches(0, steps))


def _plan(
    trial: TrainState,
    data: TrainingData,
    validation: TrainingData | None,
    spec: TrainSpec,
    checkpoints: Path,
    device: torch.device,
    autocast: AbstractContextManager[object],
) -> int:
    """Steps that fit into the minutes at the speed of `trial`, a copy of the training that is thrown away.

    Before the first step, so that the schedule is whole from there on; a resumed training goes on with it.
    """
    assert spec.minutes is not None
    budget = spec.minutes * 60 * PLANNED_SHARE
    clock = Clock(trial)
    step_module = _step_module(trial, spec)
    laps: list[float] = []
    for batch in data.batches(0, min(TRIAL_STEPS, trial.progress.steps)):
        _train_step(step_module, batch.to(device), trial, spec, autocast)
        laps.append(clock.lap())
        if len(laps) > 2 and sum(laps[1:]) > TRIAL_SHARE * budget:
            break
    warm = laps[len(laps) // 2 :]  # the first ones compile, allocate and warm caches
    evaluation = 0.0
    if validation:
        tried = min(TRIAL_BATCHES, validation.steps_per_epoch)
        _validate(trial, validation, tried, autocast)
        evaluation = clock.lap() * validation.steps_per_epoch / tried
    with tempfile.TemporaryDirectory(prefix=".part-", dir=checkpoints) as place:
        save_checkpoint(Path(place), trial)
    saving = clock.lap()
    left = budget - trial.progress.seconds - evaluation - saving
    per_epoch = saving + evaluation / max(spec.evaluate_every, 1)
    per_step = sum(warm) / len(warm) * (1 + saving / spec.save_every_s) + per_epoch / data.steps_per_epoch
    return max(1, int(min(left / per_step, trial.progress.steps)))


def _keep_time(progress: Progress, started: Progress, budget: float) -> None:
    """Shortens the plan where a quarter of the budget (in seconds) or more has shown that the machine is slower."""
    seconds = progress.seconds - started.seconds
    if seconds > budget / 4:
        left = (budget * LATEST_SHARE - progress.seconds) * (progress.step - started.step) / seconds
        progress.steps = min(progress.steps, progress.step + max(int(left), 1))


class Clock:
    """Adds the wall time of a training to its progress."""

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last lap, or since the start."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self._state.progress.seconds += seconds
        return seconds


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
