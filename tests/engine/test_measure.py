"""Timings are NumPy's percentiles of what a clock showed, taken in turns; the matrix peak is what a product reaches."""

import itertools
from collections.abc import Iterator
from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vitkit.engine import measure as module
from vitkit.engine.measure import LEAST, WARM_UP, Timing, matrix_peak, measure, take_turns


class Clock:
    """A machine on which nothing takes time but what says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def run(self, name: str, durations: Iterator[float]) -> None:
        self.calls.append(name)
        self.now += next(durations)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_percentiles_are_numpys_and_warm_up_counts_for_nothing(clock: Clock) -> None:
    durations = np.random.default_rng(0).uniform(0.01, 0.1, 1000)
    calls = itertools.chain([50.0] * WARM_UP, durations)
    timing = measure(lambda: clock.run("", calls), 5)
    turns = [list[float]()]
    for duration in durations:
        if sum(turns[-1]) >= 0.5:
            turns.append([])
        turns[-1].append(duration)
    counted = [duration for turn in turns[: timing.n] for duration in turn[1:]][: timing.n]
    assert len(counted) == timing.n and 4 < sum(counted) < 5
    assert astuple(timing)[:5] == pytest.approx(np.percentile(counted, (25, 50, 75, 95, 99)))


def test_calls_take_turns_first_by_turns_and_each_has_its_time(clock: Clock) -> None:
    quick, slow = itertools.repeat(0.125), itertools.repeat(0.5)
    found = take_turns({"quick": lambda: clock.run("quick", quick), "slow": lambda: clock.run("slow", slow)}, 5)
    assert clock.calls[2 * WARM_UP :] == (4 * ["quick"] + 2 * ["slow"] + 4 * ["quick"]) * 5
    assert found == {"quick": Timing(*[0.125] * 5, 30), "slow": Timing(*[0.5] * 5, 10)}


def test_the_first_call_of_a_turn_counts_only_where_it_fills_it(clock: Clock) -> None:
    cold = itertools.chain([9.0] * WARM_UP, itertools.cycle([0.25, 0.125, 0.125]))
    assert measure(lambda: clock.run("", cold), 5) == Timing(*[0.125] * 5, 20)


def test_a_call_longer_than_its_time_is_still_timed_a_few_times(clock: Clock) -> None:
    timing = measure(lambda: clock.run("", itertools.repeat(7.0)), 1)
    assert (timing.n, timing.p25, timing.p99) == (LEAST, 7, 7)


def test_the_matrix_peak_is_that_of_the_side_which_is_fastest(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {4: 0.01, 8: 0.001, 16: 0.016}
    monkeypatch.setitem(module.SIDES, "cpu", tuple(seconds))
    monkeypatch.setattr(torch, "mm", lambda left, right, out: clock.run("", itertools.repeat(seconds[len(out)])))
    assert matrix_peak(torch.device("cpu"), torch.float32, 0.3) == pytest.approx(2 * 8**3 / 0.001)
