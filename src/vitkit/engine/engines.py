"""The engines by name: what each is made by, and what it runs on and in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from vitkit.device import DTYPES, parse_dtype, pick_device
from vitkit.engine import onnx_engine, openvino_engine
from vitkit.engine.onnx_engine import OnnxEngine
from vitkit.engine.openvino_engine import OpenVinoEngine
from vitkit.engine.protocol import Engine
from vitkit.engine.torch_engine import TorchEngine
from vitkit.errors import ConfigError, list_faults, nearest
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel

__all__ = ["ENGINES", "Setup", "settle"]


class Maker(Protocol):
    """Makes an engine of a module, for a device and precision that its `Kind` allows."""

    def __call__(
        self, module: ImageModel, preprocess: Preprocess, *, device: torch.device, dtype: torch.dtype
    ) -> Engine: ...


def _no_fault(device: torch.device, dtype: torch.dtype) -> None:
    return None


@dataclass(frozen=True)
class Kind:
    """One engine of the table."""

    make: Maker
    devices: tuple[str, ...]
    """Types of device."""
    dtypes: tuple[str, ...]
    rounds: bool = False
    """Whether it takes float32 weights and rounds them itself to the precision asked for."""
    fault: Callable[[torch.device, torch.dtype], str | None] = _no_fault
    """What this machine lacks for them; ConfigError where a library is missing."""


ENGINES = {
    "torch": Kind(TorchEngine, ("cpu", "cuda", "mps"), tuple(DTYPES)),
    "onnx": Kind(OnnxEngine.of, ("cpu", "cuda"), ("float32",), fault=onnx_engine.fault),
    "openvino": Kind(OpenVinoEngine.of, ("cpu",), ("float32", "bfloat16"), rounds=True, fault=openvino_engine.fault),
}


@dataclass(frozen=True)
class Setup:
    """An engine with its device and precision, which go together and are available here."""

    engine: str
    device: torch.device
    dtype: torch.dtype

    @property
    def module_dtype(self) -> torch.dtype:
        """What the module is loaded in."""
        return torch.float32 if ENGINES[self.engine].rounds else self.dtype

    def make(self, module: ImageModel, preprocess: Preprocess) -> Engine:
        """The engine for a module in `module_dtype`."""
        return ENGINES[self.engine].make(module, preprocess, device=self.device, dtype=self.dtype)


def settle(engine: str | None, device: str | None, dtype: str | torch.dtype | None) -> Setup:
    """What was asked for, with what wasn't said filled in; ConfigError where it doesn't go together or isn't there."""
    engine = engine or "torch"
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r} is unknown; allowed: {', '.join(ENGINES)}{nearest(engine, ENGINES)}")
    setup = Setup(engine, pick_device(device), parse_dtype(dtype))
    faults = list(_faults(setup))
    if faults and device in (None, "auto") and setup.device.type != "cpu":
        setup = Setup(engine, torch.device("cpu"), setup.dtype)
        faults = list(_faults(setup))
    if faults:
        raise ConfigError(list_faults(faults))
    return setup


def _faults(setup: Setup) -> Iterator[str]:
    kind, dtype = ENGINES[setup.engine], str(setup.dtype).removeprefix("torch.")
    if setup.device.type not in kind.devices:
        yield f"engine {setup.engine!r} doesn't run on {setup.device}; allowed: {', '.join(kind.devices)}"
    if dtype not in kind.dtypes:
        yield f"engine {setup.engine!r} doesn't compute in {dtype}; allowed: {', '.join(kind.dtypes)}"
    if fault := kind.fault(setup.device, setup.dtype):
        yield fault
