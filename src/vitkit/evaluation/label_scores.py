"""Scores of pictures with several labels: average precision, F1 and exact matches, of all classes and of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitkit.errors import DataError
from vitkit.training.scores import score_labels

__all__ = ["THRESHOLD", "LabelClassScores", "LabelTally", "MultiLabelScores"]

THRESHOLD = 0.5
"""The probability above which a class is said."""


@dataclass(frozen=True, kw_only=True)
class LabelClassScores:
    """How one class fared."""

    index: int
    class_name: str
    """The class's name; its index in digits where the checkpoint names no classes."""
    class_id: str | None = None
    count: int
    """Pictures that bear it."""
    average_precision: float | None
    """None where no picture bears it."""
    precision: float
    recall: float
    f1: float
    """At probability 0.5; 0 where they would divide by 0."""


@dataclass(frozen=True, kw_only=True)
class MultiLabelScores:
    """What an evaluation of several labels found, as scikit-learn defines it. Ratios are fractions in [0, 1]."""

    model: str
    engine: str
    """Engine, precision and device that gave the answers."""
    count: int
    """Pictures scored: those that failed aren't among them."""
    mean_average_precision: float
    """Of the classes that a picture bears."""
    micro_f1: float
    """Of the answers of all classes together, at probability 0.5."""
    macro_f1: float
    """Mean of the classes that a picture bears."""
    exact_match: float
    """Share of the pictures with every class right."""
    failed: tuple[tuple[str, str], ...] = ()
    """Pictures that couldn't be used, each with its error: they are in no score."""
    per_class: tuple[LabelClassScores, ...]
    """All classes, in the order of the outputs."""
    seconds: float
    """Wall time of reading and running the pictures."""

    def __str__(self) -> str:
        """The result in one line, in percent."""
        left_out = f", {len(self.failed):,} failed and left out" if self.failed else ""
        return (
            f"mAP {self.mean_average_precision:.1%}, F1 {self.micro_f1:.1%} micro, {self.macro_f1:.1%} macro, all "
            f"labels right {self.exact_match:.1%}, {self.count:,} pictures{left_out}; {self.model}, {self.engine}"
        )


class LabelTally:
    """Gathers answers as they come in; memory grows by K numbers a picture."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._labels: list[NDArray[np.bool_]] = []
        self._chances: list[NDArray[np.float64]] = []

    def add(self, labels: Collection[int], chances: NDArray[np.float64]) -> None:
        """Takes one picture that bears `labels`, and the probabilities [K] of its answer."""
        beyond = [label for label in labels if not 0 <= label < self.num_classes]
        if beyond:
            raise DataError(f"label {beyond[0]} is outside the model's {self.num_classes} classes")
        row = np.zeros(self.num_classes, bool)
        row[list(labels)] = True
        self._labels.append(row)
        self._chances.append(chances)

    def scores(
        self,
        *,
        model: str,
        engine: str,
        class_names: Sequence[str] | None = None,
        class_ids: Sequence[str] | None = None,
        failed: Sequence[tuple[str, str]] = (),
        seconds: float,
    ) -> MultiLabelScores:
        """The scores so far. Raises DataError where nothing was gathered."""
        if not self._labels:
            first = f"none of {len(failed)} pictures can be used; {failed[0][1]}" if failed else "there are no pictures"
            raise DataError(f"{first}; nothing to score")
        labels = np.stack(self._labels)
        found = score_labels(labels, np.stack(self._chances), threshold=THRESHOLD)
        counts = labels.sum(axis=0)
        return MultiLabelScores(
            model=model,
            engine=engine,
            count=len(labels),
            mean_average_precision=found.mean_average_precision,
            micro_f1=found.micro_f1,
            macro_f1=found.macro_f1,
            exact_match=found.exact_match,
            failed=tuple(failed),
            per_class=tuple(
                LabelClassScores(
                    index=index,
                    class_name=class_names[index] if class_names else str(index),
                    class_id=class_ids[index] if class_ids else None,
                    count=int(count),
                    average_precision=float(found.average_precision[index]) if count else None,
                    precision=float(found.precision[index]),
                    recall=float(found.recall[index]),
                    f1=float(found.f1[index]),
                )
                for index, count in enumerate(counts)
            ),
            seconds=seconds,
        )
