"""What every engine offers: a name, what it takes, and `run`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from vitkit.model.base import ImageModel

__all__ = ["Engine", "InputSpec", "Outputs"]

Outputs = dict[str, NDArray[np.float32]]
"""Over a fixed vocabulary: logits [B, K], embedding [B, D] (later: prefix_tokens, patch_tokens, boxes, masks, ...)."""


@dataclass(frozen=True)
class InputSpec:
    """The array an engine takes: normalisation is the engine's for whole numbers, done already for float32."""

    dtype: Literal["uint8", "uint16", "float32"]
    layout: Literal["NHWC", "NCHW"]
    channels: int
    size: tuple[int, int]
    """(height, width)."""


class Engine(Protocol):
    """Runs one model on batches of pixels."""

    name: str
    """Engine, precision and device: named in every result."""
    input: InputSpec

    def run(self, pixels: NDArray[Any]) -> Outputs:
        """Outputs of a batch that is as `input` says."""

    def with_module(self, module: ImageModel) -> Self:
        """The same engine, device and precision for another module that takes the same pixels."""
