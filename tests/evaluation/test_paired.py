"""Paired comparisons against SciPy's binomial test, and by simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest

from vitkit.evaluation.paired import mcnemar, paired_interval


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (3, 3), (6, 10), (11, 0), (120, 88), (700, 650)])
def test_mcnemars_p_is_that_of_a_binomial_test(only_a: int, only_b: int) -> None:
    expected = binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(only_b, only_a) == mcnemar(only_a, only_b)


def test_without_a_picture_that_tells_them_apart_nothing_is_shown() -> None:
    assert mcnemar(0, 0) == 1
    low, high = paired_interval(0, 0, 50)
    assert low == -high < 0


@pytest.mark.parametrize(("a", "b", "count"), [(0.1, 0.05, 60), (0.02, 0.02, 200), (0.3, 0.1, 400)])
def test_95_percent_of_the_intervals_hold_the_true_difference(a: float, b: float, count: int) -> None:
    draws = np.random.default_rng(0).multinomial(count, [a, b, 1 - a - b], size=4000)
    intervals = [paired_interval(int(only_a), int(only_b), count) for only_a, only_b, _ in draws]
    held = np.mean([low <= a - b <= high for low, high in intervals])
    assert 0.945 <= held <= 0.985  # Bonett and Price, table 1: never far below, a little above for few pictures


def test_for_many_pictures_the_interval_is_the_bootstraps() -> None:
    rng = np.random.default_rng(0)
    signs = np.repeat([1, -1, 0], [300, 220, 4480])
    means = [rng.choice(signs, len(signs)).mean() for _ in range(2000)]
    assert paired_interval(300, 220, 5000) == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=6e-4)
