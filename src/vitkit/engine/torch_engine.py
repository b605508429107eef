"""The reference engine: the torch module itself, eager, on any device and in any floating dtype."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from vitkit.device import dtype_name
from vitkit.engine.protocol import InputSpec, Outputs, answered
from vitkit.exports.graph import CropGraph
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel

__all__ = ["TorchEngine"]


class TorchEngine:
    """Runs `module`, which it moves to `device` and `dtype`, on crops [B, H, W, C], normalised inside."""

    def __init__(
        self,
        module: ImageModel,
        preprocess: Preprocess,
        *,
        device: torch.device,
        dtype: torch.dtype,
        threads: int | None = None,
    ) -> None:
        """`threads` of the CPU for each call; None: as many as torch takes by itself."""
        self.graph = CropGraph(module.to(device=device, dtype=dtype), preprocess)
        self.preprocess = preprocess
        self.device = device
        self.threads = threads
        self.name = f"torch {dtype_name(dtype)} on {device}"
        self.input = InputSpec.of(preprocess)
        self._dtype = dtype

    def with_module(self, module: ImageModel) -> TorchEngine:
        """The same device and dtype for another module that takes the same crops."""
        return TorchEngine(module, self.preprocess, device=self.device, dtype=self._dtype, threads=self.threads)

    def shared(self, calls: int) -> TorchEngine:
        """The same module with a part of the cores for each of `calls`; on another device than the CPU, itself.

        Its `run` sets the threads of the thread that calls it, and torch gives as many to each thread that first uses
        torch afterwards: when the calls have ended, `torch.set_num_threads` has to give those all cores again.
        """
        if self.device.type != "cpu":
            return self
        threads = max(1, torch.get_num_threads() // calls)
        module = self.graph.module
        return TorchEngine(module, self.preprocess, device=self.device, dtype=self._dtype, threads=threads)

    def run(self, crops: NDArray[Any]) -> Outputs:
        """Outputs of one batch: "logits" [B, K] (absent without a head) and "embedding" [B, D], float32.

        Raises EngineError as `answered`.
        """
        if self.threads is not None and torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)  # of this thread, and of all that first use torch later
        return answered(self.name, len(crops), lambda: self._run(crops))

    @torch.inference_mode()
    def _run(self, crops: NDArray[Any]) -> Outputs:
        outputs = self.graph(torch.from_numpy(crops).to(self.device))
        return {name: values.cpu().numpy() for name, values in outputs.items()}
