"""How training pictures vary: on whole batches, each picture with draws of its own.

Crop, flip and affine move are one 2x3 matrix and one bilinear sampling; then come a policy's operations, blur and
colours, and on normalised pictures a rectangle that is erased. The draws are in the record, so that boxes, masks and
other crops can follow the picture. Definitions: torchvision's RandomResizedCrop (Szegedy et al. 2015, arXiv:1409.4842),
RandomAffine and ColorJitter (torchvision 0.28, transforms/transforms.py), but that crops and shifts aren't rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.data.colour import blur, enhance
from vitkit.data.erasing import EraseFill, draw_boxes, erase
from vitkit.data.geometry import Fill, flip_matrix, sample, undo_affine
from vitkit.data.keys import Draws
from vitkit.data.policies import PolicyName, apply_policy, draw_policy
from vitkit.errors import ConfigError, list_faults, nearest

__all__ = ["AUGMENTS", "AugmentSpec", "Augmentation", "Record", "named_augment"]

Record: TypeAlias = dict[str, NDArray[np.float64]]
"""What was drawn, each [B, ...]. "matrix": [B, 2, 3], from (x, y) in the result to (x, y) in the picture, in pixels,
where pixel i spans i..i+1. "flip": 1 where left and right are swapped. "brightness", "contrast", "saturation".
"operation" and "value": [B, steps] of a policy. "blur": its sigma, 0 for none. "box": [B, 4], what is erased."""

CROP_TRIES = 10  # as torchvision


@dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """How strongly pictures are varied; as it stands, not at all."""

    crop_scale: tuple[float, float] | None = None
    """Least and greatest part of the picture's area that a random crop takes; none cuts the centre."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width : height of a random crop."""
    flip: float = 0.0
    """Probability of swapping left and right."""
    rotate: float = 0.0
    """Greatest turn either way, in degrees."""
    translate: float = 0.0
    """Greatest shift either way, as part of the side."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Least and greatest magnification."""
    shear: float = 0.0
    """Greatest slant either way, in degrees."""
    brightness: float = 0.0
    """Greatest change of the factor 1 on pixels."""
    contrast: float = 0.0
    """Greatest change of the factor 1 on the distance from the picture's mean grey."""
    saturation: float = 0.0
    """Greatest change of the factor 1 on the distance from grey."""
    policy: PolicyName = "none"
    """Operations drawn from a table: randaugment, trivialaugment, three_augment."""
    policy_steps: int = 2
    """RandAugment: operations one after the other."""
    policy_probability: float = 0.5
    """RandAugment: of each of them to take place."""
    magnitude: float = 9.0
    """RandAugment: how strong they are, 0 to 10."""
    magnitude_std: float = 0.5
    """RandAugment: standard deviation of the magnitude."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Least and greatest standard deviation of the blur, in pixels."""
    erase: float = 0.0
    """Probability of erasing a rectangle."""
    erase_scale: tuple[float, float] = (0.02, 1 / 3)
    """Least and greatest part of the area that is erased."""
    erase_ratio: tuple[float, float] = (0.3, 1 / 0.3)
    """Least and greatest height : width of what is erased."""
    erase_fill: EraseFill = "noise"
    """What a rectangle is erased with: noise in every pixel, or the mean."""
    fill: Fill = "border"
    """What lies outside of the picture: border (its nearest pixel), zeros (black) or grey."""

    def __post_init__(self) -> None:
        faults = []
        chances = ("flip", "translate", "brightness", "contrast", "saturation", "policy_probability", "blur", "erase")
        limits = dict.fromkeys(chances, 1.0) | {"rotate": 180.0, "shear": 60.0, "magnitude": 10.0}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                faults.append(f"{name} is {getattr(self, name)}; allowed: 0 to {limit:g}")
        areas, factors = ("crop_scale", "erase_scale"), ("crop_ratio", "scale", "blur_sigma", "erase_ratio")
        for name, limit in (dict.fromkeys(areas, 1.0) | dict.fromkeys(factors, math.inf)).items():
            span = getattr(self, name)
            if span is not None and not 0 < span[0] <= span[1] <= limit:
                most = "" if limit == math.inf else f" and at most {limit:g}"
                faults.append(f"{name} is {span}; give (least, greatest) above 0{most}")
        for name, kind in (("policy", PolicyName), ("erase_fill", EraseFill), ("fill", Fill)):
            if getattr(self, name) not in get_args(kind):
                faults.append(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(get_args(kind))}")
        if self.policy_steps < 1:
            faults.append(f"policy_steps is {self.policy_steps}; at least 1")
        if not 0 <= self.magnitude_std < math.inf:
            faults.append(f"magnitude_std is {self.magnitude_std}; at least 0")
        if faults:
            raise ConfigError(f"augmentation: {list_faults(faults)}")

    @property
    def moves(self) -> bool:
        """Whether pixels are sampled between pixels: by a random crop or an affine move."""
        return bool(self.crop_scale or self.rotate or self.translate or self.shear or self.scale != (1, 1))

    @property
    def colours(self) -> bool:
        """Whether values change."""
        return bool(self.brightness or self.contrast or self.saturation)


