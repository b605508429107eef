"""Moves of whole batches: each picture by a 2x3 matrix of its own, bilinear.

A matrix leads from (x, y) in the result to (x, y) in the picture, in pixels, where pixel i spans i..i+1: as Pillow's
`Image.transform`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Fill", "flip_matrix", "rotate", "sample", "shear", "translate", "undo_affine"]

Fill: TypeAlias = Literal["border", "zeros", "grey"]
"""What lies outside of a picture: its nearest pixel, black, or the grey of half the range."""

GREY = 128 / 255
"""As AutoAugment's (Cubuk et al., 2018)."""


def sample(pictures: Tensor, matrix: NDArray[np.float64], size: tuple[int, int], fill: Fill, full: float) -> Tensor:
    """float32 [B, C, H, W] in 0..`full`, in any memory format, to [B, C, h, w], moved by `matrix` [B, 2, 3]."""
    (height, width), (held_height, held_width) = size, pictures.shape[2:]
    # Pixel centres, as grid_sample counts with align_corners=False: -1..1 from edge to edge.
    scaled = matrix * np.array([[2 / held_width], [2 / held_height]]) - [[0, 0, 1], [0, 0, 1]]
    theta = torch.from_numpy(scaled).to(pictures.device, torch.float32)  # [B, 2, 3]
    x = torch.arange(width, device=theta.device) + 0.5
    y = torch.arange(height, device=theta.device) + 0.5
    along = theta[:, :, 0, None] * x  # [B, 2, w]
    down = theta[:, :, 1, None] * y + theta[:, :, 2, None]  # [B, 2, h]
    # The sum of a row and a column: measured 14 times as fast as affine_grid.
    grid = (along[:, :, None, :] + down[:, :, :, None]).permute(0, 2, 3, 1)  # [B, h, w, 2]
    if fill == "grey":
        grey = GREY * full
        return F.grid_sample(pictures - grey, grid, "bilinear", "zeros", align_corners=False).add_(grey)
    return F.grid_sample(pictures, grid, "bilinear", fill, align_corners=False)


def flip_matrix(flip: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """[B, 3, 3]: x -> width - x where `flip` is 1."""
    matrix = _unmoved(len(flip))
    matrix[:, 0, 0], matrix[:, 0, 2] = 1 - 2 * flip, width * flip
    return matrix


def shear(slant: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """[B, 3, 3] of a slant about the corner (0, 0): `axis` 0 moves x by `slant` y, 1 moves y by `slant` x."""
    matrix = _unmoved(len(slant))
    matrix[:, axis, 1 - axis] = slant
    return matrix


def translate(pixels: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """[B, 3, 3] of a shift along `axis`: 0 is x, 1 is y."""
    matrix = _unmoved(len(pixels))
    matrix[:, axis, 2] = pixels
    return matrix


def rotate(degrees: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """[B, 3, 3] of turns against the clock about the centre of `size`, as Pillow's `Image.rotate`."""
    centre = np.array([size[1] / 2, size[0] / 2])
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = _unmoved(len(degrees))
    matrix[:, :2, :2] = np.moveaxis(np.array([[cos, -sin], [sin, cos]]), 2, 0)
    matrix[:, :2, 2] = centre - matrix[:, :2, :2] @ centre
    return matrix


def undo_affine(
    size: tuple[int, int],
    *,
    angle: NDArray[np.float64],
    shift_x: NDArray[np.float64],
    shift_y: NDArray[np.float64],
    scale: NDArray[np.float64],
    shear: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[B, 3, 3], back from a slant, magnification and turn about the centre of `size` and a shift; radians, y down.

    The way there is p -> c + shift + scale R S (p - c) with R = [[cos, -sin], [sin, cos]] and S = [[1, -tan shear],
    [0, 1]], and the inverse of R S is [[1, tan shear], [0, 1]] [[cos, sin], [-sin, cos]].
    """
    x, y = size[1] / 2, size[0] / 2
    cos, sin, tan = np.cos(angle), np.sin(angle), np.tan(shear)
    matrix = np.zeros((len(angle), 3, 3))
    matrix[:, 0, 0], matrix[:, 0, 1] = (cos - tan * sin) / scale, (sin + tan * cos) / scale
    matrix[:, 1, 0], matrix[:, 1, 1] = -sin / scale, cos / scale
    matrix[:, 0, 2] = x - matrix[:, 0, 0] * (x + shift_x) - matrix[:, 0, 1] * (y + shift_y)
    matrix[:, 1, 2] = y - matrix[:, 1, 0] * (x + shift_x) - matrix[:, 1, 1] * (y + shift_y)
    matrix[:, 2, 2] = 1
    return matrix


def _unmoved(count: int) -> NDArray[np.float64]:
    return np.tile(np.eye(3), (count, 1, 1))
