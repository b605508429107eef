"""Random erasing (Zhong et al., 2017, arXiv:1708.04896): a rectangle of noise, or of the mean, in some pictures.

As timm 1.0, data/random_erasing.py: on normalised pictures, noise from N(0, 1) for every value, or 0, the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.data.keys import Draws, normal

__all__ = ["EraseFill", "draw_boxes", "erase"]

EraseFill: TypeAlias = Literal["noise", "mean"]

TRIES = 10  # as timm


def draw_boxes(
    draws: Draws,
    size: tuple[int, int],
    *,
    probability: float,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> dict[str, NDArray[np.float64]]:
    """What is erased: "box" [B, 4], (top, left, height, width) in pixels, or all 0; "noise" [B], its seed."""
    height, width = size
    area = height * width * draws.each(TRIES).uniform("erase area", *scale)  # [B, tries]
    least, most = np.log(ratio)
    tall_to_wide = np.exp(draws.each(TRIES).uniform("erase ratio", least, most))
    tall, wide = np.round(np.sqrt(area * tall_to_wide)), np.round(np.sqrt(area / tall_to_wide))
    fits = (tall < height) & (wide < width)
    first = (np.arange(len(fits)), fits.argmax(axis=1))
    erased = fits.any(axis=1) & (draws.uniform("erase whether") < probability)
    tall, wide = tall[first] * erased, wide[first] * erased
    top = np.floor(draws.uniform("erase top") * (height - tall + 1)) * erased
    left = np.floor(draws.uniform("erase left") * (width - wide + 1)) * erased
    seeds = draws.uniform("erase noise") * 2.0**53
    return {"box": np.stack([top, left, tall, wide], axis=1), "noise": seeds}


def erase(record: Mapping[str, NDArray[np.float64]], pictures: Tensor, fill: EraseFill) -> Tensor:
    """Normalised pictures [B, C, h, w], in place."""
    for at, (top, left, height, width) in enumerate(record["box"].astype(np.int64)):
        if height * width:
            part = pictures[at, :, top : top + height, left : left + width]
            if fill == "mean":
                part.zero_()
            else:
                noise = normal(int(record["noise"][at]), 0, np.arange(math.prod(part.shape)), "erase")
                part.copy_(torch.from_numpy(noise).view(part.shape))
    return pictures