AUGMENTS = {
    "none": AugmentSpec(),
    "photos": AugmentSpec(crop_scale=(0.25, 1.0), flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2),
    # Mirrored figures are other figures. Of the digits' 8 pixels, half a pixel is enough: with shifts of a whole one
    # and turns of 12 degrees, as many epochs end 3 to 5 points lower.
    "figures": AugmentSpec(rotate=8.0, translate=0.0625, scale=(0.95, 1.05), shear=4.0, fill="zeros"),
    # timm's "rand-m9-mstd0.5-inc1", as DeiT has it (Touvron et al., 2021, table 9).
    "randaugment": AugmentSpec(
        crop_scale=(0.08, 1.0), flip=0.5, policy="randaugment", magnitude=9.0, magnitude_std=0.5, fill="grey"
    ),
    "trivialaugment": AugmentSpec(crop_scale=(0.08, 1.0), flip=0.5, policy="trivialaugment", fill="zeros"),
    "three_augment": AugmentSpec(
        crop_scale=(0.08, 1.0), flip=0.5, policy="three_augment", brightness=0.3, contrast=0.3, saturation=0.3
    ),
}
"""Name -> strengths: for pictures of the world, for small drawn signs, and the ones of the large recipes."""


def named_augment(name: str) -> AugmentSpec:
    """The entry of AUGMENTS; ConfigError for an unknown name."""
    if name not in AUGMENTS:
        raise ConfigError(f"augment {name!r} is unknown{nearest(name, AUGMENTS)}; allowed: {', '.join(AUGMENTS)}")
    return AUGMENTS[name]


