"""THE training loop: every objective runs in it, read it from top to bottom.

Each step seeds torch's generator from (seed, step), so that a training stopped at any moment and resumed from its last
checkpoint makes the same steps to the bit; pictures, their order and their augmentation are functions of the step too.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from vitkit.data.batch import Batch
from vitkit.data.keys import step_seed
from vitkit.errors import DataError, Interrupted
from vitkit.model.block import dropping_as_one
from vitkit.training.boards import Board
from vitkit.training.ema import Ema
from vitkit.training.log import Log
from vitkit.training.objective import Loss, Objective, Step
from vitkit.training.optim import build_optimizer
from vitkit.training.planning import Clock, keep_time, plan_steps
from vitkit.training.processes import Processes
from vitkit.training.recompute import recomputed
from vitkit.training.schedule import lr_scale
from vitkit.training.sharing import average_statistics, shared, summed_after, unevenly_drawn, whole
from vitkit.training.spec import TrainSpec
from vitkit.training.state import Progress, TrainState, find_checkpoint, restore, save_checkpoint
from vitkit.training.stops import stopping

__all__ = ["Fitted", "TrainingData", "Work", "autocast_of", "fit", "train_step"]

logger = logging.getLogger("vitkit")


class TrainingData(Protocol):
    """Batches as functions of the step; to train with, this process's `accumulate` slices in the place of each."""

    steps_per_epoch: int

    def batches(
        self, start: int, stop: int, stride: int = 1, *, is_early: Callable[[int], bool] = ...
    ) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Fitted:
    """The end of a training."""

    model: nn.Module
    """The weights to use: the moving average where there is one, else the last weights."""
    weights: str
    """"ema" or "raw"."""
    objective: Objective
    progress: Progress


