"""How much memory a training step takes, measured, and the largest batch that fits."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitkit.errors import ConfigError
from vitkit.training.loop import TrainingData
from vitkit.training.objective import Objective
from vitkit.training.spec import TrainSpec
from vitkit.training.trial import try_steps

__all__ = ["MemoryPlan", "peak_of_step", "plan_batch", "scaled_lr"]

FILLED = 0.6
"""Of the free memory, what tensors may take. Kernels have workspaces and memory has gaps: measured on a CPU, a process
takes 1.3 times as much (ViT-Ti/16 at 224 pixels, for every picture more)."""
STEADY = 0.05
"""Bytes per picture count as known where two sizes in a row agree so far."""


@dataclass(frozen=True)
class MemoryPlan:
    """The largest batch, and what it follows from."""

    batch_size: int
    step_bytes: int
    """Of a step of that size, weights and optimiser included."""
    free_bytes: int


def plan_batch(peak: Callable[[int], int], *, free_bytes: int, most: int, least: int = 1) -> MemoryPlan:
    """The largest power of two, from `least` to `most`, whose step fits into `FILLED` of `free_bytes`.

    `peak` measures the bytes of a step of so many pictures: of `least`, twice as many, ... until they take more than
    weights and optimiser do, and one more costs the same twice running; from there on bytes grow evenly. What may be
    more than is free isn't tried. Raises ConfigError where not even `least` fit.
    """
    allowed = int(FILLED * free_bytes)
    size, taken, per_picture = least, peak(least), 0.0
    if taken > allowed:
        counted = "one picture" if least == 1 else f"{least} pictures"
        raise ConfigError(
            f"batch_size 'auto': a step of {counted} takes {taken / 2**30:.2f} GiB, and {FILLED:.0%} of the free "
            f"memory is {allowed / 2**30:.2f} GiB; choose a smaller model, smaller pictures or gradient_checkpointing"
        )
    while 2 * size <= most and taken + 2 * per_picture * size <= free_bytes:
        more = peak(2 * size)
        if more > allowed:
            return MemoryPlan(size, taken, free_bytes)
        before, per_picture = per_picture, (more - taken) / size
        size, taken = 2 * size, more
        if per_picture * size > taken / 2 and abs(per_picture - before) <= STEADY * per_picture:
            break
    else:
        return MemoryPlan(size, taken, free_bytes)
    fits = size + int((allowed - taken) / per_picture)
    largest = 2 ** int(math.log2(min(fits, most)))
    return MemoryPlan(largest, int(taken + (largest - size) * per_picture), free_bytes)


def scaled_lr(spec: TrainSpec, batch_size: int) -> float:
    """The rate of `spec` for another batch: in proportion for SGD (Goyal et al., 2017), else by the square root.

    Malladi et al., 2022 (arXiv:2205.10287) for Adam's kind.
    """
    times = batch_size / spec.batch_size
    return spec.lr * (times if spec.optimizer == "sgd" else math.sqrt(times))


def peak_of_step(
    model: nn.Module,
    objective: Objective,
    data: TrainingData,
    spec: TrainSpec,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> int:
    """The most bytes that tensors take on `device` in the second of two training steps of copies; not compiled.

    The second one finds the optimiser's state in its place. On CUDA the allocator tells, elsewhere `Live` counts.
    """
    live = Live()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with nullcontext() if device.type == "cuda" else live:
        for _ in try_steps(model, objective, data, spec, 2, device=device, dtype=dtype):
            pass
    return torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else live.peak


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all that operations make while it lasts, as long as they are held, backward included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self._held: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation and counts what it returns."""
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._held:  # views and changes in place share one
            self._held.add(storage._cdata)
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._release, storage._cdata, storage.nbytes()).atexit = False

    def _release(self, storage: int, size: int) -> None:
        self._held.discard(storage)
        self.bytes -= size