@dataclass(frozen=True)
class Augmentation:
    """`spec` for pictures of one size, (height, width), giving another."""

    spec: AugmentSpec
    held: tuple[int, int]
    """Of the pictures as they are stored."""
    size: tuple[int, int]
    """Of the result."""
    view: int = 0
    """Which of several independent views of the same picture this is."""

    def __post_init__(self) -> None:
        if self.spec.crop_scale is None and not (self.size[0] <= self.held[0] and self.size[1] <= self.held[1]):
            raise ConfigError(
                f"the centre of {self.size} can't be cut from pictures of {self.held} (height, width); set crop_scale, "
                "or store them larger"
            )

    def draw(self, seed: int, epoch: int, index: NDArray[np.int64]) -> Record:
        """What happens to the pictures at `index` [B] in `epoch`: a function of (seed, epoch, index, view)."""
        spec, draws = self.spec, Draws(seed, epoch, index, self.view)
        ones = np.ones(len(index))

        def around(centre: float, strength: float, stream: str) -> NDArray[np.float64]:
            return draws.uniform(stream, centre - strength, centre + strength) if strength else centre * ones

        flip = (draws.uniform("flip") < spec.flip).astype(np.float64) if spec.flip else 0 * ones
        matrix = self._crop(draws) @ flip_matrix(flip, self.size[1])
        if spec.rotate or spec.translate or spec.shear or spec.scale != (1, 1):
            matrix = matrix @ undo_affine(
                self.size,
                angle=np.radians(around(0, spec.rotate, "rotate")),
                shift_x=self.size[1] * around(0, spec.translate, "translate x"),
                shift_y=self.size[0] * around(0, spec.translate, "translate y"),
                scale=draws.uniform("scale", *spec.scale),
                shear=np.radians(around(0, spec.shear, "shear")),
            )
        record = {"matrix": matrix[:, :2], "flip": flip}
        colours = {"brightness": spec.brightness, "contrast": spec.contrast, "saturation": spec.saturation}
        record |= {name: around(1, strength, name) for name, strength in colours.items() if strength}
        if spec.policy != "none":
            record |= draw_policy(
                spec.policy,
                draws,
                steps=spec.policy_steps,
                probability=spec.policy_probability,
                magnitude=spec.magnitude,
                magnitude_std=spec.magnitude_std,
            )
        if spec.blur:
            record["blur"] = draws.uniform("blur sigma", *spec.blur_sigma) * (draws.uniform("blur") < spec.blur)
        if spec.erase:
            record |= draw_boxes(
                draws, self.size, probability=spec.erase, scale=spec.erase_scale, ratio=spec.erase_ratio
            )
        return record

    def apply(self, record: Record, pictures: Tensor) -> Tensor:
        """Turns uint8 or uint16 [B, H, W, C] of size `held` into float32 [B, C, h, w] in 0..1, as `record` says.

        What is erased is erased later, by `finish`.
        """
        spec, full_scale = self.spec, torch.iinfo(pictures.dtype).max
        if spec.moves:
            # Keeping the channels last spares a copy: grid_sample reads any strides.
            result = sample(pictures.float().permute(0, 3, 1, 2), record["matrix"], self.size, spec.fill, full_scale)
        else:
            top, left = _centre(self.held, self.size)
            cut = pictures[:, top : top + self.size[0], left : left + self.size[1]].permute(0, 3, 1, 2)
            result = cut.to(torch.float32, memory_format=torch.contiguous_format)
            if spec.flip:
                flipped = torch.from_numpy(record["flip"] > 0).to(result.device)
                result = torch.where(flipped[:, None, None, None], result.flip(3), result)
        result = result.div_(full_scale)
        if spec.policy != "none":
            result = apply_policy(record, result, spec.fill)
        if spec.blur and len(at := np.flatnonzero(record["blur"])):
            where = torch.from_numpy(at).to(result.device)
            result[where] = blur(result[where], record["blur"][at])
        return enhance(result, record) if spec.colours else result

    def finish(self, record: Record, pictures: Tensor) -> Tensor:
        """Erases in normalised pictures [B, C, h, w], in place."""
        return erase(record, pictures, self.spec.erase_fill) if self.spec.erase else pictures

    def _crop(self, draws: Draws) -> NDArray[np.float64]:
        """[B, 3, 3], from the result's pixels to the picture's."""
        height, width = (float(side) for side in self.held)
        matrix = np.tile(np.eye(3), (len(draws.index), 1, 1))
        if self.spec.crop_scale is None:
            matrix[:, 1, 2], matrix[:, 0, 2] = _centre(self.held, self.size)
            return matrix
        tries = draws.each(CROP_TRIES)
        area = height * width * tries.uniform("crop area", *self.spec.crop_scale)
        ratio = np.exp(tries.uniform("crop ratio", *np.log(self.spec.crop_ratio)))
        wide, tall = np.sqrt(area * ratio), np.sqrt(area / ratio)
        fits = (wide <= width) & (tall <= height)
        first, found = (np.arange(len(fits)), fits.argmax(axis=1)), fits.any(axis=1)
        # Where no try fits: the most of the picture that the ratio allows, in its middle.
        whole = min(max(width / height, self.spec.crop_ratio[0]), self.spec.crop_ratio[1])
        wide = np.where(found, wide[first], min(width, height * whole))
        tall = np.where(found, tall[first], min(height, width / whole))
        left = np.where(found, draws.uniform("crop left"), 0.5)
        top = np.where(found, draws.uniform("crop top"), 0.5)
        matrix[:, 0, 0], matrix[:, 0, 2] = wide / self.size[1], left * (width - wide)
        matrix[:, 1, 1], matrix[:, 1, 2] = tall / self.size[0], top * (height - tall)
        return matrix


def _centre(held: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of the centre crop, rounded as crop "center_round" of Preprocess."""
    return round((held[0] - size[0]) / 2), round((held[1] - size[1]) / 2)
