"""How fast contestants answer pictures, measured in turns: calls in, figures out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vitkit.engine.measure import LEAST, WARM_UP, Timing, take_turns

__all__ = ["Contestant", "Rate", "Speed", "Work", "core_seconds", "forecast", "race"]

SHARES = {"latency": 0.4, "batches": 0.4, "many": 0.2}
"""Of the time of a race."""


@dataclass(frozen=True)
class Work:
    """A call that answers so many pictures and returns when it is done."""

    images: int
    run: Callable[[], object]


@dataclass(frozen=True)
class Contestant:
    """One way to run a model."""

    one: Callable[[], object]
    """A single picture, from a file's bytes to its answer."""
    batches: tuple[Work, ...]
    """The model alone, on pictures that are prepared: one call for each size of a batch."""
    many: Work
    """Several pictures, from files' bytes to answers."""

    def of_size(self, images: int) -> Work:
        """The work of one size of `batches`."""
        return next(work for work in self.batches if work.images == images)


@dataclass(frozen=True)
class Rate:
    """Pictures a second: the median of the calls, and the quartiles below and above."""

    images: int
    """Of one call."""
    images_per_s: float
    low: float
    high: float

    @classmethod
    def of(cls, images: int, timing: Timing) -> Rate:
        """The rate of calls that answer so many."""
        return cls(images, images / timing.p50, images / timing.p75, images / timing.p25)


@dataclass(frozen=True)
class Speed:
    """What one contestant came to."""

    latency: Timing
    """Of a single picture."""
    batches: tuple[Rate, ...]
    """Of the model alone, by batch size."""
    many: Rate
    """From files' bytes to answers."""

    @property
    def best(self) -> Rate:
        """Of the model alone, at its best batch size."""
        return max(self.batches, key=lambda rate: rate.images_per_s)


def race(contestants: Mapping[str, Contestant], seconds: float) -> dict[str, Speed]:
    """Measures all on an equal footing for about so many seconds, longer where single calls take long."""
    timings = {
        part: take_turns({key: work.run for key, work in works.items()}, SHARES[part] * seconds / len(works))
        for part, works in _parts(contestants).items()
    }
    return {
        name: Speed(
            latency=timings["latency"][name, 1],
            batches=tuple(Rate.of(work.images, timings["batches"][name, work.images]) for work in each.batches),
            many=Rate.of(each.many.images, timings["many"][name, each.many.images]),
        )
        for name, each in contestants.items()
    }


def forecast(contestants: Mapping[str, Contestant], one_s: Mapping[str, float], seconds: float) -> float:
    """Seconds that `race` will take, from those that each takes for a single picture."""
    total = 0.0
    for part, works in _parts(contestants).items():
        for name, images in works:
            call_s = images * one_s[name]
            total += WARM_UP * call_s + max(SHARES[part] * seconds / len(works), LEAST * call_s)
    return total


def _parts(contestants: Mapping[str, Contestant]) -> dict[str, dict[tuple[str, int], Work]]:
    """What is measured together, by contestant and pictures of a call."""
    return {
        "latency": {(name, 1): Work(1, each.one) for name, each in contestants.items()},
        "batches": {(name, work.images): work for name, each in contestants.items() for work in each.batches},
        "many": {(name, each.many.images): each.many for name, each in contestants.items()},
    }


def core_seconds(work: Work, seconds: float) -> float:
    """Seconds of a core that a picture takes, all threads of this process together."""
    work.run()
    calls, start, end = 0, time.process_time(), time.perf_counter() + seconds
    while calls < LEAST or time.perf_counter() < end:
        work.run()
        calls += 1
    return (time.process_time() - start) / (calls * work.images)
