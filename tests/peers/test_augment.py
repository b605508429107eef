"""Mixing equals timm's, moves and crops torchvision's, given the same draws."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data import Mixup
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import _get_inverse_affine_matrix

from vitkit.data import keys, mix
from vitkit.data.augment import Augmentation, AugmentSpec
from vitkit.data.geometry import undo_affine
from vitkit.data.mix import MixSpec, draw_mix, mix_labels, mix_pictures

pytestmark = pytest.mark.peer


def draws_of(monkeypatch: pytest.MonkeyPatch, spec: MixSpec, seed: int, step: int, size: tuple[int, int]) -> None:
    """Lets timm draw what we draw: lambda before its correction, and the centre of the box."""
    recorded: dict[str, float] = {}

    def uniform(seed: int, step: int, index: Any, stream: str) -> Any:
        value = keys.uniform(seed, step, index, stream)
        recorded[stream.removeprefix("mix/")] = float(value[0])
        return value

    def beta(alpha: float, radius: float, angle: float) -> float:
        recorded["weight"] = original(alpha, radius, angle)
        return recorded["weight"]

    original = mix._symmetric_beta
    with monkeypatch.context() as patch:
        patch.setattr(mix, "uniform", uniform)
        patch.setattr(mix, "_symmetric_beta", beta)
        draw_mix(spec, seed, step, size)
    chances: Iterator[float] = iter([recorded["whether"], recorded.get("which", 0.0)])
    centre = iter([recorded.get("down", 0.0), recorded.get("across", 0.0)])
    monkeypatch.setattr(np.random, "rand", lambda: next(chances))
    monkeypatch.setattr(np.random, "beta", lambda a, b: recorded["weight"])
    monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: low + int(next(centre) * (high - low)))


@pytest.mark.parametrize(
    "spec", [MixSpec(mixup=0.8), MixSpec(cutmix=1.0), MixSpec(mixup=0.2, cutmix=1.0, probability=0.8)]
)
def test_mixing_equals_timms(monkeypatch: pytest.MonkeyPatch, spec: MixSpec) -> None:
    seen = set()
    for step in range(40):
        pictures, labels = torch.randn(6, 3, 20, 33), torch.randint(0, 9, (6,))
        drawn = draw_mix(spec, 7, step, (20, 33))
        ours = mix_pictures(drawn, pictures), mix_labels(drawn, labels, 9, 0.1)
        draws_of(monkeypatch, spec, 7, step, (20, 33))
        peer = Mixup(
            spec.mixup, spec.cutmix, prob=spec.probability, switch_prob=spec.switch_probability, label_smoothing=0.1,
            num_classes=9,
        )  # fmt: skip
        theirs = peer(pictures.clone(), labels)
        torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-7)
        seen.add("none" if drawn.weight == 1 else "cut" if drawn.box else "mix")
    assert seen >= {"cut" if spec.cutmix else "mix"}


def test_moves_are_torchvisions() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        angle, shear = random.uniform(-180, 180), random.uniform(-40, 40)
        shift, scale = random.uniform(-9, 9, 2), random.uniform(0.3, 3)
        theirs = _get_inverse_affine_matrix([20.0, 15.0], angle, shift.tolist(), scale, [shear, 0.0])
        ours = undo_affine(
            (30, 40),
            angle=np.array([math.radians(angle)]),
            shift_x=shift[:1],
            shift_y=shift[1:],
            scale=np.array([scale]),
            shear=np.array([math.radians(shear)]),
        )
        np.testing.assert_allclose(ours[0, :2].ravel(), theirs, rtol=1e-12, atol=1e-12)


def test_crops_are_distributed_as_torchvisions() -> None:
    held, scale, ratio = (60, 100), (0.2, 1.0), (3 / 4, 4 / 3)
    picture = torch.zeros(3, *held)
    theirs = np.array([RandomResizedCrop.get_params(picture, scale, ratio) for _ in range(4000)])
    spec = AugmentSpec(crop_scale=scale, crop_ratio=ratio)
    matrix = Augmentation(spec, held, (50, 50)).draw(0, 0, np.arange(4000))["matrix"]
    ours = np.stack([matrix[:, 1, 2], matrix[:, 0, 2], 50 * matrix[:, 1, 1], 50 * matrix[:, 0, 0]], axis=1)
    theirs, ours = (boxes[boxes[:, 2] < 59.5] for boxes in (theirs, ours))  # else there is no room to move in
    # They round to pixels; noise within the pixel takes the steps off. Places are compared as parts of the room.
    noise = np.random.default_rng(0).uniform(0, 1, theirs.shape)
    room = np.array(held)
    places = (theirs[:, :2] + noise[:, :2]) / (room + 1 - theirs[:, 2:]), ours[:, :2] / (room - ours[:, 2:])
    sizes = theirs[:, 2:] + noise[:, 2:] - 0.5, ours[:, 2:]
    for peer, own in (places, sizes):
        for axis in (0, 1):
            assert stats.ks_2samp(peer[:, axis], own[:, axis]).pvalue > 1e-3
