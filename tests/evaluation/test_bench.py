"""A race gives each contestant's own times, and its forecast is how long it takes: on a clock that only calls move."""

from types import SimpleNamespace

import pytest

from vitkit.engine import measure
from vitkit.evaluation import bench
from vitkit.evaluation.bench import Contestant, Rate, Work, core_seconds, forecast, race


class Machine:
    """Calls take the seconds they say, on two cores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        clock = SimpleNamespace(perf_counter=lambda: self.now, process_time=lambda: 2 * self.now)
        monkeypatch.setattr(measure, "time", clock)
        monkeypatch.setattr(bench, "time", clock)

    def work(self, images: int, seconds: float) -> Work:
        def run() -> None:
            self.now += seconds

        return Work(images, run)

    def contestant(self, one: float, batches: dict[int, float], many: float) -> Contestant:
        works = tuple(self.work(*batch) for batch in batches.items())
        return Contestant(self.work(1, one).run, works, self.work(64, many))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_each_contestant_comes_to_its_own_times(machine: Machine) -> None:
    quick = machine.contestant(0.01, {1: 0.008, 8: 0.04, 32: 0.2}, 0.4)
    slow = machine.contestant(0.03, {1: 0.02, 8: 0.08}, 1.6)
    found = race({"quick": quick, "slow": slow}, 20)
    assert found["quick"].latency.p50 == pytest.approx(0.01) and found["slow"].latency.p99 == pytest.approx(0.03)
    assert [rate.images for rate in found["quick"].batches] == [1, 8, 32]
    assert [rate.images_per_s for rate in found["quick"].batches] == pytest.approx([125, 200, 160])
    assert found["quick"].best.images == 8 and found["slow"].best.images_per_s == pytest.approx(100)
    assert found["quick"].many.images_per_s == pytest.approx(160)
    assert found["slow"].many.images_per_s == pytest.approx(40)


def test_a_rate_is_the_median_between_the_quartiles_of_its_calls() -> None:
    timing = measure.Timing.of([0.1, 0.2, 0.4, 0.5, 0.8])
    assert Rate.of(8, timing) == Rate(8, images_per_s=20, low=16, high=40)


@pytest.mark.parametrize("seconds", [0.1, 30])
def test_the_forecast_is_what_the_race_takes(machine: Machine, seconds: float) -> None:
    batch_s = {size: 0.025 * size for size in (1, 8, 32)}
    contestants = {name: machine.contestant(0.025, batch_s, 64 * 0.025) for name in "ab"}
    expected = forecast(contestants, {"a": 0.025, "b": 0.025}, seconds)
    race(contestants, seconds)
    assert machine.now == pytest.approx(expected, rel=0.25)


def test_core_seconds_are_those_of_all_threads_for_one_picture(machine: Machine) -> None:
    assert core_seconds(machine.work(8, 0.4), 2) == pytest.approx(2 * 0.4 / 8)
