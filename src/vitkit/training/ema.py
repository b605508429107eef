"""The exponential moving average of the weights: what is evaluated and kept as the answer of a training."""

from __future__ import annotations

import copy

import torch
from torch import nn

__all__ = ["Ema"]


class Ema:
    """A copy of a module that follows it: average <- decay * average + (1 - decay) * weights, after every step.

    Early on the decay is (1 + step) / (10 + step) where that is smaller, as in TensorFlow's ExponentialMovingAverage,
    so that the random start is forgotten. Buffers are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Follows `module` after training step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)
