"""Accuracy, its uncertainty and the confusions behind it, counted one picture at a time.

Definitions as in scikit-learn (precision_recall_fscore_support, balanced_accuracy_score, top_k_accuracy_score), which
the tests compare with. Every ratio is a fraction in [0, 1].
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from vitkit.errors import DataError

__all__ = ["ClassScores", "Interval", "Scores", "Tally", "wilson_interval"]

Interval = tuple[float, float]
"""Lower and upper end of a 95 % confidence interval."""


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """How one class fared, of those that have pictures."""

    index: int
    class_name: str
    """The class's name; its index in digits where the checkpoint names no classes."""
    class_id: str | None = None
    count: int
    """Pictures of this class."""
    correct: int
    """Those of them that the model said were of this class."""
    recall: float
    """correct / count: what people call the accuracy of a class."""
    precision: float | None
    """correct / pictures said to be of this class; None where none was."""
    f1: float
    """Harmonic mean of both: 2 correct / (count + pictures said to be of this class)."""
    confused_with: str | None
    """The other class its pictures were taken for most often (the first of several), None where none was."""
    confused_count: int
    """How often that was."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an evaluation found: plain data, JSON-able through vitkit.config.to_dict. Ratios are fractions in [0, 1].

    The intervals are Wilson's, at 95 %: how far the score of `count` pictures drawn alike from the same source may be
    from that of all of them. They say nothing about pictures of another source.
    """

    model: str
    engine: str
    """Engine, precision and device that gave the answers."""
    count: int
    """Pictures scored: those that failed aren't among them."""
    correct: int
    top1: float
    top1_interval: Interval
    top5: float
    """Share of the pictures whose class is among the `top5_k` most probable ones."""
    top5_interval: Interval
    top5_k: int
    """5, or the number of classes if there are fewer; top5 is then 1 by definition."""
    balanced_accuracy: float
    """Mean recall of the classes that have pictures."""
    macro_f1: float
    """Mean F1 of the classes that have pictures."""
    failed: tuple[tuple[str, str], ...] = ()
    """Pictures that couldn't be used, each with its error: they are in no score."""
    per_class: tuple[ClassScores, ...]
    """The classes that have pictures, in the order of the outputs."""
    confusion: tuple[tuple[int, int, int], ...]
    """(label, predicted class, pictures), as indices, for each pair that occurred, in order."""
    seconds: float
    """Wall time of reading and running the pictures."""

    def __str__(self) -> str:
        """The result in one line, in percent."""
        top1, top5 = (
            f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
            for value, (low, high) in ((self.top1, self.top1_interval), (self.top5, self.top5_interval))
        )
        left_out = f", {len(self.failed):,} failed and left out" if self.failed else ""
        return f"top-1 {top1}, top-{self.top5_k} {top5}, {self.count:,} pictures{left_out}; {self.model}, {self.engine}"


class Tally:
    """Counts hits and confusions as answers come in; memory grows with the confused pairs, not with the pictures."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.k = min(5, num_classes)
        self.count = 0
        self.correct = 0
        self.hits = 0
        """Pictures whose class is among the best `k`."""
        self.confusion: Counter[tuple[int, int]] = Counter()
        """(label, predicted class) -> pictures."""

    def add(self, label: int, scores: NDArray[np.floating]) -> None:
        """Counts one picture of class `label`, given logits or probabilities [K], all finite.

        Equal scores rank in the order of the classes, as in `Predictor.predictions`. Raises DataError for a label that
        is no class.
        """
        if not 0 <= label < self.num_classes:
            raise DataError(f"label {label} is outside the model's {self.num_classes} classes")
        predicted = int(scores.argmax())
        # The label's place in a stable sort of the scores, without the sort.
        rank = int(np.count_nonzero(scores > scores[label]) + np.count_nonzero(scores[:label] == scores[label]))
        self.count += 1
        self.correct += rank == 0
        self.hits += rank < self.k
        self.confusion[label, predicted] += 1

    def scores(
        self,
        *,
        model: str,
        engine: str,
        class_names: Sequence[str] | None = None,
        class_ids: Sequence[str] | None = None,
        failed: Sequence[tuple[str, str]] = (),
        seconds: float,
    ) -> Scores:
        """The scores so far. Raises DataError where nothing was counted."""
        if not self.count:
            first = f"none of {len(failed)} pictures can be used; {failed[0][1]}" if failed else "there are no pictures"
            raise DataError(f"{first}; nothing to score")
        per_class = self._per_class(class_names, class_ids)
        return Scores(
            model=model,
            engine=engine,
            count=self.count,
            correct=self.correct,
            top1=self.correct / self.count,
            top1_interval=wilson_interval(self.correct, self.count),
            top5=self.hits / self.count,
            top5_interval=wilson_interval(self.hits, self.count),
            top5_k=self.k,
            balanced_accuracy=sum(row.recall for row in per_class) / len(per_class),
            macro_f1=sum(row.f1 for row in per_class) / len(per_class),
            failed=tuple(failed),
            per_class=per_class,
            confusion=tuple((label, said, times) for (label, said), times in sorted(self.confusion.items())),
            seconds=seconds,
        )

    def _per_class(self, names: Sequence[str] | None, ids: Sequence[str] | None) -> tuple[ClassScores, ...]:
        counts: Counter[int] = Counter()
        said_counts: Counter[int] = Counter()
        most: dict[int, tuple[int, int]] = {}
        for (label, said), times in sorted(self.confusion.items()):
            counts[label] += times
            said_counts[said] += times
            if said != label and times > most.get(label, (said, 0))[1]:
                most[label] = said, times
        rows = []
        for index, count in sorted(counts.items()):
            correct, said_count = self.confusion[index, index], said_counts[index]
            other, times = most.get(index, (None, 0))
            rows.append(
                ClassScores(
                    index=index,
                    class_name=names[index] if names else str(index),
                    class_id=ids[index] if ids else None,
                    count=count,
                    correct=correct,
                    recall=correct / count,
                    precision=correct / said_count if said_count else None,
                    f1=2 * correct / (count + said_count),
                    confused_with=None if other is None else names[other] if names else str(other),
                    confused_count=times,
                )
            )
        return tuple(rows)


def wilson_interval(hits: int, count: int) -> Interval:
    """The 95 % confidence interval of the share hits / count, within [0, 1]; `count` is at least 1.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22 (1927), 209-212. Unlike the normal approximation it is right near 0 and 1 and for few
    pictures.
    """
    z = NormalDist().inv_cdf(0.975)

    def lower(hits: int) -> float:
        return (hits + z * z / 2 - z * math.sqrt(hits * (count - hits) / count + z * z / 4)) / (count + z * z)

    # By symmetry; so both ends are exact, 0 without a hit and 1 without a miss.
    return lower(hits), 1 - lower(count - hits)
