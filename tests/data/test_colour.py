"""Changes of values against Pillow's and SciPy's, and on any number of channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy.ndimage import gaussian_filter
from torch import Tensor

from small import picture
from vitkit.data import colour
from vitkit.data.policies import OPERATIONS

COUNT = 5
UINT8 = np.stack(
    [np.asarray(picture(45, 52, seed=seed)) for seed in range(COUNT - 2)]
    + [np.full((45, 52, 3), (90, 91, 255), np.uint8), np.asarray(picture(45, 52, seed=9)) // 3 + 60]
)
PICTURES = torch.from_numpy(UINT8).permute(0, 3, 1, 2) / 255


def levels(result: Tensor) -> np.ndarray[Any, Any]:
    return result.permute(0, 2, 3, 1).numpy() * 255


def pillows(change: Callable[[Image.Image], Image.Image]) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(change(Image.fromarray(pixels))) for pixels in UINT8]).astype(np.float64)


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_is_pillows(bits: int) -> None:
    ours = levels(colour.posterize(PICTURES, np.full(COUNT, bits - 0.3)))
    np.testing.assert_allclose(ours, pillows(lambda image: ImageOps.posterize(image, bits)), atol=1e-4)


@pytest.mark.parametrize("threshold", [0, 26, 128, 255, 256])
def test_solarize_is_pillows(threshold: int) -> None:
    ours = levels(colour.solarize(PICTURES, np.full(COUNT, threshold - 0.4)))
    np.testing.assert_allclose(ours, pillows(lambda image: ImageOps.solarize(image, threshold)), atol=1e-4)


def test_equalize_is_pillows() -> None:
    np.testing.assert_allclose(levels(colour.equalize(PICTURES)), pillows(ImageOps.equalize), atol=1e-4)


def test_autocontrast_is_pillows() -> None:
    theirs = pillows(ImageOps.autocontrast)
    assert np.abs(levels(colour.autocontrast(PICTURES)) - theirs).max() <= 1.01  # theirs is cut to whole numbers


@pytest.mark.parametrize("factor", [0.1, 1.0, 1.9])
def test_sharpness_is_pillows(factor: float) -> None:
    theirs = pillows(lambda image: ImageEnhance.Sharpness(image).enhance(factor))
    ours = levels(colour.sharpen(PICTURES, np.full(COUNT, factor)))
    assert np.abs(ours - theirs).max() <= 1.51  # theirs rounds the smooth one, and the result
    assert np.array_equal(colour.sharpen(PICTURES[..., :2, :], np.full(COUNT, factor)), PICTURES[..., :2, :])


def test_blur_is_scipys_for_each_sigma_whatever_the_others() -> None:
    sigma, pictures = np.array([0.1, 0.75, 1.25, 2.0, 2.3]), PICTURES.double()
    ours = colour.blur(pictures, sigma)
    for at in range(COUNT):
        reach = math.ceil(4 * sigma[at])
        theirs = gaussian_filter(pictures[at], sigma[at], mode="nearest", radius=reach, axes=(1, 2))
        np.testing.assert_allclose(ours[at], theirs, atol=1e-12)


VALUES = {"posterize": 3.0, "solarize": 100.0, "solarize_add": 60.0, "rotate": 30.0, "shift_x": 3.0, "blur": 1.0}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_take_any_number_of_channels_and_one_pixel(name: str) -> None:
    values = np.full(COUNT, VALUES.get(name, 0.4))
    five = torch.cat([PICTURES, PICTURES[:, :2].flip(2)], dim=1)
    result = OPERATIONS[name](five, values, "grey")
    assert result.shape == five.shape and result.min() > -1e-6 and result.max() < 1 + 1e-6
    assert name == "identity" or not torch.equal(result, five)
    if name not in ("grey", "saturation", "contrast"):  # which mix the channels
        alone = torch.cat([OPERATIONS[name](five[:, [c]], values, "grey") for c in range(5)], dim=1)
        torch.testing.assert_close(result, alone, rtol=0, atol=1e-6)
    assert OPERATIONS[name](five[:, :1, :1, :1], values, "zeros").isfinite().all()