@dataclass(frozen=True)
class Work:
    """What every step works with."""

    step_module: nn.Module
    state: TrainState
    spec: TrainSpec
    device: torch.device
    autocast: AbstractContextManager[object]
    apart: bool
    """Whether each slice draws from a seed of its own: dropout draws by token, which is too much for a whole batch."""


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
    processes: Processes = Processes(),  # noqa: B008  # frozen
    boards: Sequence[Board] = (),
    on_step: Callable[[Progress, dict[str, float]], None] | None = None,
) -> Fitted:
    """Trains `model` in place under `folder` (log.jsonl, checkpoints/), from the last good checkpoint if there is one.

    `boards` show the log as it grows. `on_step` hears of each step: loss and rate, images_per_s, and the last
    evaluation's scores as "held-out ...". Of several `processes` all call this with the same arguments but `data`,
    their slices of it, and all return. Raises DataError for a loss that isn't finite, CheckpointError where the disk is
    full and Interrupted after SIGINT or SIGTERM; the last good checkpoint is kept in all cases.
    """
    checkpoints = folder / "checkpoints"
    processes.on_first(lambda: checkpoints.mkdir(parents=True, exist_ok=True))
    torch.manual_seed(step_seed(spec.seed, -1))
    model, objective = model.to(device), objective.to(device)
    undivided = copy.deepcopy(Step(model, objective)) if processes.sharded else None
    ema = Ema(model, spec.ema_decay) if spec.ema_decay else None
    step_module = shared(_compiled(Step(model, objective), spec), ema, processes, device)
    optimizer = build_optimizer(model, objective, spec)  # type: ignore[arg-type]
    progress = Progress(steps=spec.epochs * data.steps_per_epoch)
    state = TrainState(model, objective, optimizer, ema, progress, processes, undivided)
    clock = Clock(state)
    work = Work(step_module, state, spec, device, autocast_of(device, dtype), apart="dropout" in unevenly_drawn(model))
    with stopping() as stop, recomputed(model, spec.gradient_checkpointing):
        if (last := processes.on_first(lambda: find_checkpoint(checkpoints))) is not None:
            restore(last, state)
            logger.info("resuming after step %d", state.progress.step)
        else:
            if spec.minutes is not None:
                state.progress.steps = _plan(work, data, validation, checkpoints)
            save_checkpoint(checkpoints, state)  # the plan, and a good state to keep whatever the first epoch brings
        clock.lap()
        [state.progress.seconds] = processes.largest(state.progress.seconds)  # all plan by the same clock
        held_out: dict[str, float] = {}
        started, saved_at = replace(state.progress), time.monotonic()
        with Log(folder / "log.jsonl", keep_steps=state.progress.step, writes=processes.first, boards=boards) as log:
            is_early = partial(_is_early, state.progress, spec)
            batches = data.batches(state.progress.step, state.progress.steps, is_early=is_early)
            while state.progress.step < state.progress.steps:
                step = state.progress.step
                try:
                    row, pictures = train_step(work, batches)
                except DataError as error:
                    advice = processes.on_first(lambda: _advice(checkpoints, state.progress.step))
                    raise DataError(f"{error}; {advice}") from None
                state.progress.step += 1
                seconds = clock.lap()
                if spec.minutes is not None:
                    [state.progress.seconds] = processes.largest(state.progress.seconds)
                    keep_time(state.progress, started, spec.minutes)
                log.step(step, step // data.steps_per_epoch, row, seconds, pictures)
                epoch, rest = divmod(state.progress.step, data.steps_per_epoch)
                done = state.progress.step == state.progress.steps
                if validation and (done or (rest == 0 and epoch % spec.evaluate_every == 0)):
                    held_out = _evaluate(work, validation, log)
                if on_step is not None:
                    on_step(state.progress, {**row, "images_per_s": pictures / seconds, **held_out})
                # Read once: a signal from here on ends the next step.
                asked, unsaved_s = processes.largest(stop.signum, time.monotonic() - saved_at)
                if done or rest == 0 or asked or unsaved_s > spec.save_every_s:
                    save_checkpoint(checkpoints, state)
                    saved_at = time.monotonic()
                clock.lap()
                if asked and not done:
                    went_on = f"stopped after step {state.progress.step:,}; go on with vitkit train --resume {folder}"
                    raise Interrupted(went_on, int(asked))
    end = state.whole()
    return Fitted(end.model.eval(), state.kept_name, end.objective, state.progress)


def train_step(work: Work, batches: Iterator[Batch]) -> tuple[dict[str, float], int]:
    """One optimiser step; returns what the log says of it, and how many pictures it saw.

    DataError, and no weight changed, where it isn't finite.
    """
    state, spec, processes = work.state, work.spec, work.state.processes
    progress, optimizer = state.progress, state.optimizer
    warmup = round(spec.warmup * progress.steps)
    scale = lr_scale(progress.step, steps=progress.steps, warmup_steps=warmup, final=spec.final_lr)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * scale
    work.step_module.train()
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    slices: list[tuple[Tensor, Tensor]] = []
    for turn, batch in enumerate(itertools.islice(batches, spec.accumulate)):
        loss = _add_gradients(work, batch.to(work.device), turn)
        slices.append((loss.total.detach(), batch.index))
        for name, value in {"loss": loss.total.detach(), **loss.parts}.items():
            sums[name] = sums.get(name, 0.0) + value * batch.share
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    limit = math.inf if spec.clip_norm is None else spec.clip_norm
    norm = float(whole(nn.utils.clip_grad_norm_(parameters, limit)))
    row = processes.sums({name: float(value) for name, value in sums.items()})
    if not math.isfinite(row["loss"]) or not math.isfinite(norm):
        suspects = [index for total, index in slices if not math.isfinite(float(total))]  # of this process
        if not suspects and batch.part is None:  # the gradient is at fault, and there was one slice
            suspects = [batch.index]
        among = f" and pictures {', '.join(map(str, suspects[0][:5].tolist()))}, ..." if suspects else ""
        raise DataError(
            f"step {progress.step}: the loss is {row['loss']}, the gradient's norm {norm}, at learning rate "
            f"{spec.lr * scale:.3g}{among}"
        )
    optimizer.step()
    average_statistics(state.model, processes)
    if state.ema is not None:
        state.ema.update(state.model, progress.step)
    state.objective.after_step(state.model, progress.step, progress.steps)
    return {**row, "lr": spec.lr * scale, "grad_norm": norm}, batch.whole_size


def _add_gradients(work: Work, batch: Batch, turn: int) -> Loss:
    """Adds what a step's batch, or this process's slice of it number `turn`, says of the weights to their gradients."""
    step, part, slices = work.state.progress.step, batch.part, work.spec.accumulate
    own = work.state.processes.rank * slices + turn if work.apart else 0
    torch.manual_seed(step_seed(work.spec.seed, step) + own)  # each slice draws for the whole batch, and keeps its own
    with (
        nullcontext() if part is None else dropping_as_one(work.step_module, part.rows, part.size),
        summed_after(work.step_module, turn == slices - 1),
    ):
        with work.autocast:
            loss: Loss = work.step_module(batch, step)
        # The processes' gradients are averaged; what their slices count for adds up.
        (loss.total * (batch.share * work.state.processes.count)).backward()  # type: ignore[no-untyped-call]
    return loss


def _is_early(progress: Progress, spec: TrainSpec, step: int) -> bool:
    """Whether `step` comes before the late ones, by the plan as it stands."""
    return spec.early_size is not None and step < round((1 - spec.late) * progress.steps)


def _plan(work: Work, data: TrainingData, validation: TrainingData | None, checkpoints: Path) -> int:
    """Steps that fit into the minutes; nothing else changes."""
    spec = work.spec
    kinds = {True: 1 - spec.late, False: spec.late} if spec.early_size else {False: 1.0}

    def trial(early: bool) -> Callable[[], object]:
        return partial(train_step, work, data.batches(0, work.state.progress.steps, is_early=lambda step: early))

    return plan_steps(
        work.state,
        spec,
        checkpoints,
        data.steps_per_epoch,
        [(share, partial(trial, early)) for early, share in kinds.items()],
        None if validation is None else (validation.steps_per_epoch, partial(_validate, work, validation)),
    )


def _advice(checkpoints: Path, step: int) -> str:
    """What to do after a loss that isn't finite at `step`."""
    good = find_checkpoint(checkpoints, before=step)
    kept = "no step was good" if good is None else f"the last good checkpoint, {good}, is kept"
    return f"resumed, the run would end here again: start anew with a lower --lr; {kept}"


def _evaluate(work: Work, validation: TrainingData, log: Log) -> dict[str, float]:
    """Scores the weights that would be kept on the held-out pictures, and remembers the best step."""
    state = work.state
    scores = _validate(work, validation, validation.steps_per_epoch)
    log.evaluation(state.progress.step, scores, state.kept_name)
    score = state.objective.score
    if score is not None and scores.get(score, -math.inf) > state.progress.best_score:
        state.progress.best_score = scores[score]
        state.progress.best_step = state.progress.step
    return {f"held-out {name}": value for name, value in scores.items()}


def _validate(work: Work, validation: TrainingData, steps: int) -> dict[str, float]:
    """Scores on the first `steps` batches: each process reads its share of them, where scores are means."""
    judged, processes = work.state.whole().to(work.device).eval(), work.state.processes
    parts = processes.count > 1 and judged.objective.scores_are_means and steps >= processes.count
    batches = Counted(
        validation.batches(processes.rank, steps, processes.count) if parts else validation.batches(0, steps)
    )
    with torch.inference_mode(), work.autocast:
        scores = judged.objective.validate(judged.model, batches)
    if not parts:
        return scores
    sums = processes.sums({"": batches.pictures, **{name: value * batches.pictures for name, value in scores.items()}})
    return {name: value / sums[""] for name, value in sums.items() if name}


def autocast_of(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """What the forward pass runs under, so that its products are of `dtype`."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def _compiled(step: Step, spec: TrainSpec) -> Step:
    if spec.compile:
        step.compile()
    return step


class Counted:
    """Batches, and how many pictures they held."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.pictures = 0

    def __iter__(self) -> Iterator[Batch]:
        """Each once."""
        for batch in self._batches:
            self.pictures += len(batch)
            yield batch
