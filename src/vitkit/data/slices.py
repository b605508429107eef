"""How the batch of a step is cut into slices, for several processes and for accumulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Slices"]


@dataclass(frozen=True)
class Slices:
    """The slices of every batch that one process computes: `accumulate` of them, one after another."""

    process: int = 0
    processes: int = 1
    accumulate: int = 1

    @property
    def total(self) -> int:
        """How many slices all processes make of a batch."""
        return self.processes * self.accumulate

    def rows(self, turn: int, size: int) -> NDArray[np.int64]:
        """Places of the process's slice number `turn` in a batch of `size`, int64 [B], ascending.

        Whole pairs {i, size - 1 - i}, so that who is mixed with whom (`mix.py`) stays together, and the order is
        mirrored as in the batch. Empty where there are more slices than pairs.
        """
        number, pairs = self.process * self.accumulate + turn, (size + 1) // 2
        low, high = (edge * pairs // self.total for edge in (number, number + 1))
        return np.concatenate([np.arange(low, high), np.arange(max(high, size - high), size - low)])
