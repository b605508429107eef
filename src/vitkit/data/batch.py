"""What one training step sees: pictures, targets, and which pictures they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True, eq=False)
class Batch:
    """B pictures in one or several views, normalised as the model takes them."""

    views: tuple[Tensor, ...]
    """Each float32 [B, C, h, w]; views may differ in size."""
    targets: dict[str, Tensor]
    """"label": int64 [B]; with MixUp or CutMix also "label_weights": float32 [B, K], each row summing to 1."""
    index: Tensor
    """int64 [B], positions among the samples."""
    weight: Tensor
    """float32 [B], how much each picture counts in the loss."""

    def __len__(self) -> int:
        """B."""
        return len(self.index)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`; tensors that are there already aren't copied."""
        return Batch(
            tuple(view.to(device, non_blocking=True) for view in self.views),
            {name: target.to(device, non_blocking=True) for name, target in self.targets.items()},
            self.index.to(device, non_blocking=True),
            self.weight.to(device, non_blocking=True),
        )
