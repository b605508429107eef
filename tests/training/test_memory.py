"""The memory of a step against what PyTorch's allocator reports, and the batch that follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from small import small_model
from vitkit import Preprocess
from vitkit.data.loader import Loader
from vitkit.data.store import MemoryStore
from vitkit.device import free_ram
from vitkit.errors import ConfigError
from vitkit.training import memory
from vitkit.training.memory import Live, peak_of_step, plan_batch, scaled_lr
from vitkit.training.objective import Classification
from vitkit.training.spec import TrainSpec

CPU, MB = torch.device("cpu"), 10**6


def test_bytes_are_counted_as_long_as_they_are_held() -> None:
    with Live() as live:
        a = torch.zeros(1000)
        view = a.view(10, 100).t()
        view.add_(1)
        assert live.bytes == 4000
        b = a + 1
        del a
        assert live.bytes == 8000  # the view holds it
        del view, b
        assert live.bytes == 0 and live.peak == 8000
        weight = torch.ones(500, requires_grad=True)
        weight.exp().exp().sum().backward()  # each exp keeps what it gave
        assert live.bytes == 4000  # weight and gradient
    assert live.peak == 2000 + 2000 + 2000 + 2000 + 4 + 4  # the second exp's gradient while the first's result is held


def black(count: int) -> Loader:
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(size=32, resize="none", crop="none", interpolation="bicubic", mean=half, std=half)
    store = MemoryStore(np.zeros((count, 32, 32, 3), np.uint8))
    return Loader(store, np.zeros(count, np.int64), 7, preprocess, batch_size=count)


def allocators_peak(work: Any) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(sizes).max())


class Uncounted:
    peak = 0

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


@pytest.mark.filterwarnings("ignore:.*Profiler")
@pytest.mark.parametrize("count", [2, 16])
@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True, "optimizer": "sgd", "ema_decay": 0.0}])
def test_a_steps_peak_is_no_less_than_the_allocator_reports_and_not_much_more(
    changes: dict[str, Any], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, spec = small_model(depth=6), TrainSpec(**changes)

    def measure() -> int:
        return peak_of_step(model, Classification(), black(count), spec, device=CPU, dtype=torch.float32)

    counted = measure()
    monkeypatch.setattr(memory, "Live", Uncounted)
    reported = allocators_peak(measure)
    assert 0.97 * reported < counted < 1.3 * reported, (counted, reported)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("free_mb", "most", "expected", "step_mb"),
    [
        (10_000, 10**6, 512, 30 + 10 * 512),  # 6,000 are filled: 597 fit
        (10_000, 100, 64, 30 + 10 * 64),
        (10_000, 3, 2, 100 + 2),
        (220, 10**6, 8, 30 + 80),  # 132: of 10
        (175, 10**6, 4, 104),  # 105: it is found before pictures cost the same twice
    ],
)
def test_the_largest_power_of_two_that_fits(free_mb: int, most: int, expected: int, step_mb: int) -> None:
    """Few pictures take what the optimiser's step takes, more what the way back takes."""
    measured = []

    def peak(count: int) -> int:
        measured.append(count)
        return MB * max(100 + count, 30 + 10 * count)

    plan = plan_batch(peak, free_bytes=free_mb * MB, most=most)
    assert (plan.batch_size, plan.step_bytes) == (expected, step_mb * MB)
    assert measured == [2**at for at in range(len(measured))] and len(measured) <= 7


def test_one_picture_too_many_is_said() -> None:
    with pytest.raises(ConfigError, match=r"a step of one picture takes 2.00 GiB, and 60% of the free memory is 0.60"):
        plan_batch(lambda count: 2**31 * count, free_bytes=2**30, most=64)


def test_the_rate_follows_the_batch() -> None:
    assert scaled_lr(TrainSpec(lr=1e-3, batch_size=64), 256) == pytest.approx(2e-3)
    assert scaled_lr(TrainSpec(lr=1e-3, batch_size=64, optimizer="sgd"), 32) == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4000 * 1024),
        ({"memory.max": "max", "memory.current": "7"}, 4000 * 1024),
        (
            {"memory.max": "90000", "memory.current": "50000", "memory.stat": "anon 1\ninactive_file 20000\n"},
            40000 + 20000,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "90000",
                "memory/memory.usage_in_bytes": "50000",
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 300\n",
            },
            40300,
        ),
        ({"memory.max": "9000", "memory.current": "9500", "memory.stat": ""}, 0),
    ],
)
def test_free_memory_is_what_the_machine_and_the_container_leave(
    files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 4000 kB\nHugePages_Total: 0\n")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert free_ram(tmp_path, tmp_path) == expected
    assert free_ram(tmp_path / "no", tmp_path) is None


def test_slices_are_measured_from_a_pair_and_what_may_not_fit_is_not_tried() -> None:
    measured = []

    def peak(count: int) -> int:
        measured.append(count)
        return MB * 10 * count

    assert plan_batch(peak, free_bytes=100 * MB, most=64, least=2).batch_size == 4
    assert measured == [2, 4]  # 8 may take more than is free
    with pytest.raises(ConfigError, match="a step of 2 pictures takes"):
        plan_batch(peak, free_bytes=30 * MB, most=64, least=2)
