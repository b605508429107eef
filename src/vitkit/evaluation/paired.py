"""Two classifiers on the same pictures: which one is right more often, and whether that could be chance.

McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", Psychometrika 12
(1947); Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
data", Journal of Educational and Behavioral Statistics 37 (2012).
"""

from __future__ import annotations

import math
from statistics import NormalDist

from vitkit.evaluation.metrics import Interval

__all__ = ["mcnemar", "paired_interval"]


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p of McNemar's test: how likely a split at least as uneven is if both are equally good.

    `only_a` pictures were named rightly by the first classifier alone, `only_b` by the second alone; those that both or
    neither named rightly say nothing.
    """
    count = only_a + only_b
    tail = sum(math.comb(count, hits) for hits in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / (1 << count))


def paired_interval(only_a: int, only_b: int, count: int) -> Interval:
    """The 95 % confidence interval of the difference of the two accuracies, (only_a - only_b) / count, within [-1, 1].

    `count` pictures in all, at least 1. Bonett and Price's equation 4: one picture more of each kind, then Wald's.
    """
    a, b = (only_a + 1) / (count + 2), (only_b + 1) / (count + 2)
    reach = NormalDist().inv_cdf(0.975) * math.sqrt((a + b - (a - b) ** 2) / (count + 2))
    return max(-1.0, a - b - reach), min(1.0, a - b + reach)
