"""Changes of values on whole batches, float32 [B, C, h, w] in 0..1, each picture with a strength of its own.

Definitions: Pillow 12's ImageOps and ImageEnhance, in any number of channels; what Pillow counts in 256 levels
(posterize, equalize) is rounded to them, all else isn't.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = ["autocontrast", "blur", "enhance", "equalize", "posterize", "sharpen", "solarize", "solarize_add"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"


def enhance(pictures: Tensor, factors: Mapping[str, NDArray[np.float64]]) -> Tensor:
    """Saturation, contrast and brightness in one product: x -> clamp(A x + b), A [B, C, C].

    `factors` has some of "brightness", "contrast" and "saturation", each [B], 1 changing nothing. Values aren't cut to
    0..1 between the three: thus they commute. Grey is the luma of three channels, the mean of any other number.
    """
    batch, channels = pictures.shape[:2]
    grey = np.array(LUMA) if channels == 3 else np.full(channels, 1 / channels)
    one = np.ones(batch)
    brightness, contrast, saturation = (factors.get(name, one) for name in ("brightness", "contrast", "saturation"))
    keep = (brightness * contrast * saturation)[:, None, None]
    to_grey = (brightness * contrast * (1 - saturation))[:, None, None]
    product = torch.from_numpy(keep * np.eye(channels) + to_grey * grey).to(pictures)
    # Contrast moves pixels away from the mean grey of the whole picture, which the other two steps only scale.
    away = torch.from_numpy((brightness * (1 - contrast))[:, None] * grey).to(pictures)  # [B, C]
    flat = pictures.flatten(2)
    offset = (flat.mean(2) * away).sum(1)[:, None, None]
    return torch.baddbmm(offset, product, flat).clamp_(0, 1).view_as(pictures)


def sharpen(pictures: Tensor, factors: NDArray[np.float64]) -> Tensor:
    """ImageEnhance.Sharpness: 0 smooths, 1 changes nothing; the outermost pixels stay."""
    inside = pictures[:, :, 1:-1, 1:-1]
    if not inside.numel():
        return pictures
    # Pillow's ImageFilter.SMOOTH: 5 in the middle and 1 around it, by sums of slices, 20 times as fast as conv2d.
    rows = pictures[:, :, :-2] + pictures[:, :, 1:-1] + pictures[:, :, 2:]
    smooth = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inside) / 13
    result = pictures.clone()
    result[:, :, 1:-1, 1:-1] = torch.lerp(smooth, inside, _each(factors, pictures))
    return result.clamp_(0, 1)


def blur(pictures: Tensor, sigma: NDArray[np.float64]) -> Tensor:
    """A Gaussian of standard deviation `sigma` [B] in pixels, cut off at four of them; edges are continued."""
    reach = math.ceil(4 * sigma.max())
    at = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (at / np.maximum(sigma, 1e-3)[:, None]) ** 2)
    weights[np.abs(at) > np.ceil(4 * sigma)[:, None]] = 0  # whatever the others' reach
    weights /= weights.sum(axis=1, keepdims=True)
    batch, channels, height, width = pictures.shape
    # Every channel of every picture is a channel of its own, with the picture's kernel.
    kernel = torch.from_numpy(weights).to(pictures).repeat_interleave(channels, dim=0)  # [B C, 2 reach + 1]
    planes = F.pad(pictures.reshape(1, batch * channels, height, width), (reach,) * 4, "replicate")
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=batch * channels)
    return F.conv2d(planes, kernel[:, None, None, :], groups=batch * channels).view(pictures.shape)


def posterize(pictures: Tensor, bits: NDArray[np.float64]) -> Tensor:
    """ImageOps.posterize: no more than `bits` (0..8, rounded up) of each value's 8."""
    masks = 256 - 2.0 ** (8 - np.ceil(bits))
    levels = _levels(pictures).to(torch.int32) & _each(masks, pictures).to(torch.int32)
    return levels.to(pictures.dtype).div_(255)


def solarize(pictures: Tensor, threshold: NDArray[np.float64]) -> Tensor:
    """ImageOps.solarize: values of `threshold` (0..256) and more are inverted."""
    below = pictures < _each((np.ceil(threshold) - 0.5) / 255, pictures)
    return torch.where(below, pictures, 1 - pictures)


def solarize_add(pictures: Tensor, added: NDArray[np.float64]) -> Tensor:
    """timm's: `added` (0..255, whole numbers) more for values below 128, no more than full."""
    more = (pictures + _each(np.floor(added) / 255, pictures)).clamp_(max=1)
    return torch.where(pictures < 127.5 / 255, more, pictures)


def autocontrast(pictures: Tensor) -> Tensor:
    """ImageOps.autocontrast: each channel stretched to the whole range; one of a single value stays."""
    least, most = pictures.amin((2, 3), keepdim=True), pictures.amax((2, 3), keepdim=True)
    flat = most <= least
    return torch.where(flat, pictures, (pictures - least) / torch.where(flat, 1, most - least))


def equalize(pictures: Tensor) -> Tensor:
    """ImageOps.equalize: each channel's 256 levels spread so that they are about equally frequent."""
    rows = _levels(pictures).to(torch.int64).flatten(0, 1).flatten(1)  # [B C, h w]
    offsets = 256 * torch.arange(len(rows), device=rows.device)[:, None]
    counts = torch.bincount((rows + offsets).flatten(), minlength=256 * len(rows)).view(-1, 256)
    brightest = counts.gather(1, rows.amax(1, keepdim=True))
    step = (rows.shape[1] - brightest) // 255
    spread = (step // 2 + counts.cumsum(1) - counts) // step.clamp(min=1)
    table = torch.where(step > 0, spread.clamp(max=255), torch.arange(256, device=rows.device))
    return table.gather(1, rows).view(pictures.shape).to(pictures.dtype).div_(255)


def _levels(pictures: Tensor) -> Tensor:
    return (pictures * 255).round_()


def _each(values: NDArray[np.float64], pictures: Tensor) -> Tensor:
    """One number for each picture, [B, 1, 1, 1]."""
    return torch.from_numpy(values).to(pictures)[:, None, None, None]
