"""RandAugment's operations equal timm's, TrivialAugment's strengths torchvision's, erased boxes timm's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from timm.data import auto_augment, random_erasing
from torchvision.transforms import TrivialAugmentWide

from small import picture
from vitkit.data.erasing import draw_boxes, erase
from vitkit.data.keys import Draws
from vitkit.data.policies import OPERATIONS, POLICIES, apply_policy, draw_policy

pytestmark = pytest.mark.peer

NAMES = tuple(OPERATIONS)
SIZE = (40, 52)
THEIRS = {
    "autocontrast": "AutoContrast", "equalize": "Equalize", "invert": "Invert", "rotate": "Rotate",
    "posterize": "PosterizeIncreasing", "solarize": "SolarizeIncreasing", "solarize_add": "SolarizeAdd",
    "saturation": "ColorIncreasing", "contrast": "ContrastIncreasing", "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing", "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}  # fmt: skip
MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def test_randaugment_draws_from_timms_table() -> None:
    assert [THEIRS[name] for name in POLICIES["randaugment"]] == auto_augment._RAND_INCREASING_TRANSFORMS
    parsed = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", {})
    assert parsed.num_layers == 2
    assert all((op.prob, op.magnitude, op.magnitude_std) == (0.5, 9, 0.5) for op in parsed.ops)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [0.0, 3.7, 9.0, 9.9])
@pytest.mark.parametrize("name", THEIRS)
def test_an_operation_is_timms(name: str, magnitude: float, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    strength = POLICIES["randaugment"][name]
    if sign < 0 and not strength.signed:
        sign = 1
    monkeypatch.setattr(auto_augment.random, "random", lambda: 0.2 if sign > 0 else 0.8)
    image = Image.fromarray(np.asarray(picture(*SIZE, seed=3)))
    op = auto_augment.AugmentOp(
        THEIRS[name], 1.0, magnitude, {"img_mean": (128,) * 3, "interpolation": Image.Resampling.BILINEAR}
    )
    theirs = np.asarray(op(image)).astype(np.float64)
    pictures = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2) / 255
    value = np.array([strength.start + magnitude / 10 * strength.reach * sign])
    ours = OPERATIONS[name](pictures, value, "grey")[0].permute(1, 2, 0).numpy() * 255
    inside = np.ones(SIZE, bool)
    if name in MOVES:  # at the picture's edge theirs goes over to grey at once, ours within a pixel
        inside = OPERATIONS[name](torch.ones(1, 1, *SIZE), value, "zeros")[0, 0].numpy()
        beyond, inside = inside == 0, inside > 1 - 1e-5
        assert inside.mean() > 0.35 and np.abs(ours[beyond] - theirs[beyond]).max(initial=0) <= 0.01
    assert np.abs(ours[inside] - theirs[inside]).max() <= 1.51  # theirs is rounded


def test_trivialaugment_draws_torchvisions_strengths() -> None:
    theirs = TrivialAugmentWide()._augmentation_space(31)
    names = {
        "identity": "Identity", "shear_x": "ShearX", "shear_y": "ShearY", "shift_x": "TranslateX",
        "shift_y": "TranslateY", "rotate": "Rotate", "brightness": "Brightness", "saturation": "Color",
        "contrast": "Contrast", "sharpness": "Sharpness", "posterize": "Posterize", "solarize": "Solarize",
        "autocontrast": "AutoContrast", "equalize": "Equalize",
    }  # fmt: skip
    assert {names[name] for name in POLICIES["trivialaugment"]} == theirs.keys()
    record = draw_policy("trivialaugment", draws(20000), steps=2, probability=0.5, magnitude=9, magnitude_std=0.5)
    assert record["operation"].shape == (20000, 1)
    counts = np.bincount(record["operation"][:, 0].astype(int), minlength=len(NAMES))
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-3 and (counts > 0).sum() == 14
    for name, their_name in names.items():
        magnitudes, signed = theirs[their_name]
        expected = np.atleast_1d(magnitudes.numpy()).astype(np.float64)
        if name in ("brightness", "saturation", "contrast", "sharpness"):
            expected = np.concatenate([1 + expected, 1 - expected])
        elif signed:
            expected = np.concatenate([expected, -expected])
        found = np.unique(record["value"][record["operation"] == NAMES.index(name)])
        found = np.ceil(found) if name == "posterize" else found
        np.testing.assert_allclose(np.unique(found.round(3)), np.unique(expected.round(3)), atol=2e-3, err_msg=name)


def draws(count: int, epoch: int = 0) -> Draws:
    return Draws(3, epoch, np.arange(count))


def test_randaugments_draws_follow_timms_rule() -> None:
    record = draw_policy("randaugment", draws(20000), steps=2, probability=0.5, magnitude=9, magnitude_std=0.5)
    operations, values = record["operation"], record["value"]
    applied = operations != NAMES.index("identity")
    assert stats.binomtest(int(applied.sum()), applied.size, 0.5).pvalue > 1e-3
    counts = np.bincount(operations[applied].astype(int), minlength=len(NAMES))
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-3 and (counts > 0).sum() == 15
    assert stats.chi2_contingency(np.histogram2d(operations[:, 0], operations[:, 1], bins=8)[0] + 1).pvalue > 1e-3
    turned = values[operations == NAMES.index("rotate")] / 3
    assert stats.binomtest(int((turned > 0).sum()), len(turned), 0.5).pvalue > 1e-3
    generator = random.Random(0)
    theirs = np.array([max(0.0, min(generator.gauss(9, 0.5), 10)) for _ in range(5000)])
    assert stats.ks_2samp(np.abs(turned), theirs).pvalue > 1e-3


def test_three_augment_is_one_of_three() -> None:
    record = draw_policy("three_augment", draws(3000), steps=2, probability=0, magnitude=9, magnitude_std=0.5)
    assert {NAMES[int(number)] for number in np.unique(record["operation"])} == {"grey", "solarize", "blur"}
    sigma = record["value"][record["operation"] == NAMES.index("blur")]
    assert stats.kstest(sigma, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


def test_a_batch_is_its_pictures_one_by_one() -> None:
    pictures = torch.rand(60, 3, *SIZE)
    record = draw_policy("randaugment", draws(60), steps=2, probability=0.8, magnitude=7, magnitude_std=2)
    together = apply_policy(record, pictures.clone(), "grey")
    for at in range(60):
        expected = pictures[at : at + 1]
        for number, value in zip(record["operation"][at], record["value"][at], strict=True):
            expected = OPERATIONS[NAMES[int(number)]](expected, np.array([value]), "grey")
        torch.testing.assert_close(together[at], expected[0], rtol=0, atol=1e-5)
    changed = (together != pictures).flatten(1).any(1).numpy()
    assert changed.sum() > 40 and not changed[(record["operation"] == 0).all(1)].any()


def test_erased_boxes_are_distributed_as_timms() -> None:
    size, count = (40, 60), 3000
    theirs: Any = random_erasing.RandomErasing(0.7, mode="const", device="cpu")
    random.seed(0)
    masks = (theirs(torch.ones(count, 1, *size)) == 0)[:, 0]
    record = draw_boxes(draws(count), size, probability=0.7, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3))
    ours = erase(record, torch.ones(count, 1, *size), "mean")[:, 0] == 0
    for mask in (masks, ours):
        assert stats.binomtest(int(mask.flatten(1).any(1).sum()), count, 0.7).pvalue > 1e-3
    for axis in (1, 2):
        lines = [mask.any(3 - axis)[mask.flatten(1).any(1)].float() for mask in (masks, ours)]
        for measure in (lambda line: line.sum(1), lambda line: line.argmax(1)):
            peer, own = (measure(line).numpy() + np.random.default_rng(0).uniform(size=len(line)) for line in lines)
            assert stats.ks_2samp(peer, own).pvalue > 1e-3
    areas = record["box"][:, 2] * record["box"][:, 3]
    assert np.array_equal(ours.sum((1, 2)).numpy(), areas)


def test_noise_is_normal_and_stays_in_its_box() -> None:
    before = torch.full((50, 3, 30, 30), 7.0)
    record = draw_boxes(draws(50), (30, 30), probability=0.8, scale=(0.1, 0.3), ratio=(0.5, 2))
    after = erase(record, before.clone(), "noise")
    inside = after != before
    assert stats.kstest(after[inside].double().numpy(), "norm").pvalue > 1e-3
    for at, (top, left, height, width) in enumerate(record["box"].astype(int)):
        box = torch.zeros(30, 30, dtype=torch.bool)
        box[top : top + height, left : left + width] = True
        assert torch.equal(inside[at], box.expand(3, 30, 30))
    again = erase(record, before.clone(), "noise")
    assert torch.equal(again, after)
