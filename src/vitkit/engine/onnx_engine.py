"""A model as ONNX, run by ONNX Runtime in float32: on the CPU, or on a GPU where onnxruntime-gpu is installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray

from vitkit.device import dtype_name
from vitkit.engine.protocol import InputSpec, LaidOut, Outputs, answered
from vitkit.exports.graph import CropGraph
from vitkit.exports.libraries import import_onnx, import_onnxruntime, onnxruntime_errors
from vitkit.exports.onnx import to_onnx
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["OnnxEngine", "fault", "onnx_bytes"]

SILENT = 4
"""Of ONNX Runtime's levels of logging: what fails is raised, and said once."""


def fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """What of this machine keeps ONNX Runtime from it; ConfigError where it isn't installed at all."""
    import_onnx()
    if device.type == "cuda" and "CUDAExecutionProvider" not in import_onnxruntime().get_available_providers():
        return f"engine 'onnx' on {device} needs onnxruntime-gpu in the place of onnxruntime; or say --device cpu"
    return None


class OnnxEngine(LaidOut["InferenceSession"]):
    """Runs an ONNX model, its bytes or its file, on crops [B, H, W, C], normalised inside."""

    def __init__(
        self, model: bytes | Path, preprocess: Preprocess, *, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.name = f"onnx {dtype_name(dtype)} on {device}"
        self.input = InputSpec.of(preprocess)
        self._model = model
        self._preprocess = preprocess
        self._device = device

    def with_module(self, module: ImageModel) -> OnnxEngine:
        """The same device for another module that takes the same crops."""
        return OnnxEngine(onnx_bytes(module, self._preprocess), self._preprocess, device=self._device)

    def run(self, crops: NDArray[Any]) -> Outputs:
        """As `Engine.run`."""
        return answered(self.name, len(crops), lambda: self._run(crops), faults=onnxruntime_errors())

    def _run(self, crops: NDArray[Any]) -> Outputs:
        session = self.runner
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"crops": crops}), strict=True))

    def _prepare(self) -> InferenceSession:
        library = import_onnxruntime()
        options = library.SessionOptions()
        options.log_severity_level = SILENT
        # The calling threads work too: with `calls` of them, no more threads than cores in all.
        options.intra_op_num_threads = max(1, self.threads - self.calls + 1)
        if self.calls > 1:
            # Threads that wait for work by turning in circles keep others from theirs.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = self._model if isinstance(self._model, bytes) else os.fspath(self._model)
        return library.InferenceSession(model, options, providers=self._providers())

    def _providers(self) -> list[Any]:
        if self._device.type != "cuda":
            return ["CPUExecutionProvider"]
        # TF32 would round float32 to 10 bits.
        options = {"device_id": self._device.index or 0, "use_tf32": 0}
        return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


def onnx_bytes(module: ImageModel, preprocess: Preprocess) -> bytes:
    """A module of any dtype and device as an ONNX model in float32."""
    content: bytes = to_onnx(CropGraph(module, preprocess, fixed_size=True)).SerializeToString()
    return content
