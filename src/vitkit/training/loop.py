"""THE training loop: every objective runs in it, read it from top to bottom.

Each step seeds torch's generator from (seed, step), so that a training stopped at any moment and resumed from its last
checkpoint makes the same steps to the bit; pictures, their order and their augmentation are functions of the step too.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import nn

from vitkit.data.batch import Batch
from vitkit.data.keys import step_seed
from vitkit.errors import DataError, VitkitError
from vitkit.training.ema import Ema
from vitkit.training.log import Log
from vitkit.training.objective import Objective, Step
from vitkit.training.optim import Grouped, build_optimizer
from vitkit.training.schedule import lr_scale
from vitkit.training.spec import TrainSpec
from vitkit.training.state import Progress, TrainState, find_checkpoint, mark_best, restore, save_checkpoint

__all__ = ["Interrupted", "TrainingData", "fit"]

logger = logging.getLogger("vitkit")

SPEED_STEPS = (5, 25)
"""With a budget in minutes, the speed is measured between these two steps: the first ones allocate and warm caches."""
BUDGET_SHARE = 0.97
"""Of the minutes, what training steps may take; the rest is for the last evaluation and writing."""


class Interrupted(VitkitError):  # noqa: N818  # a request, not an error
    """SIGINT or SIGTERM came: the step was finished, a checkpoint written. `signum` is the signal."""

    def __init__(self, signum: int, step: int, folder: Path) -> None:
        super().__init__(f"stopped after step {step:,}; go on with --resume {folder}")
        self.signum = signum


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
    validation: Callable[[], Iterable[Batch]] | None,
    spec: TrainSpec,
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    on_step: Callable[[Progress, dict[str, float]], None] | None = None,
) -> Fitted:
    """Trains `model` in place under `folder` (log.jsonl, checkpoints/), from the last good checkpoint if there is one.

    Raises DataError for a loss that isn't finite, Interrupted after SIGINT or SIGTERM; the state is kept in both cases.
    """
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(step_seed(spec.seed, -1))
    model, objective = model.to(device), objective.to(device)
    optimizer = build_optimizer(model, objective, spec)  # type: ignore[arg-type]
    ema = Ema(model, spec.ema_decay) if spec.ema_decay else None
    state = TrainState(model, objective, optimizer, ema, Progress(steps=spec.epochs * data.steps_per_epoch))
    state.progress.planned = spec.minutes is None
    if (last := find_checkpoint(checkpoints)) is not None:
        restore(last, state)
        logger.info("resuming after step %d", state.progress.step)
    log = Log(folder / "log.jsonl", keep_steps=state.progress.step)
    step_module: nn.Module = Step(model, objective)
    if spec.compile:
        step_module.compile()
    clock = Clock(state.progress)
    saved_at = time.monotonic()
    with _signals() as stop:
        batches = data.batches(state.progress.step, state.progress.steps)
        while state.progress.step < state.progress.steps:
            step = state.progress.step
            batch = next(batches).to(device)
            torch.manual_seed(step_seed(spec.seed, step))
            try:
                row = _train_step(step_module.train(), batch, state, spec, _autocast(device, dtype))
            except DataError:
                save_checkpoint(checkpoints, state)  # the step changed nothing: the state is the last good one
                raise
            state.progress.step += 1
            clock.tick()
            epoch_ends = state.progress.step % data.steps_per_epoch == 0
            log.step(step, step // data.steps_per_epoch, row, clock.seconds, len(batch))
            if on_step is not None:
                on_step(state.progress, {**row, "images_per_s": len(batch) / clock.seconds})
            if not state.progress.planned and clock.measured(spec):
                state.progress.steps = clock.plan(spec, state.progress)
                state.progress.planned = True
            done = state.progress.step >= state.progress.steps
            epoch = state.progress.step // data.steps_per_epoch
            if validation and (done or (epoch_ends and epoch % spec.evaluate_every == 0)):
                _evaluate(state, validation, log, _autocast(device, dtype))
                clock.skip()
            if done or epoch_ends or stop.signum or time.monotonic() - saved_at > spec.save_every_s:
                save_checkpoint(checkpoints, state)
                if state.progress.best_step == state.progress.step:
                    mark_best(checkpoints, state.progress.step)
                saved_at = time.monotonic()
                clock.skip()
            if stop.signum and not done:
                raise Interrupted(stop.signum, state.progress.step, folder)
    log.close()
    kept = model if state.ema is None else state.ema.module
    return Fitted(kept.eval(), "raw" if state.ema is None else "ema", state.progress)


def _train_step(
    step_module: nn.Module, batch: Batch, state: TrainState, spec: TrainSpec, autocast: AbstractContextManager[object]
) -> dict[str, float]:
    """One optimiser step; returns what the log says of it. DataError, and nothing changed, where it isn't finite."""
    progress, optimizer = state.progress, state.optimizer
    warmup = round(spec.warmup * progress.steps)
    scale = lr_scale(progress.step, steps=progress.steps, warmup_steps=warmup, final=spec.final_lr)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * scale
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
            f"{spec.lr * scale:.3g} and pictures {pictures}, ...; the last good checkpoint is kept: lower --lr"
        )
    optimizer.step()
    if state.ema is not None:
        state.ema.update(state.model, progress.step)
    state.objective.after_step(state.model, progress.step)  # type: ignore[operator]
    parts = {name: float(value) for name, value in loss.parts.items()}
    return {"loss": total, **parts, "lr": spec.lr * scale, "grad_norm": norm}


def _evaluate(
    state: TrainState,
    validation: Callable[[], Iterable[Batch]],
    log: Log,
    autocast: AbstractContextManager[object],
) -> None:
    """Scores the weights that would be kept, on held-out batches, and remembers the best step."""
    kept = state.model if state.ema is None else state.ema.module
    objective = state.objective
    assert isinstance(objective, Objective)
    with torch.inference_mode(), autocast:
        scores = objective.validate(kept.eval(), validation())
    log.evaluation(state.progress.step, scores, "raw" if state.ema is None else "ema")
    if objective.score is not None and scores.get(objective.score, -math.inf) > state.progress.best_score:
        state.progress.best_score = scores[objective.score]
        state.progress.best_step = state.progress.step


class Clock:
    """Wall time of the training steps alone, and the plan for a budget in minutes."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds = 0.0
        self._last = time.monotonic()
        self._count = 0
        self._measured = 0.0

    def tick(self) -> None:
        """A step ended."""
        now = time.monotonic()
        self.seconds, self._last = now - self._last, now
        self.progress.seconds += self.seconds
        self._count += 1
        if SPEED_STEPS[0] < self._count <= SPEED_STEPS[1]:
            self._measured += self.seconds

    def skip(self) -> None:
        """Something else than a step took time: it counts for the training, not for a step."""
        now = time.monotonic()
        self.progress.seconds += now - self._last
        self._last = now

    def measured(self, spec: TrainSpec) -> bool:
        """Whether the speed is known."""
        return self._count >= SPEED_STEPS[1]

    def plan(self, spec: TrainSpec, progress: Progress) -> int:
        """Steps that fit into the minutes, at the speed measured; never more than the epochs ask for."""
        assert spec.minutes is not None
        per_step = self._measured / (SPEED_STEPS[1] - SPEED_STEPS[0])
        left = spec.minutes * 60 * BUDGET_SHARE - progress.seconds
        return min(progress.steps, progress.step + max(int(left / per_step), 1))


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
