"""Scores of answers with several labels, as scikit-learn defines them; every ratio is a fraction in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LabelScores", "average_precision", "score_labels", "summary"]


@dataclass(frozen=True, eq=False)
class LabelScores:
    """What `score_labels` found. A class without a picture, or that is never said, counts 0 where it divides by it."""

    average_precision: NDArray[np.float64]
    """[K], NaN for a class that no picture bears: it is in no mean."""
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    """[K] each, of the answers above the threshold."""
    mean_average_precision: float
    micro_f1: float
    """Of all answers of all classes together."""
    macro_f1: float
    """Mean of the classes that a picture bears."""
    exact_match: float
    """Share of the pictures with all answers right."""


def summary(scores: object) -> dict[str, float]:
    """The four numbers that speak of all classes, of anything that has them, under the names of logs and reports."""
    return {
        name.replace("mean_average_precision", "mAP"): getattr(scores, name)
        for name in ("mean_average_precision", "micro_f1", "macro_f1", "exact_match")
    }


def score_labels(labels: NDArray[np.bool_], answers: NDArray[np.floating], *, threshold: float = 0.0) -> LabelScores:
    """Scores answers [n, K], above the threshold a yes (0 for logits), against the labels [n, K]."""
    said = answers > threshold
    borne, asserted, hits = labels.sum(axis=0), said.sum(axis=0), (labels & said).sum(axis=0)
    there = borne > 0
    precisions = np.array([average_precision(*pair) for pair in zip(labels.T, answers.T, strict=True)])
    f1 = _ratio(2 * hits, borne + asserted)
    return LabelScores(
        average_precision=precisions,
        precision=_ratio(hits, asserted),
        recall=_ratio(hits, borne),
        f1=f1,
        mean_average_precision=float(precisions[there].mean()) if there.any() else 0.0,
        micro_f1=float(_ratio(2 * hits.sum(), borne.sum() + asserted.sum())),
        macro_f1=float(f1[there].mean()) if there.any() else 0.0,
        exact_match=float((labels == said).all(axis=1).mean()),
    )


def average_precision(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """The precision at each yes, mean of all of them; equal scores count together. NaN without a yes."""
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(labels[order])[last_of_equals]
    precision = hits / (np.flatnonzero(last_of_equals) + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / hits[-1])


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)
