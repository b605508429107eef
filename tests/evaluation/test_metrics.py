"""Counting one at a time gives the numbers that scikit-learn and SciPy compute at once."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from vitkit import DataError
from vitkit.config import from_dict, to_dict
from vitkit.evaluation.metrics import Scores, Tally, wilson_interval


def draw(count: int, num_classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits that are right about half of the time. Every class has a picture."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, count - num_classes)])
    logits = rng.normal(size=(count, num_classes)).astype(np.float32)
    logits[np.arange(count), labels] += 1.2
    return labels, logits


def tally(labels: np.ndarray, logits: np.ndarray) -> Tally:
    counted = Tally(logits.shape[1])
    for label, row in zip(labels, logits, strict=True):
        counted.add(int(label), row)
    return counted


def scored(labels: np.ndarray, logits: np.ndarray) -> Scores:
    return tally(labels, logits).scores(model="m", engine="e", seconds=1.0)


@pytest.mark.parametrize("num_classes", [3, 5, 6, 40])
def test_top1_and_top5_are_those_of_scikit_learn(num_classes: int) -> None:
    labels, logits = draw(500, num_classes)
    scores = scored(labels, logits)
    assert scores.top5_k == min(5, num_classes)
    assert scores.count == 500
    assert scores.correct == np.sum(logits.argmax(1) == labels)
    assert scores.top1 == pytest.approx(metrics.accuracy_score(labels, logits.argmax(1)))
    if num_classes > 5:
        every = np.arange(num_classes)
        assert scores.top5 == pytest.approx(metrics.top_k_accuracy_score(labels, logits, k=5, labels=every))
        assert scores.top1 < scores.top5 < 1
    else:
        assert scores.top5 == 1


@pytest.mark.parametrize("num_classes", [2, 7, 40])
def test_each_class_has_the_precision_recall_and_f1_of_scikit_learn(num_classes: int) -> None:
    labels, logits = draw(300, num_classes)
    said = logits.argmax(1)
    scores = scored(labels, logits)
    precision, recall, f1, count = metrics.precision_recall_fscore_support(
        labels, said, labels=np.arange(num_classes), zero_division=0
    )
    assert [row.index for row in scores.per_class] == list(range(num_classes))
    assert [row.count for row in scores.per_class] == count.tolist()
    assert [row.recall for row in scores.per_class] == pytest.approx(recall.tolist())
    assert [row.precision or 0 for row in scores.per_class] == pytest.approx(precision.tolist())
    assert [row.f1 for row in scores.per_class] == pytest.approx(f1.tolist())
    assert scores.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, said))
    assert scores.macro_f1 == pytest.approx(metrics.f1_score(labels, said, average="macro"))


def test_the_confusions_are_those_of_scikit_learn() -> None:
    labels, logits = draw(300, 8)
    scores = scored(labels, logits)
    counts = np.zeros((8, 8), int)
    for label, said, times in scores.confusion:
        counts[label, said] = times
    expected = metrics.confusion_matrix(labels, logits.argmax(1))
    np.testing.assert_array_equal(counts, expected)
    np.fill_diagonal(expected, 0)
    assert [row.confused_with for row in scores.per_class] == [str(index) for index in expected.argmax(1)]
    assert [row.confused_count for row in scores.per_class] == expected.max(1).tolist()


@pytest.mark.parametrize(
    ("hits", "count"), [(0, 1), (1, 1), (0, 40), (40, 40), (172, 200), (1, 50_000), (41_000, 50_000)]
)
def test_the_interval_is_scipys_wilson_interval(hits: int, count: int) -> None:
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(hits, count)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-12, abs=1e-15)
    assert 0 <= low <= hits / count <= high <= 1


def test_equal_scores_rank_in_the_order_of_the_classes() -> None:
    rng = np.random.default_rng(0)
    for row in rng.integers(0, 3, (200, 9)).astype(np.float64):
        order = np.argsort(-row, kind="stable")
        for label in range(9):
            counted = Tally(9)
            counted.add(label, row)
            assert counted.correct == (order[0] == label)
            assert counted.hits == (label in order[:5])
            assert list(counted.confusion) == [(label, order[0])]


def test_classes_without_pictures_have_no_row_and_no_say_in_the_balance() -> None:
    scores = scored(np.array([1, 1, 1, 3]), np.eye(6)[[1, 1, 4, 5]])
    assert [(row.index, row.recall, row.precision) for row in scores.per_class] == [(1, 2 / 3, 1), (3, 0, None)]
    assert scores.balanced_accuracy == pytest.approx(1 / 3)


def test_a_class_that_is_always_right_is_confused_with_none() -> None:
    row = scored(np.array([0]), np.array([[2.0]])).per_class[0]
    assert (row.confused_with, row.confused_count, row.precision, row.f1) == (None, 0, 1, 1)


def test_of_equally_common_confusions_the_first_class_is_named() -> None:
    row = scored(np.array([1, 1, 1]), np.eye(4)[[3, 2, 1]]).per_class[0]
    assert (row.confused_with, row.confused_count) == ("2", 1)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    with pytest.raises(DataError, match=f"label {label} is outside the model's 3 classes"):
        Tally(3).add(label, np.zeros(3))


def test_nothing_counted_is_an_error_and_not_a_division_by_zero() -> None:
    with pytest.raises(DataError, match="no pictures"):
        Tally(3).scores(model="m", engine="e", seconds=0.0)


def test_scores_survive_json_and_read_as_one_line() -> None:
    labels, logits = draw(200, 6)
    scores = tally(labels, logits).scores(
        model="m", engine="e", class_names=tuple("abcdef"), failed=[("x.png", "x.png: broken")], seconds=0.5
    )
    assert from_dict(Scores, json.loads(json.dumps(to_dict(scores))), origin="a file") == scores
    line = str(scores)
    assert f"top-1 {scores.top1:.1%}".replace("%", " %") in line
    assert "200 pictures, 1 failed and left out; m, e" in line and "\n" not in line
