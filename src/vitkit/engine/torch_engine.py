"""The reference engine: the torch module itself, eager, on any device and in any floating dtype."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vitkit.engine.protocol import InputSpec, Outputs
from vitkit.errors import EngineError
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel

__all__ = ["TorchEngine"]


class TorchEngine:
    """Runs `module`, which it moves to `device` and `dtype`, on uint8 or uint16 crops [B, H, W, C], normalised inside.

    Preprocessing that resizes in floating point ("rescale_first") hands over float32 [B, C, H, W], already normalised.
    """

    def __init__(self, module: ImageModel, preprocess: Preprocess, *, device: torch.device, dtype: torch.dtype) -> None:
        self.module = module.to(device=device, dtype=dtype).eval()
        self.preprocess = preprocess
        self.device = device
        self.name = f"torch {str(dtype).removeprefix('torch.')} on {device}"
        whole: Literal["uint8", "uint16"] = "uint8" if preprocess.value_range is None else "uint16"
        resizes_first = preprocess.order == "resize_first"
        self.input = InputSpec(
            dtype=whole if resizes_first else "float32",
            layout="NHWC" if resizes_first else "NCHW",
            channels=preprocess.channels,
            size=preprocess.size,
        )
        self._dtype = dtype
        self._mean = torch.tensor(preprocess.mean, device=device)[:, None, None]
        self._std = torch.tensor(preprocess.std, device=device)[:, None, None]

    def with_module(self, module: ImageModel) -> TorchEngine:
        """The same device and dtype for another module that takes the same pixels."""
        return TorchEngine(module, self.preprocess, device=self.device, dtype=self._dtype)

    def run(self, pixels: NDArray[Any]) -> Outputs:
        """Outputs of one batch: "logits" [B, K] (absent without a head) and "embedding" [B, D], float32.

        Raises EngineError where the model answers with something that isn't a number, and where memory runs out.
        """
        try:
            outputs = self._outputs(pixels)
        except RuntimeError as error:
            # An accelerator has a class for it, the CPU's allocator only words.
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            raise EngineError(
                f"{self.name}: no memory for {len(pixels)} pictures at once; choose a smaller batch size (--batch-size)"
            ) from error
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                raise EngineError(f"{self.name}: the {name} holds values that aren't finite; damaged weights, or dtype")
        return outputs

    def _outputs(self, pixels: NDArray[Any]) -> Outputs:
        with torch.inference_mode():
            batch = torch.from_numpy(pixels).to(self.device)
            if self.input.dtype != "float32":
                # As image.preprocess.normalize, to the bit: float32, divided, in this order.
                batch = (
                    (batch.permute(0, 3, 1, 2).float() / self.preprocess.full_scale - self._mean) / self._std
                ).contiguous()
            embedding = self.module.embed(batch.to(self._dtype))
            outputs = {"embedding": embedding.float().cpu().numpy()}
            if self.module.spec.num_classes:
                outputs["logits"] = self.module.logits(embedding).float().cpu().numpy()
        return outputs
