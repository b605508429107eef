"""The hardware: device and dtype by name. The only place that asks what the machine has."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

import torch

from vitkit.errors import ConfigError

__all__ = [
    "dtype_name",
    "free_memory",
    "has_native_bfloat16",
    "keep_freed_memory",
    "parse_dtype",
    "peak_memory",
    "pick_device",
    "process_backend",
    "processes_here",
    "processor_name",
    "share_machine",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str | None = None) -> torch.device:
    """The device called `name` ("cpu", "cuda", "cuda:1", "mps"); None or "auto" takes CUDA, then
    MPS, then the CPU. Of several processes on a machine (LOCAL_RANK, of LOCAL_WORLD_SIZE), each has a GPU of its own.

    Raises ConfigError for an unknown name and for a device this machine, or this build of torch, doesn't have.
    """
    if processes_here() > 1:
        name = _own_device(name)
    if name in (None, "auto"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(str(name))
    except RuntimeError:
        raise ConfigError(f"device {name!r} is unknown; allowed: auto, cpu, cuda, cuda:N, mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r}: this machine (or this build of torch) has {torch.cuda.device_count()} GPUs"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' isn't available here; use cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device {name!r} isn't supported; allowed: auto, cpu, cuda, cuda:N, mps")
    return device


def _own_device(name: str | None) -> str:
    """What `name` means for one of several processes on this machine."""
    if name in (None, "auto"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "mps":
        raise ConfigError("device 'mps' can't be shared by several processes; use --device cpu, or one process")
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else str(name)


def processes_here() -> int:
    """How many processes of this training run on this machine, as `torchrun` says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def process_backend() -> str:
    """What processes talk to each other by: NCCL between GPUs, gloo between CPUs."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def share_machine(device: torch.device) -> int:
    """Gives each process of this machine its GPU, and its part of the cores unless OMP_NUM_THREADS says otherwise.

    Returns the threads each has.
    """
    if processes_here() > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max((os.cpu_count() or 1) // processes_here(), 1))
    return torch.get_num_threads()


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """A floating dtype from its name; None is float32."""
    if isinstance(dtype, torch.dtype):
        if dtype not in DTYPES.values():
            raise ConfigError(f"dtype {dtype} isn't supported; allowed: {', '.join(DTYPES)}")
        return dtype
    if dtype is None:
        return torch.float32
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown; allowed: {', '.join(DTYPES)}")
    return DTYPES[dtype]


def dtype_name(dtype: torch.dtype) -> str:
    """A floating dtype's name, as `parse_dtype` takes it."""
    return str(dtype).removeprefix("torch.")


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are the hardware's own there, and so faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still take on `device`; None where the system doesn't tell.

    On the CPU what Linux calls available, or what the control group of a container leaves, whichever is less; shared
    by the processes of this training.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    free = free_ram()
    return None if free is None else free // processes_here()


def processor_name(device: torch.device) -> str:
    """What the device calls itself; of a CPU the machine's, with as many cores as this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _proc("cpuinfo", "model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{name}, {cores} {'core' if cores == 1 else 'cores'}"


def peak_memory() -> int | None:
    """The most bytes of memory that this process has held so far; None where the system doesn't tell."""
    if (held := _proc("self/status", "VmHWM")) is not None:  # getrusage's would count the process that started this one
        return 1024 * int(held.removesuffix("kB"))
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def _proc(file: str, name: str) -> str | None:
    """What the first line of that name says in one of Linux's files of "name: value"."""
    try:
        lines = (Path("/proc") / file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


CONTROL_GROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Of versions 2 and 1: the files of the limit, of the use, of its parts, and the part that is given back if needed."""


def free_ram(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """As `free_memory` of the CPU, from Linux's files."""
    try:
        free = 1024 * _entries(proc / "meminfo")["MemAvailable:"]
    except (OSError, KeyError):
        return None
    for limit, use, parts, spare in CONTROL_GROUPS:
        try:
            left = int((groups / limit).read_text()) - int((groups / use).read_text())
            free = min(free, left + _entries(groups / parts).get(spare, 0))
        except (OSError, ValueError):  # no such group, or its limit is "max"
            continue
    return max(free, 0)


def _entries(file: Path) -> dict[str, int]:
    words = (line.split() for line in file.read_text().splitlines())
    return {name: int(number) for name, number, *_ in words}


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Asks glibc, on Linux, to keep what this process frees for its next allocations, until the process ends.

    Otherwise each large activation is given back to the system and faulted in anew, page by page: measured, a quarter
    of a training step of ViT-Ti/16 at 224 pixels. Results don't change. Elsewhere nothing happens.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
