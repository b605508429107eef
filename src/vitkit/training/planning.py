"""A schedule that ends in time: how many steps fit into the minutes, tried before the first one and kept watch over."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vitkit.training.spec import TrainSpec
from vitkit.training.state import Progress, TrainState, restore, save_checkpoint

__all__ = ["Clock", "keep_time", "plan_steps"]

TRIAL_STEPS, TRIAL_BATCHES, TRIAL_SHARE = 24, 4, 0.02
"""Steps and held-out batches that are tried for their speed, and the time after which no more steps are, as a share of
the budget."""
PLANNED_SHARE, LATEST_SHARE = 0.95, 0.98
"""Of the minutes, what the plan fills, and what it may come to take before it is shortened."""


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


def plan_steps(
    state: TrainState,
    spec: TrainSpec,
    checkpoints: Path,
    steps_per_epoch: int,
    kinds: Sequence[tuple[float, Callable[[], Callable[[], object]]]],
    validation: tuple[int, Callable[[int], object]] | None,
) -> int:
    """Steps that fit into the minutes at the speed of a trial, which ends with `state` as it was.

    `kinds` are those of steps: the share of each, and what begins its trial by giving what takes one more step;
    `validation` is the batches of an evaluation, and what reads so many of them. Before the first step, so that the
    schedule is whole from there on; a resumed training goes on with it.
    """
    assert spec.minutes is not None
    budget = spec.minutes * 60 * PLANNED_SHARE
    clock = Clock(state)

    def lap() -> float:
        """The slowest process's, so that all do the same."""
        return state.processes.largest(clock.lap())[0]

    first = state.processes.first  # the others may not see its folder, and write nothing
    with tempfile.TemporaryDirectory(prefix=".part-", dir=checkpoints if first else None) as place:
        start = save_checkpoint(Path(state.processes.on_first(lambda: place)), state)
        saving = lap()
        seconds = 0.0
        for share, begin in kinds:
            train_step = begin()  # only now: what reads ahead for the kind before it has ended
            laps: list[float] = []
            while len(laps) < min(TRIAL_STEPS, state.progress.steps):
                train_step()
                laps.append(lap())
                if len(laps) > 2 and sum(laps[1:]) > TRIAL_SHARE * budget:
                    break
            warm = laps[len(laps) // 2 :]  # the first ones compile, allocate and warm caches
            seconds += share * sum(warm) / len(warm)
        evaluation = 0.0
        if validation is not None:
            batches, validate = validation
            tried = min(TRIAL_BATCHES, batches)
            validate(tried)
            evaluation = lap() * batches / tried
        [spent] = state.processes.largest(state.progress.seconds)
        restore(start, state)
    left = budget - spent - evaluation - saving
    per_epoch = saving + evaluation / max(spec.evaluate_every, 1)
    per_step = seconds * (1 + saving / spec.save_every_s) + per_epoch / steps_per_epoch
    return max(1, int(min(left / per_step, state.progress.steps)))


def keep_time(progress: Progress, started: Progress, minutes: float) -> None:
    """Shortens the plan where a quarter of the budget or more has shown that the machine is slower."""
    budget, seconds = minutes * 60, progress.seconds - started.seconds
    if seconds > budget / 4:
        left = (budget * LATEST_SHARE - progress.seconds) * (progress.step - started.step) / seconds
        progress.steps = min(progress.steps, progress.step + max(int(left), 1))
