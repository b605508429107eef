"""Devices and dtypes by name: what this machine has, or an error that lists what is allowed."""

import ctypes
import subprocess
import sys

import pytest
import torch

from vitkit.device import parse_dtype, pick_device
from vitkit.errors import ConfigError


def test_nothing_said_takes_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert pick_device() == pick_device(None) == pick_device("auto") == torch.device(expected)


def test_a_device_is_taken_by_name_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    for name, says in (
        ("cuda:2", "'cuda:2': this machine .* has 2 GPUs"),
        ("mps", "'mps' isn't available here; use cpu"),
        ("meta", "'meta' isn't supported; allowed: auto, cpu, cuda, cuda:N, mps"),
        ("tpu", "'tpu' is unknown; allowed: auto, cpu"),
        ("cuda:-1", "'cuda:-1' is unknown"),
        ("", "'' is unknown"),
        ("CPU", "'CPU' is unknown"),
    ):
        with pytest.raises(ConfigError, match=says):
            pick_device(name)


def test_a_machine_without_gpus_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="has 0 GPUs"):
        pick_device("cuda")


def test_dtypes_go_by_name_and_nothing_said_is_float32() -> None:
    assert parse_dtype(None) == parse_dtype("float32") == parse_dtype(torch.float32) == torch.float32
    assert parse_dtype("bfloat16") == torch.bfloat16 and parse_dtype("float16") == torch.float16
    for wrong in ("int8", "float64", "half", "", torch.float64, torch.int8):
        with pytest.raises(ConfigError, match="allowed: float32, bfloat16, float16"):
            parse_dtype(wrong)


FAULTS = """
import resource
import torch
from vitkit.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        held = [torch.ones(size * 2**20) for size in (4, 1, 2, 9)]  # 64 MiB: 16,384 pages
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
keep_freed_memory()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_memory_that_is_kept_is_hardly_faulted_in_again() -> None:
    result = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, result.stdout.split())
    assert kept < given_back / 10
