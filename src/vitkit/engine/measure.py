"""How long a call takes, warm-up apart; and the most that a machine's matrix products reach, to hold it against."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

__all__ = ["Timing", "matrix_peak", "measure", "take_turns"]

WARM_UP = 2
"""Calls that count for nothing, whatever they take: caches are filled, code is generated."""
LEAST = 3
"""Calls that are timed, even past the time there is."""
SLICES = 10
"""Turns that each call gets: whatever else slows the machine for a while is shared by all."""
SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
"""Of square matrices: which is the fastest differs by machine."""
PRODUCTS = 4
"""One after the other on an accelerator, so that waiting for it costs little."""


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
    def of(cls, seconds: list[float]) -> Self:
        """The percentiles of what was measured, one value or more."""
        p25, p50, p75, p95, p99 = map(float, np.percentile(seconds, (25, 50, 75, 95, 99)))
        return cls(p25, p50, p75, p95, p99, len(seconds))


def measure(run: Callable[[], object], seconds: float) -> Timing:
    """Calls `run` for about so many seconds. It must return only when its work is done."""
    return take_turns({"": run}, seconds)[""]


def take_turns(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Timing]:
    """As `measure`, for several calls on an equal footing: each has `seconds`, in short turns, first by turns too."""
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    waiting = list(runs)
    while waiting:
        for name in waiting:
            _use_turn(runs[name], seconds / SLICES, found[name])
        waiting = [name for name in waiting[1:] + waiting[:1] if sum(found[name]) < seconds or len(found[name]) < LEAST]
    return {name: Timing.of(measured) for name, measured in found.items()}


def _use_turn(run: Callable[[], object], seconds: float, found: list[float]) -> None:
    end = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        found.append(now - start)
        if now >= end:
            return


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
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    return products * 2 * side**3 / measure(multiply, seconds).p50
