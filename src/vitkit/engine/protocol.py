"""What every engine offers: a name, what it takes, and `run`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel

__all__ = ["Engine", "InputSpec", "Outputs"]

Outputs = dict[str, NDArray[np.float32]]
"""Over a fixed vocabulary: logits [B, K], embedding [B, D] (later: prefix_tokens, patch_tokens, boxes, masks, ...)."""


@dataclass(frozen=True)
class InputSpec:
    """The crops [B, H, W, C] that an engine takes, as `image.preprocess.fit` makes them: normalisation is inside."""

    dtype: str
    """uint8; uint16 for deep pictures; float32, in 0..1, where pictures are rescaled before they are resized."""
    channels: int
    size: tuple[int, int]
    """(height, width)."""

    @classmethod
    def of(cls, preprocess: Preprocess) -> Self:
        """What `fit` makes by `preprocess`."""
        return cls(preprocess.fitted_type.name, preprocess.channels, preprocess.size)


class Engine(Protocol):
    """Runs one model on batches of crops."""

    name: str
    """Engine, precision and device: named in every result."""
    input: InputSpec

    def run(self, crops: NDArray[Any]) -> Outputs:
        """Outputs of a batch that is as `input` says. Safe to call from several threads at once.

        Raises EngineError where an output isn't finite, and where memory runs out.
        """

    def shared(self, calls: int) -> Engine:
        """The same model and precision, laid out for `calls` of `run` at a time, each on its part of the cores.

        An engine that gains nothing by it, as on a GPU, gives itself. The layout is made once and kept.
        """

    def with_module(self, module: ImageModel) -> Self:
        """The same engine, device and precision for another module that takes the same crops."""
