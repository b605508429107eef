"""MixUp and CutMix, one draw a batch, each picture with the one at the mirrored place of the batch.

MixUp: Zhang et al. 2018 (arXiv:1710.09412); CutMix: Yun et al. 2019 (arXiv:1905.04899). The arithmetic is that of
timm 1.0, data/mixup.py, in its mode "batch" with corrected lambda; the draws are functions of (seed, step).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitkit.data.keys import uniform
from vitkit.errors import ConfigError, list_faults

__all__ = ["Mix", "MixSpec", "draw_mix", "mix_labels", "mix_pictures", "mix_rows", "soften_labels"]


@dataclass(frozen=True, kw_only=True)
class MixSpec:
    """How pictures of a batch are mixed; as it stands, not at all."""

    mixup: float = 0.0
    """Alpha of MixUp's Beta(alpha, alpha); 0 leaves it out."""
    cutmix: float = 0.0
    """Alpha of CutMix's Beta(alpha, alpha); 0 leaves it out."""
    probability: float = 1.0
    """Of mixing a batch at all."""
    switch_probability: float = 0.5
    """Of CutMix rather than MixUp, where both are on."""
    label_smoothing: float = 0.0
    """What part of a label is spread evenly over all classes."""

    def __post_init__(self) -> None:
        limits = dict.fromkeys(("probability", "switch_probability", "label_smoothing"), 1.0)
        faults = [
            f"{name} is {value}; allowed: 0 {'to 1' if name in limits else 'or more'}"
            for name, value in vars(self).items()
            if not 0 <= value <= limits.get(name, math.inf)
        ]
        if faults:
            raise ConfigError(f"mixing: {list_faults(faults)}")


@dataclass(frozen=True)
class Mix:
    """What was drawn for a batch."""

    weight: float = 1.0
    """Lambda: how much of each picture and of its label stays."""
    box: tuple[int, int, int, int] | None = None
    """CutMix: (top, bottom, left, right) in pixels of what comes from the other picture; None is MixUp."""


def draw_mix(spec: MixSpec, seed: int, step: int, size: tuple[int, int]) -> Mix:
    """How the batch of `step` is mixed, its pictures being of `size` (height, width)."""

    def number(stream: str) -> float:
        return float(uniform(seed, step, np.zeros(1, np.int64), f"mix/{stream}")[0])

    if not (spec.mixup or spec.cutmix) or number("whether") >= spec.probability:
        return Mix()
    cuts = spec.cutmix > 0 and (spec.mixup == 0 or number("which") < spec.switch_probability)
    weight = _symmetric_beta(spec.cutmix if cuts else spec.mixup, number("radius"), number("angle"))
    return _cut(weight, size, number("down"), number("across")) if cuts else Mix(weight)


def mix_pictures(mix: Mix, pictures: Tensor) -> Tensor:
    """The mixed pictures, float32 [B, C, h, w]."""
    if mix.box is not None:
        top, bottom, left, right = mix.box
        mixed = pictures.clone()
        mixed[:, :, top:bottom, left:right] = pictures.flip(0)[:, :, top:bottom, left:right]
        return mixed
    return pictures if mix.weight == 1 else pictures * mix.weight + pictures.flip(0) * (1 - mix.weight)


def mix_labels(mix: Mix, labels: Tensor, num_classes: int, label_smoothing: float) -> Tensor:
    """The mixed labels, as `soften_labels` makes them: float32 [B, K]."""
    return mix_rows(mix, soften_labels(labels, num_classes, label_smoothing))


def mix_rows(mix: Mix, rows: Tensor) -> Tensor:
    """What belongs to the pictures of a batch, [B, K], as they are mixed themselves."""
    return rows * mix.weight + rows.flip(0) * (1 - mix.weight)


def soften_labels(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Labels as probabilities, float32 [B, K], smoothed: one of K (int64 [B]), or of each yes or no (float32 [B, K]).

    One of K gives `smoothing` to all classes alike, rows sum to 1 (Szegedy et al. 2016); yes or no gives it to both.
    """
    if labels.ndim == 2:
        return labels * (1 - smoothing) + smoothing / 2
    rest = smoothing / num_classes
    own = torch.full((len(labels), num_classes), rest, device=labels.device)
    return own.scatter_(1, labels[:, None], 1 - smoothing + rest)


def _cut(weight: float, size: tuple[int, int], down: float, across: float) -> Mix:
    """A box of 1 - weight of the area about a point of the picture, cut at its edges; the weight is what remains."""
    height, width = size
    part = math.sqrt(1 - weight)
    cut_height, cut_width = int(height * part), int(width * part)
    y, x = int(down * height), int(across * width)
    top, bottom = max(y - cut_height // 2, 0), min(y + (cut_height + 1) // 2, height)
    left, right = max(x - cut_width // 2, 0), min(x + (cut_width + 1) // 2, width)
    return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


def _symmetric_beta(alpha: float, radius: float, angle: float) -> float:
    """A draw of Beta(alpha, alpha) from two uniform ones (Devroye 1996, Random variate generation in one line of code).

    Student's t with 2 alpha degrees is sqrt(2 alpha (u^(-1/alpha) - 1)) cos(2 pi v) (Bailey 1994), and
    (1 + t / sqrt(2 alpha + t^2)) / 2 is Beta(alpha, alpha); here without the power that overflows for small alpha.
    """
    power, cosine = (1 - radius) ** (1 / alpha), math.cos(2 * math.pi * angle)
    far = (1 - power) * cosine**2
    return (1 + math.copysign(math.sqrt(far / (power + far)), cosine)) / 2 if far else 0.5
