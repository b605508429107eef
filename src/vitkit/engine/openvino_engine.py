"""A model run by OpenVINO on the CPU, in float32 or in its own bfloat16; it comes through ONNX."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray

from vitkit.device import dtype_name
from vitkit.engine.onnx_engine import onnx_bytes
from vitkit.engine.protocol import InputSpec, LaidOut, Outputs, answered
from vitkit.exports.libraries import import_onnx, import_openvino
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel

if TYPE_CHECKING:
    from openvino import CompiledModel, InferRequest

__all__ = ["OpenVinoEngine", "fault"]

HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


def fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """What of this machine keeps OpenVINO from it; ConfigError where it isn't installed at all."""
    import_onnx()
    core = import_openvino().Core()
    if dtype == torch.bfloat16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "engine 'openvino' computes in bfloat16 only where the processor does; use --dtype float32"
    return None


class OpenVinoEngine(LaidOut["Compiled"]):
    """Runs an ONNX model's bytes, or the file of an OpenVINO or ONNX model, on crops [B, H, W, C]."""

    def __init__(
        self, model: bytes | Path, preprocess: Preprocess, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.name = f"openvino {dtype_name(dtype)} on {device}"
        self.input = InputSpec.of(preprocess)
        self._model = model
        self._preprocess = preprocess
        self._device = device
        self._dtype = dtype

    def with_module(self, module: ImageModel) -> OpenVinoEngine:
        """The same precision for another module that takes the same crops."""
        model = onnx_bytes(module, self._preprocess)
        return OpenVinoEngine(model, self._preprocess, device=self._device, dtype=self._dtype)

    def run(self, crops: NDArray[Any]) -> Outputs:
        """As `Engine.run`."""
        return answered(self.name, len(crops), lambda: self.runner.run(crops), faults=(RuntimeError,))

    def _prepare(self) -> Compiled:
        core = import_openvino().Core()
        model = core.read_model(self._model)
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[self._dtype],
            "NUM_STREAMS": self.calls,
            "INFERENCE_NUM_THREADS": self.threads,
        }
        return Compiled(core.compile_model(model, "CPU", settings))


class Compiled:
    """A compiled model and its requests that are idle: each call takes one, so that calls don't wait for each other."""

    def __init__(self, model: CompiledModel) -> None:
        self._model = model
        self._idle: deque[InferRequest] = deque()

    def run(self, crops: NDArray[Any]) -> Outputs:
        """Every output of the model by its name."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._model.create_infer_request()
        found = request.infer({0: crops}, share_inputs=True)
        self._idle.append(request)
        return {output.any_name: found[output] for output in self._model.outputs}
