"""The policies of `position.POLICIES` as matrices, in plain arithmetic on a size that isn't known yet.

While a graph is traced for any size, sides are symbols: a table [old, D] follows them by a product with a matrix
[new, old] for each axis, which every runtime computes alike, whereas no two agree on how to resize a picture.
The arithmetic is that of torch's F.interpolate (aten/src/ATen/native/UpSample.h), in float32 as there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

__all__ = ["MATRICES", "between", "resample_plane"]

CUBIC, CUBIC_ANTIALIASED = -0.75, -0.5
"""The coefficient of the cubic curve (Keys, 1981), which torch has changed for antialiasing alone."""


def resample_plane(plane: Tensor, new: tuple[int, int], policy: str) -> Tensor:
    """A plane [1, D, h, w] at another size, [1, D, h', w']; at its own it stays, even if a policy would change it."""
    rows, columns = (MATRICES[policy](side, wanted) for side, wanted in zip(plane.shape[2:], new, strict=True))
    same = torch.stack([torch.scalar_tensor(wanted) == side for side, wanted in zip(plane.shape[2:], new, strict=True)])
    rows, columns = (torch.where(same.all(), _nearest(*made.shape[::-1]), made) for made in (rows, columns))
    return rows @ plane @ columns.T


def _cubic(old: int, new: int, scale: Tensor | None = None, *, align_corners: bool = False) -> Tensor:
    """Four neighbours, those beyond the edge taken from it."""
    at = _places(old, new, scale, align_corners=align_corners)
    first = at.floor()
    matrix = torch.zeros((), dtype=at.dtype)
    for tap in (-1, 0, 1, 2):
        weight = _keys(at - first - tap, CUBIC)
        matrix = matrix + weight[:, None] * _one_hot((first + tap).clamp(0, old - 1), old)
    return matrix


def _cubic_offset(old: int, new: int) -> Tensor:
    """Meta's: by the scale (new + 0.1) / old."""
    return _cubic(old, new, old / (torch.scalar_tensor(new, dtype=torch.float64) + 0.1))


def _cubic_antialiased(old: int, new: int) -> Tensor:
    """The curve stretched over all that a smaller result covers; rows sum to one."""
    scale = _side(old) / _side(new)
    middles = scale * (torch.arange(new) + 0.5)
    matrix = _keys((torch.arange(old) + 0.5 - middles[:, None]) / scale.clamp(min=1), CUBIC_ANTIALIASED)
    return matrix / matrix.sum(dim=1, keepdim=True)


def _linear(old: int, new: int, *, align_corners: bool = False) -> Tensor:
    """Two neighbours; beyond the outer ones it stays constant."""
    at = _places(old, new, align_corners=align_corners).clamp(0, old - 1)
    return (1 - (torch.arange(old) - at[:, None]).abs()).clamp(min=0)


def _nearest(old: int, new: int) -> Tensor:
    """The one that a place falls on."""
    return _one_hot((torch.arange(new) * (_side(old) / _side(new))).floor().clamp(max=old - 1), old)


def _geometric(old: int, new: int) -> Tensor:
    """Distances that grow by a constant ratio: `position._growing`, whose bisection ends after as many halvings."""
    half, steps = torch.scalar_tensor(new // 2, dtype=torch.float64), torch.arange(old // 2, dtype=torch.float64)
    low, high = torch.scalar_tensor(1.01, dtype=torch.float64), torch.scalar_tensor(1.5, dtype=torch.float64)
    for _ in range(19):  # until they are 1e-6 apart
        q = (low + high) / 2
        over = (q**steps).sum() > half
        low, high = torch.where(over, low, q), torch.where(over, q, high)
    outward = (q**steps).cumsum(0)
    places = torch.cat([-outward.flip(0), outward.new_zeros(1), outward])
    return between(places, torch.arange(new) - new // 2).float()


def between(places: Tensor, targets: Tensor) -> Tensor:
    """The matrix [targets, places] of linear interpolation; beyond the outer places it stays constant."""
    passed = ((targets[:, None] - places[:-1]) / places.diff()).clamp(0, 1)  # share of each gap before the target
    return torch.nn.functional.pad(passed, (1, 0), value=1) - torch.nn.functional.pad(passed, (0, 1))


def _places(old: int, new: int, scale: Tensor | None = None, *, align_corners: bool) -> Tensor:
    """Where the middles of the results lie among the old ones, float32 [new]."""
    targets = torch.arange(new, dtype=torch.float32)
    if align_corners:
        return targets * ((_side(old) - 1) / (_side(new) - 1).clamp(min=1))
    return (_side(old) / _side(new) if scale is None else scale.float()) * (targets + 0.5) - 0.5


def _keys(x: Tensor, a: float) -> Tensor:
    """The cubic convolution curve, 0 from a distance of 2 on."""
    x = x.abs()
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def _one_hot(rows: Tensor, count: int) -> Tensor:
    return (rows[:, None] == torch.arange(count)).float()


def _side(side: int) -> Tensor:
    return torch.scalar_tensor(side, dtype=torch.float32)


MATRICES: Mapping[str, Callable[[int, int], Tensor]] = {
    "bicubic": _cubic,
    "bicubic_antialias": _cubic_antialiased,
    "bicubic_align_corners": partial(_cubic, align_corners=True),
    "bicubic_offset": _cubic_offset,
    "bilinear": _linear,
    "bilinear_align_corners": partial(_linear, align_corners=True),
    "nearest": _nearest,
    "geometric": _geometric,
}
"""From two sides, old and new, to a matrix [new, old], float32 on the CPU."""
