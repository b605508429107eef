"""Training steps of copies, before a training begins: what they cost is known then, and nothing has changed."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator

import torch
from torch import nn

from vitkit.training.ema import Ema
from vitkit.training.loop import TrainingData, Work, autocast_of, train_step
from vitkit.training.objective import Objective, Step
from vitkit.training.optim import build_optimizer
from vitkit.training.recompute import recomputed
from vitkit.training.spec import TrainSpec
from vitkit.training.state import Progress, TrainState

__all__ = ["pace", "try_steps"]

PACE_STEPS = 8
"""Steps that tell how long one takes."""


def try_steps(
    model: nn.Module,
    objective: Objective,
    data: TrainingData,
    spec: TrainSpec,
    count: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[None]:
    """`count` training steps of copies on `device`, one a turn; not compiled."""
    twin, own = copy.deepcopy((model, objective))
    twin, own = twin.to(device), own.to(device)
    ema = Ema(twin, spec.ema_decay) if spec.ema_decay else None
    optimizer = build_optimizer(twin, own, spec)  # type: ignore[arg-type]
    state = TrainState(twin, own, optimizer, ema, Progress(steps=count))
    work = Work(Step(twin, own), state, spec, device, autocast_of(device, dtype), apart=False)
    batches = data.batches(0, count)
    with recomputed(twin, spec.gradient_checkpointing):
        for _ in range(count):
            train_step(work, batches)
            yield


def pace(
    model: nn.Module,
    objective: Objective,
    data: TrainingData,
    spec: TrainSpec,
    *,
    limit_s: float,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """Seconds of a training step, by a few of them; after `limit_s` no other begins but the second."""
    laps: list[float] = []
    last = time.perf_counter()
    for _ in try_steps(model, objective, data, spec, PACE_STEPS, device=device, dtype=dtype):
        now = time.perf_counter()
        laps.append(now - last)
        last = now
        if len(laps) > 1 and sum(laps) > limit_s:
            break
    return statistics.median(laps[len(laps) // 2 :])  # the first ones allocate and warm caches
