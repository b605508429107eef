"""Scores of several labels equal scikit-learn's, ties and absent classes included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, precision_recall_fscore_support

from vitkit.training.scores import average_precision, score_labels, summary


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 5), st.sampled_from([0, 1, 6]))
def test_scores_are_scikit_learns(seed: int, n: int, classes: int, digits: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.random((n, classes)) < draw.random(classes) * 0.9
    answers = draw.normal(size=(n, classes)).round(digits)  # few digits: many ties
    said = answers > 0
    found = score_labels(labels, answers)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, said, average=None, zero_division=0)
    np.testing.assert_allclose(found.precision, precision)
    np.testing.assert_allclose(found.recall, recall)
    np.testing.assert_allclose(found.f1, f1)
    there = labels.any(axis=0)
    averages = [average_precision_score(labels[:, at], answers[:, at]) for at in np.flatnonzero(there)]
    np.testing.assert_allclose(found.average_precision[there], averages)
    assert np.isnan(found.average_precision[~there]).all()
    expected = {
        "mAP": np.mean(averages) if there.any() else 0,
        "micro_f1": f1_score(labels, said, average="micro", zero_division=0),
        "macro_f1": f1[there].mean() if there.any() else 0,
        "exact_match": accuracy_score(labels, said),
    }
    assert summary(found) == pytest.approx(expected)


def test_average_precision_by_hand() -> None:
    labels = np.array([True, False, True, False])
    assert average_precision(labels, np.array([4.0, 3.0, 2.0, 1.0])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(labels, np.zeros(4)) == 0.5


def test_the_threshold_is_of_the_answers() -> None:
    chances = np.array([[0.4, 0.6], [0.7, 0.2]])
    labels = np.array([[False, True], [True, False]])
    assert score_labels(labels, chances, threshold=0.5).exact_match == 1
    assert score_labels(labels, chances).exact_match == 0
