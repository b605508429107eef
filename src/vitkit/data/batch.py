"""What one training step sees: pictures, targets, and which pictures they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Batch", "Part"]


@dataclass(frozen=True, eq=False)
class Part:
    """Which part of the whole batch of a step a slice is, where a step is cut into slices."""

    rows: Tensor
    """int64 [B], the places of its pictures in the whole batch."""
    size: int
    """Pictures in the whole batch."""
    share: float
    """How much of the whole batch's weight its pictures hold: the losses of slices, each times its share, add up."""


@dataclass(frozen=True, eq=False)
class Batch:
    """B pictures in one or several views, normalised as the model takes them: a step's whole batch or a slice of it."""

    views: tuple[Tensor, ...]
    """Each float32 [B, C, h, w]; views may differ in size."""
    targets: dict[str, Tensor]
    """"label": int64 [B]; of several labels in its place "labels": float32 [B, K], 1 for each class a picture bears.

    With MixUp or CutMix also "label_weights": float32 [B, K], the same mixed and smoothed."""
    index: Tensor
    """int64 [B], positions among the samples."""
    weight: Tensor
    """float32 [B], how much each picture counts in the loss."""
    part: Part | None = None
    """What of the step's whole batch this is; None is all of it."""

    @property
    def share(self) -> float:
        """What the loss of these pictures counts for in the loss of the whole batch, 0..1."""
        return 1.0 if self.part is None else self.part.share

    @property
    def whole_size(self) -> int:
        """Pictures in the whole batch."""
        return len(self) if self.part is None else self.part.size

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers of [0, 1), float32 [B, *shape], that don't depend on how the whole batch is cut.

        Drawn for all of it from torch's global generator, which is at the same point in every slice.
        """
        numbers = torch.rand(self.whole_size, *shape, device=self.index.device)
        return numbers if self.part is None else numbers[self.part.rows]

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
            self.part and replace(self.part, rows=self.part.rows.to(device, non_blocking=True)),
        )
