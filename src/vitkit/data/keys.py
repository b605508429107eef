"""Random numbers as functions of a key, so that nothing depends on what was drawn before and no state is ever saved.

A number is the index-th output of a SplitMix64 generator (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014) whose seed is, in the same way, grown from the words (seed, epoch, stream). Integers only
until the last step: the same on every machine and in every version of Python and NumPy.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Draws", "normal", "permutation", "step_seed", "uniform"]

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15  # the odd number nearest to 2^64 / golden ratio
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def uniform(seed: int, epoch: int, index: NDArray[np.int64], stream: str) -> NDArray[np.float64]:
    """Numbers in [0, 1), float64 [B], one for each of `index` [B]; multiples of 2^-53.

    `stream` names what the numbers are for: different names give independent numbers.
    """
    return np.asarray((_outputs(seed, epoch, index, stream) >> np.uint64(11)) * 2.0**-53, np.float64)


def normal(seed: int, epoch: int, index: NDArray[np.int64], stream: str) -> NDArray[np.float64]:
    """Standard normal numbers, float64 [B], by Box and Muller (1958); the last bit is the platform's log and cos."""
    radius = np.sqrt(-2 * np.log1p(-uniform(seed, epoch, index, stream)))
    return np.asarray(radius * np.cos(2 * np.pi * uniform(seed, epoch, index, f"{stream}/angle")))


@dataclass(frozen=True, eq=False)
class Draws:
    """What each of the pictures `index` [B] draws in one epoch, by what it is for."""

    seed: int
    epoch: int
    index: NDArray[np.int64]
    view: int = 0

    def uniform(self, stream: str, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
        """Numbers in low..high, in the shape of `index`."""
        return low + (high - low) * uniform(self.seed, self.epoch, self.index, f"{self.view}/{stream}")

    def normal(self, stream: str) -> NDArray[np.float64]:
        """Standard normal numbers, in the shape of `index`."""
        return normal(self.seed, self.epoch, self.index, f"{self.view}/{stream}")

    def each(self, count: int) -> Draws:
        """The same with `count` numbers for every picture, [B, count]."""
        return dataclasses.replace(self, index=self.index[:, None] * count + np.arange(count))


def permutation(seed: int, epoch: int, n: int, stream: str = "order") -> NDArray[np.int64]:
    """The order of `n` pictures in an epoch: 0..n-1, int64 [n]."""
    return np.argsort(_outputs(seed, epoch, np.arange(n), stream))  # outputs of one generator never tie


def step_seed(seed: int, step: int) -> int:
    """A seed in 0..2^63-1 for what a step draws itself, such as dropout: torch.manual_seed(step_seed(seed, step))."""
    return _key(seed, step, _word("step")) >> 1


def _outputs(seed: int, epoch: int, index: NDArray[np.int64], stream: str) -> NDArray[np.uint64]:
    """Outputs number `index` of the generator that the other words seed."""
    z = index.astype(np.uint64)  # a copy; products and sums are modulo 2^64
    z += np.uint64(1)
    z *= np.uint64(GAMMA)
    z += np.uint64(_key(seed, epoch, _word(stream)))
    # As `_mix`, in place.
    z ^= z >> np.uint64(30)
    z *= np.uint64(FIRST)
    z ^= z >> np.uint64(27)
    z *= np.uint64(SECOND)
    z ^= z >> np.uint64(31)
    return z


def _key(*words: int) -> int:
    key = 0
    for word in words:
        key = _mix((key + (word + 1) * GAMMA) & MASK)
    return key


def _word(stream: str) -> int:
    return int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "little")


def _mix(z: int) -> int:
    """SplitMix64's mixer, a bijection of 64-bit words (Stafford's variant 13)."""
    z = ((z ^ (z >> 30)) * FIRST) & MASK
    z = ((z ^ (z >> 27)) * SECOND) & MASK
    return z ^ (z >> 31)
