"""The engines by name: what each is made by, and what it runs on and in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from vitkit.device import DTYPES, dtype_name, parse_dtype, pick_device
from vitkit.engine import onnx_engine, openvino_engine
from vitkit.engine.onnx_engine import OnnxEngine, onnx_bytes
from vitkit.engine.openvino_engine import OpenVinoEngine
from vitkit.engine.protocol import Engine
from vitkit.engine.torch_engine import TorchEngine
from vitkit.errors import ConfigError, list_faults, nearest
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel

__all__ = ["AUTO", "ENGINES", "Setup", "settle"]


class OfModule(Protocol):
    """Makes an engine of a module, which it moves to a device and precision that its `Kind` allows."""

    def __call__(
        self, module: ImageModel, preprocess: Preprocess, *, device: torch.device, dtype: torch.dtype
    ) -> Engine: ...


class OfOnnx(Protocol):
    """Makes an engine of an ONNX model in float32, its bytes or its file, and rounds to the precision itself."""

    def __call__(
        self, model: bytes | Path, preprocess: Preprocess, *, device: torch.device, dtype: torch.dtype
    ) -> Engine: ...


def _no_fault(device: torch.device, dtype: torch.dtype) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One engine of the table: it runs a module, or an ONNX model."""

    of_module: OfModule | None = None
    of_onnx: OfOnnx | None = None
    devices: tuple[str, ...]
    """Types of device."""
    dtypes: tuple[str, ...]
    fault: Callable[[torch.device, torch.dtype], str | None] = _no_fault
    """What this machine lacks for them; ConfigError where a library is missing."""


ENGINES = {
    "torch": Kind(of_module=TorchEngine, devices=("cpu", "cuda", "mps"), dtypes=tuple(DTYPES)),
    "onnx": Kind(of_onnx=OnnxEngine, devices=("cpu", "cuda"), dtypes=("float32",), fault=onnx_engine.fault),
    "openvino": Kind(
        of_onnx=OpenVinoEngine, devices=("cpu",), dtypes=("float32", "bfloat16"), fault=openvino_engine.fault
    ),
}


AUTO = "auto"
"""The name that `choose` finds an engine for."""


@dataclass(frozen=True)
class Setup:
    """An engine with its device and precision, which go together and are available here."""

    engine: str
    device: torch.device
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """As the engine calls itself."""
        return f"{self.engine} {dtype_name(self.dtype)} on {self.device}"

    @property
    def module_dtype(self) -> torch.dtype:
        """What the module is loaded in."""
        return self.dtype if ENGINES[self.engine].of_module else torch.float32

    def make(self, module: ImageModel, preprocess: Preprocess, *, onnx: Callable[[], bytes] | None = None) -> Engine:
        """The engine for a module in `module_dtype`; `onnx` gives it as an ONNX model where that is at hand."""
        kind = ENGINES[self.engine]
        if kind.of_module is not None:
            return kind.of_module(module, preprocess, device=self.device, dtype=self.dtype)
        return self.run(onnx() if onnx is not None else onnx_bytes(module, preprocess), preprocess)

    def run(self, model: bytes | Path, preprocess: Preprocess) -> Engine:
        """The engine for an exported model, its bytes or its file: not for one that runs modules."""
        kind = ENGINES[self.engine]
        assert kind.of_onnx is not None
        return kind.of_onnx(model, preprocess, device=self.device, dtype=self.dtype)


def settle(engine: str | None, device: str | None, dtype: str | torch.dtype | None) -> Setup:
    """What was asked for, with what wasn't said filled in; ConfigError where it doesn't go together or isn't there."""
    engine = engine or "torch"
    if engine not in ENGINES:
        allowed = [*ENGINES, AUTO]
        raise ConfigError(f"engine {engine!r} is unknown; allowed: {', '.join(allowed)}{nearest(engine, allowed)}")
    setup = Setup(engine, pick_device(device), parse_dtype(dtype))
    faults = list(_faults(setup))
    if faults and device in (None, "auto") and setup.device.type != "cpu":
        setup = Setup(engine, torch.device("cpu"), setup.dtype)
        faults = list(_faults(setup))
    if faults:
        raise ConfigError(list_faults(faults))
    return setup


def _faults(setup: Setup) -> Iterator[str]:
    kind, dtype = ENGINES[setup.engine], dtype_name(setup.dtype)
    if setup.device.type not in kind.devices:
        yield f"engine {setup.engine!r} doesn't run on {setup.device}; allowed: {', '.join(kind.devices)}"
    if dtype not in kind.dtypes:
        yield f"engine {setup.engine!r} doesn't compute in {dtype}; allowed: {', '.join(kind.dtypes)}"
    if fault := kind.fault(setup.device, setup.dtype):
        yield fault
