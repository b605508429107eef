"""How long a call takes, warm-up apart; and the most that a machine's matrix products reach, to hold it against."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

__all__ = ["Timing", "matrix_peak", "measure", "take_turns", "wait_for"]

WARM_UP = 2
"""Calls that count for nothing, whatever they take: caches are filled, code is generated."""
LEAST = 3
"""Calls that are timed, even past the time there is."""
TURNS = 10
"""That each call gets: whatever else slows the machine for a while is shared by all."""
SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
"""Of square matrices: which is the fastest differs by machine."""
PRODUCTS = 4
"""One after the other on an accelerator, so that waiting for it costs little."""


K = TypeVar("K")


@dataclass(frozen=True)
class Timing:
    """Seconds of a call: percentiles of `n` of them, interpolated linearly."""

    p25: float
    p50: float
    p75: float
    p95: float
    p99: float
    n: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """The percentiles of what was measured, one value or more."""
        p25, p50, p75, p95, p99 = map(float, np.percentile(seconds, (25, 50, 75, 95, 99)))
        return cls(p25, p50, p75, p95, p99, len(seconds))


def measure(run: Callable[[], object], seconds: float) -> Timing:
    """Calls `run` for about so many seconds. It must return only when its work is done."""
    return take_turns({"": run}, seconds)[""]


def take_turns(runs: Mapping[K, Callable[[], object]], seconds: float) -> dict[K, Timing]:
    """As `measure`, for several calls on an equal footing: each has `seconds`, in short turns, first by turns too.

    The first call of a turn finds caches and cores as the others left them: it counts only where it fills the turn.
    """
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    found: dict[K, list[float]] = {name: [] for name in runs}
    spent = dict.fromkeys(runs, 0.0)
    waiting = list(runs)
    while waiting:
        for name in waiting:
            taken = _use_turn(runs[name], seconds / TURNS)
            found[name] += taken[1:] or taken
            spent[name] += sum(taken)
        waiting = [name for name in waiting[1:] + waiting[:1] if spent[name] < seconds or len(found[name]) < LEAST]
    return {name: Timing.of(taken) for name, taken in found.items()}


def _use_turn(run: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, one at least."""
    taken: list[float] = []
    start = now = time.perf_counter()
    while not taken or now < start + seconds:
        before = now
        run()
        now = time.perf_counter()
        taken.append(now - before)
    return taken


def matrix_peak(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Operations per second (a multiplication and an addition are two) of the fastest of a few square products."""
    sides = SIDES.get(device.type, SIDES["cpu"])
    return max(_operations_per_second(side, device, dtype, seconds / len(sides)) for side in sides)


def _operations_per_second(side: int, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    products = 1 if device.type == "cpu" else PRODUCTS

    def multiply() -> None:
        for _ in range(products):
            torch.mm(left, right, out=out)
        wait_for(device)

    return products * 2 * side**3 / measure(multiply, seconds).p50


def wait_for(device: torch.device) -> None:
    """Returns when the device has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
