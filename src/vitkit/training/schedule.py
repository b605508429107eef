"""The learning rate over a training: linear warm-up, then half a cosine (Loshchilov & Hutter, 2017)."""

from __future__ import annotations

import math

__all__ = ["lr_scale"]


def lr_scale(step: int, *, steps: int, warmup_steps: int, final: float) -> float:
    """The factor on every learning rate at `step` (from 0) of `steps`: from near 0 to 1, then down to `final`.

    The last step still trains: the cosine reaches `final` at `steps`, one past it.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
