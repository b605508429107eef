"""Policies: a few operations on every picture, drawn from a table, each with a strength drawn for the picture.

RandAugment (Cubuk et al., 2019, arXiv:1909.13719) with the increasing strengths of timm 1.0 (data/auto_augment.py,
"inc1"), TrivialAugment in its wide form (Müller & Hutter, 2021, arXiv:2103.10158) and 3-Augment (Touvron et al., 2022:
DeiT III, arXiv:2204.07118).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.data.colour import autocontrast, blur, enhance, equalize, posterize, sharpen, solarize, solarize_add
from vitkit.data.geometry import Fill, rotate, sample, shear, translate
from vitkit.data.keys import Draws

__all__ = ["OPERATIONS", "POLICIES", "PolicyName", "Strength", "apply_policy", "draw_policy"]

PolicyName: TypeAlias = Literal["none", "randaugment", "trivialaugment", "three_augment"]
Values: TypeAlias = NDArray[np.float64]


def _moved(matrix: Callable[[Values, tuple[int, int]], Values]) -> Callable[[Tensor, Values, Fill], Tensor]:
    def move(pictures: Tensor, values: Values, fill: Fill) -> Tensor:
        size = (pictures.shape[2], pictures.shape[3])
        return sample(pictures, matrix(values, size)[:, :2], size, fill, 1.0)

    return move


OPERATIONS: Mapping[str, Callable[[Tensor, Values, Fill], Tensor]] = {
    "identity": lambda x, values, fill: x,
    "autocontrast": lambda x, values, fill: autocontrast(x),
    "equalize": lambda x, values, fill: equalize(x),
    "invert": lambda x, values, fill: 1 - x,
    "posterize": lambda x, values, fill: posterize(x, values),
    "solarize": lambda x, values, fill: solarize(x, values),
    "solarize_add": lambda x, values, fill: solarize_add(x, values),
    "grey": lambda x, values, fill: enhance(x, {"saturation": 0 * values}),
    "saturation": lambda x, values, fill: enhance(x, {"saturation": values}),
    "contrast": lambda x, values, fill: enhance(x, {"contrast": values}),
    "brightness": lambda x, values, fill: enhance(x, {"brightness": values}),
    "sharpness": lambda x, values, fill: sharpen(x, values),
    "blur": lambda x, values, fill: blur(x, values),
    "rotate": _moved(rotate),
    "shear_x": _moved(lambda values, size: shear(values, 0)),
    "shear_y": _moved(lambda values, size: shear(values, 1)),
    "translate_x": _moved(lambda values, size: translate(values * size[1], 0)),
    "translate_y": _moved(lambda values, size: translate(values * size[0], 1)),
    "shift_x": _moved(lambda values, size: translate(values, 0)),
    "shift_y": _moved(lambda values, size: translate(values, 1)),
}
"""What happens to float32 [b, C, h, w] in 0..1 with `values` [b]: bits, thresholds of 255, factors, degrees, pixels
(shift) or parts of a side (translate)."""

NAMES = tuple(OPERATIONS)


@dataclass(frozen=True)
class Strength:
    """The value of an operation at a level 0..1: `start` + level * `reach`, or minus it as often where `signed`."""

    start: float = 0.0
    reach: float = 0.0
    signed: bool = False


POLICIES: Mapping[str, Mapping[str, Strength]] = {
    "randaugment": {
        **dict.fromkeys(("autocontrast", "equalize", "invert"), Strength()),
        "rotate": Strength(reach=30, signed=True),
        "posterize": Strength(4, -4),
        "solarize": Strength(256, -256),
        "solarize_add": Strength(0, 110),
        **dict.fromkeys(("saturation", "contrast", "brightness", "sharpness"), Strength(1, 0.9, signed=True)),
        **dict.fromkeys(("shear_x", "shear_y"), Strength(reach=0.3, signed=True)),
        **dict.fromkeys(("translate_x", "translate_y"), Strength(reach=0.45, signed=True)),
    },
    "trivialaugment": {
        **dict.fromkeys(("identity", "autocontrast", "equalize"), Strength()),
        "rotate": Strength(reach=135, signed=True),
        "posterize": Strength(7.5, -6),  # rounded up: 8 - round(6 level)
        "solarize": Strength(255, -255),
        **dict.fromkeys(("saturation", "contrast", "brightness", "sharpness"), Strength(1, 0.99, signed=True)),
        **dict.fromkeys(("shear_x", "shear_y"), Strength(reach=0.99, signed=True)),
        **dict.fromkeys(("shift_x", "shift_y"), Strength(reach=32, signed=True)),
    },
    "three_augment": {"grey": Strength(), "solarize": Strength(128), "blur": Strength(0.1, 1.9)},
}

TRIVIAL_LEVELS = 31
"""Strengths that TrivialAugment draws from."""


def draw_policy(
    name: PolicyName, draws: Draws, *, steps: int, probability: float, magnitude: float, magnitude_std: float
) -> dict[str, Values]:
    """Draws "operation", numbers of OPERATIONS, and their "value", [B, steps]; the keywords are RandAugment's alone."""
    table = POLICIES[name]
    numbers = np.array([NAMES.index(each) for each in table])
    start, reach, signed = (np.array([getattr(each, key) for each in table.values()]) for key in vars(Strength()))
    operations, values = [], []
    for step in range(steps if name == "randaugment" else 1):
        chosen = (draws.uniform(f"policy {step} which") * len(table)).astype(np.int64)
        if name == "randaugment":
            level = np.clip(magnitude + magnitude_std * draws.normal(f"policy {step} level"), 0, 10) / 10
        else:
            level = draws.uniform(f"policy {step} level")
        if name == "trivialaugment":
            level = np.floor(level * TRIVIAL_LEVELS) / (TRIVIAL_LEVELS - 1)
        minus = signed[chosen] & (draws.uniform(f"policy {step} sign") < 0.5)
        values.append(start[chosen] + level * reach[chosen] * np.where(minus, -1, 1))
        applied = draws.uniform(f"policy {step} whether") < (probability if name == "randaugment" else 1)
        operations.append(np.where(applied, numbers[chosen], NAMES.index("identity")))
    return {"operation": np.stack(operations, axis=1).astype(np.float64), "value": np.stack(values, axis=1)}


def apply_policy(record: Mapping[str, Values], pictures: Tensor, fill: Fill) -> Tensor:
    """float32 [B, C, h, w] in 0..1, in place: one operation after the other, on all pictures that drew it at once."""
    for operations, values in zip(record["operation"].T, record["value"].T, strict=True):
        for number in np.unique(operations):
            at = np.flatnonzero(operations == number)
            if NAMES[int(number)] != "identity":
                where = torch.from_numpy(at).to(pictures.device)
                pictures[where] = OPERATIONS[NAMES[int(number)]](pictures[where], values[at], fill)
    return pictures
