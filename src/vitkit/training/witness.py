"""How a model learns labels: wrong ones trail what the right ones teach, until they too are known by heart.

Deep networks learn what pictures share before what sets single ones apart (Arpit et al., 2017, arXiv:1706.05394), so
the margin of a wrong label, taken over the epochs, is small (area under the margin: Pleiss et al., 2020,
arXiv:2001.10528).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitkit.data.batch import Batch
from vitkit.data.doctor.labels import Answers, margins_of
from vitkit.training.objective import Classification, Loss, Objective, at_least_float32

__all__ = ["Witness"]


class Witness(Objective):
    """Classification that remembers what the model said of the pictures it was judged on, each time it was."""

    classifies = True

    def __init__(self, classification: Classification) -> None:
        super().__init__()
        self.classification = classification
        self.times = 0
        self.logits: NDArray[np.float32] | None = None
        self.margins: NDArray[np.float32] | None = None
        """Their sum over the times."""

    def forward(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        """The classification's loss."""
        loss: Loss = self.classification(model, batch, step)
        return loss

    @torch.inference_mode()
    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Nothing to choose by: the answers are kept."""
        logits: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in batches:
            logits.append(at_least_float32(model(batch.views[0])))
            labels.append(batch.targets["label"])
        said = torch.cat(logits).float().cpu().numpy()
        margins = margins_of(said, torch.cat(labels).cpu().numpy())
        self.logits = said
        self.margins = margins if self.margins is None else self.margins + margins
        self.times += 1
        return {}

    def answers(self) -> Answers:
        """What was said last, and the mean margins of all times."""
        assert self.logits is not None and self.margins is not None
        return Answers(self.logits, self.margins / np.float32(self.times))
