"""Balanced sampling: an epoch in which every class comes equally often, however many pictures it has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitkit.data.keys import permutation

__all__ = ["Balance"]


class Balance:
    """The draws of epoch after epoch as one endless row in which the classes take turns.

    A class gives its pictures in an order drawn anew for every round through them, so that none comes a second time
    before all have come once: frequent classes show other pictures in each epoch, rare ones repeat. Of several labels
    a picture stands in the turn of each of its classes, and those without any have a turn of their own.
    """

    def __init__(self, labels: NDArray[Any]) -> None:
        if labels.ndim == 2:
            turns = [np.flatnonzero(column) for column in (*labels.T, ~labels.any(axis=1))]
        else:
            turns = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
        self._turns = [members for members in turns if len(members)]
        self._n = len(labels)

    def draw(self, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pictures of `epoch`, the classes in turn, and numbers that tell repeats of a picture apart: int64 [n].

        A function of (seed, epoch).
        """
        first, count = epoch * self._n, len(self._turns)
        drawn, repeats = np.empty(self._n, np.int64), np.empty(self._n, np.int64)
        for turn, members in enumerate(self._turns):
            places = np.arange((turn - first) % count, self._n, count)
            rounds, within = np.divmod((first + places) // count, len(members))
            for number in np.unique(rounds):
                order = permutation(seed, int(number), len(members), f"balance/{turn}")
                drawn[places[rounds == number]] = members[order[within[rounds == number]]]
            repeats[places] = (rounds - rounds[:1]) * count + turn
        return drawn, repeats
