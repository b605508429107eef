"""Numbers from keys: the reference generator's, uniform, independent, and the same for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vitkit.data import keys
from vitkit.data.keys import normal, permutation, step_seed, uniform

N = 100_000
INDEX = np.arange(N)


def test_the_generator_is_splitmix64() -> None:
    # The outputs for seed 1234567 that the C reference by Vigna (prng.di.unimi.it/splitmix64.c) gives.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [keys._mix((1234567 + (at + 1) * keys.GAMMA) & keys.MASK) for at in range(4)] == expected


@given(st.integers(-(2**63), 2**63 - 1), st.text(max_size=5))
def test_the_array_and_the_number_are_mixed_alike(index: int, stream: str) -> None:
    value = keys._key(3, 4, keys._word(stream), index % 2**64) >> 11
    assert uniform(3, 4, np.array([index]), stream).tolist() == [value * 2.0**-53]


def test_numbers_stay_the_same_for_ever() -> None:
    index = np.array([0, 1, 2**40, -1])
    assert uniform(0, 0, index, "flip").tolist() == GOLDEN["uniform"]
    assert uniform(-5, 7, index, "flip").tolist() == GOLDEN["uniform, negative seed"]
    assert normal(1, 2, index, "blur").tolist() == pytest.approx(GOLDEN["normal"], rel=1e-14)
    assert permutation(3, 1, 10).tolist() == GOLDEN["permutation"]
    assert [step_seed(0, 0), step_seed(0, 1), step_seed(1, 0)] == GOLDEN["step_seed"]


@pytest.mark.parametrize("key", [(0, 0, "a"), (0, 1, "a"), (1, 0, "a"), (0, 0, "b"), (2**62, 10**6, "crop left")])
def test_numbers_are_uniform_and_normal(key: tuple[int, int, str]) -> None:
    seed, epoch, stream = key
    values = uniform(seed, epoch, INDEX, stream)
    assert values.min() >= 0 and values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert stats.kstest(normal(seed, epoch, INDEX, stream), "norm").pvalue > 1e-3


def test_neighbours_in_every_word_of_the_key_are_independent() -> None:
    base = uniform(0, 0, INDEX, "a")
    others = [
        uniform(1, 0, INDEX, "a"),
        uniform(0, 1, INDEX, "a"),
        uniform(0, 0, INDEX, "b"),
        uniform(0, 0, INDEX + 1, "a"),
    ]
    for other in others:
        cells, *_ = np.histogram2d(base, other, bins=16, range=[[0, 1], [0, 1]])
        assert stats.chisquare(cells.ravel()).pvalue > 1e-3
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / np.sqrt(N)
    over_epochs = np.array([uniform(0, epoch, np.array([7]), "a")[0] for epoch in range(5000)])
    assert stats.kstest(over_epochs, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(over_epochs[1:], over_epochs[:-1])[0, 1]) < 5 / np.sqrt(5000)


@given(st.integers(), st.integers(0, 2**40), st.lists(st.integers(0, 2**50), min_size=1, max_size=9))
def test_a_number_depends_on_its_key_and_not_on_its_company(seed: int, epoch: int, index: list[int]) -> None:
    together = uniform(seed, epoch, np.array(index), "x")
    assert together.tolist() == [uniform(seed, epoch, np.array([at]), "x")[0] for at in index]


@given(st.integers(0, 10), st.integers(0, 10), st.integers(0, 500))
def test_an_order_has_every_picture_once(seed: int, epoch: int, n: int) -> None:
    assert np.sort(permutation(seed, epoch, n)).tolist() == list(range(n))


def test_orders_are_evenly_spread() -> None:
    counts = np.zeros((4, 4))
    for epoch in range(4000):
        counts[np.arange(4), permutation(0, epoch, 4)] += 1
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_step_seeds_differ_and_suit_torch() -> None:
    seeds = {step_seed(seed, step) for seed in range(30) for step in range(300)}
    assert len(seeds) == 9000 and min(seeds) >= 0 and max(seeds) < 2**63


# Written once by this code; a change of any of them changes every training run.
GOLDEN = {
    "normal": [2.1049499590184833, 0.2457890423958497, -1.5114491639264522, 0.044677568458896665],
    "permutation": [5, 8, 7, 2, 6, 0, 4, 3, 1, 9],
    "step_seed": [1423352191884269717, 1300214724716505765, 230018696928603901],
    "uniform": [0.4294509457386425, 0.31242688687051556, 0.018180948140771647, 0.03547168601683415],
    "uniform, negative seed": [0.739716585227894, 0.0812320167192333, 0.7913651157873971, 0.3545919078963301],
}
