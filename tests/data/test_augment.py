"""Augmentations against Pillow and closed forms: one warp, colours, draws of each picture's own."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy import stats

from small import picture
from vitkit import Preprocess
from vitkit.config import from_dict, to_dict
from vitkit.data.augment import AUGMENTS, Augmentation, AugmentSpec, Record
from vitkit.errors import ConfigError
from vitkit.image.preprocess import fit

HELD, SIZE = (45, 52), (32, 40)
INDEX = np.arange(6)
PICTURES = torch.from_numpy(np.stack([np.asarray(picture(*HELD, seed=seed)) for seed in INDEX]))
EVERYTHING = AugmentSpec(
    crop_scale=(0.3, 1.0), flip=0.5, rotate=20, translate=0.1, scale=(0.8, 1.2), shear=10,
    brightness=0.3, contrast=0.4, saturation=0.5,
)  # fmt: skip


def apply(spec: AugmentSpec, record: Record, size: tuple[int, int] = SIZE) -> np.ndarray[Any, Any]:
    """uint8-like values, [B, h, w, C] in 0..255."""
    return Augmentation(spec, HELD, size).apply(record, PICTURES).permute(0, 2, 3, 1).numpy() * 255


@pytest.mark.parametrize("size", [HELD, SIZE, (45, 31)])
def test_no_strength_is_the_centre_to_the_bit(size: tuple[int, int]) -> None:
    none = Augmentation(AugmentSpec(), HELD, size)
    result = none.apply(none.draw(0, 0, INDEX), PICTURES)
    preprocess = Preprocess(
        size=size, resize="none", crop="center_round", interpolation="bilinear", mean=(0,) * 3, std=(1,) * 3
    )
    expected = np.stack([fit(preprocess, each.numpy()) for each in PICTURES]).astype(np.float32) / np.float32(255)
    assert result.is_contiguous() and np.array_equal(result.permute(0, 2, 3, 1), expected)


def test_a_flip_swaps_left_and_right_to_the_bit() -> None:
    plain, mirrored = apply(AugmentSpec(), {}), apply(AugmentSpec(flip=1), draw(AugmentSpec(flip=1)))
    assert np.array_equal(mirrored, plain[:, :, ::-1])


def draw(spec: AugmentSpec, index: Any = INDEX, epoch: int = 0, size: tuple[int, int] = SIZE) -> Record:
    return Augmentation(spec, HELD, size).draw(5, epoch, index)


@pytest.mark.parametrize("fill", ["border", "zeros"])
def test_the_warp_is_pillows(fill: Any) -> None:
    spec = dataclasses.replace(EVERYTHING, brightness=0, contrast=0, saturation=0, fill=fill)
    record = draw(spec)
    result = apply(spec, record)
    for at in INDEX:
        matrix = record["matrix"][at]
        data = tuple(float(value) for value in matrix.ravel())
        image = Image.fromarray(PICTURES[at].numpy())
        theirs = np.asarray(image.transform(SIZE[::-1], Image.Transform.AFFINE, data, Image.Resampling.BILINEAR))
        y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
        there = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
        inside = (there > 0.5).all(0) & (there[0] < HELD[1] - 0.5) & (there[1] < HELD[0] - 0.5)
        beyond = (there < -0.5).any(0) | (there[0] > HELD[1] + 0.5) | (there[1] > HELD[0] + 0.5)
        assert np.abs(result[at][inside] - theirs[inside]).max() <= 1.01  # theirs is cut to whole numbers
        assert fill == "border" or not result[at][beyond].any()
        if fill == "border":
            corner = PICTURES[at].numpy()[
                np.clip(there[1], 0, HELD[0] - 1).astype(int), np.clip(there[0], 0, HELD[1] - 1).astype(int)
            ]
            in_corner = ((there[0] < 0) | (there[0] > HELD[1])) & ((there[1] < 0) | (there[1] > HELD[0]))
            np.testing.assert_allclose(result[at][in_corner], corner[in_corner], atol=1e-2)


def test_the_record_says_where_points_went() -> None:
    """A bright spot is found where the matrix sends it: what boxes and masks rely on."""
    pictures = torch.zeros(40, 33, 33, 1, dtype=torch.uint8)
    pictures[:, 12:15, 20:23] = 255  # centre (21.5, 13.5)
    spec = AugmentSpec(flip=0.5, rotate=30, translate=0.1, scale=(0.9, 1.3), shear=15, fill="zeros")
    augmentation = Augmentation(spec, (33, 33), (33, 33))
    record = augmentation.draw(0, 0, np.arange(40))
    result = augmentation.apply(record, pictures)[:, 0].double().numpy()
    y, x = np.mgrid[:33, :33] + 0.5
    for at in range(40):
        linear, offset = record["matrix"][at][:, :2], record["matrix"][at][:, 2]
        expected = np.linalg.solve(linear, np.array([21.5, 13.5]) - offset)
        found = np.array([(result[at] * x).sum(), (result[at] * y).sum()]) / result[at].sum()
        assert np.abs(found - expected).max() < 0.1
        assert (np.linalg.det(linear) < 0) == bool(record["flip"][at])


@pytest.mark.parametrize(
    ("name", "enhance"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.5])
def test_colours_are_pillows(name: str, enhance: Any, factor: float) -> None:
    spec = AugmentSpec(**{name: 0.5})
    result = apply(spec, {name: np.full(len(INDEX), factor)}, HELD)
    for at in INDEX:
        theirs = np.asarray(enhance(Image.fromarray(PICTURES[at].numpy())).enhance(factor))
        assert np.abs(result[at] - theirs).max() <= 1.51  # theirs rounds the grey, and the result


def test_the_colour_steps_are_one_after_the_other() -> None:
    """Where nothing reaches 0 or 1, in any order: the slow, plain definitions."""
    record = {name: np.array([0.9, 1.1, 0.95, 1.05, 1.02, 0.98]) for name in ("brightness", "contrast", "saturation")}
    mild = PICTURES.clamp(90, 160)
    result = Augmentation(EVERYTHING, HELD, HELD).apply(record | {"matrix": IDENTITY}, mild)
    for at in INDEX:
        x = mild[at].double().permute(2, 0, 1) / 255
        luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
        f = record["brightness"][at]
        x = (x * luma).sum(0) * (1 - f) + x * f
        x = (x * luma).sum(0).mean() * (1 - f) + x * f
        x = x * f
        torch.testing.assert_close(result[at].double(), x, atol=2e-5, rtol=0)


IDENTITY = np.tile(np.eye(3)[:2], (len(INDEX), 1, 1))


def test_grey_pictures_have_brightness_and_contrast() -> None:
    spec = AugmentSpec(brightness=0.4, contrast=0.4, saturation=0.4)
    augmentation = Augmentation(spec, HELD, SIZE)
    record = augmentation.draw(0, 0, INDEX)
    grey = PICTURES[..., :1]
    result = augmentation.apply(record, grey)
    record["saturation"] = np.zeros(len(INDEX))
    torch.testing.assert_close(augmentation.apply(record, grey), result)
    assert result.shape == (6, 1, *SIZE) and result.min() >= 0 and result.max() <= 1


def test_each_picture_has_draws_of_its_own_whatever_its_company() -> None:
    whole = draw(EVERYTHING, np.arange(50))
    assert all(len(np.unique(values, axis=0)) == 50 for name, values in whole.items() if name != "flip")
    part = draw(EVERYTHING, np.array([31, 7]))
    for name, values in whole.items():
        assert np.array_equal(values[[31, 7]], part[name])
        assert name == "flip" or not np.isin(draw(EVERYTHING, np.arange(50), epoch=1)[name], values).all()
    one, six = draw(EVERYTHING, INDEX[3:4]), draw(EVERYTHING)
    alone = Augmentation(EVERYTHING, HELD, SIZE).apply(one, PICTURES[3:4])
    torch.testing.assert_close(
        alone[0], Augmentation(EVERYTHING, HELD, SIZE).apply(six, PICTURES)[3], atol=1e-6, rtol=0
    )


def test_views_differ() -> None:
    views = [Augmentation(EVERYTHING, HELD, SIZE, view=view).draw(0, 0, INDEX)["matrix"] for view in (0, 1)]
    assert not np.isclose(*views).all(axis=(1, 2)).any()


def test_draws_follow_the_spec() -> None:
    n = 5000
    spec = AugmentSpec(flip=0.3, rotate=25, scale=(0.5, 2.0), brightness=0.2)
    record = Augmentation(spec, HELD, SIZE).draw(0, 0, np.arange(n))
    assert stats.binomtest(int(record["flip"].sum()), n, 0.3).pvalue > 1e-3
    assert stats.kstest(record["brightness"], stats.uniform(0.8, 0.4).cdf).pvalue > 1e-3
    linear = record["matrix"][:, :, :2]
    scale = 1 / np.sqrt(np.abs(np.linalg.det(linear)))
    assert stats.kstest(scale, stats.uniform(0.5, 1.5).cdf).pvalue > 1e-3
    angle = np.degrees(np.arctan2(-linear[:, 1, 0], linear[:, 1, 1]))
    assert stats.kstest(angle, stats.uniform(-25, 50).cdf).pvalue > 1e-3


def test_a_crop_that_never_fits_takes_the_most_it_may() -> None:
    augmentation = Augmentation(AugmentSpec(crop_scale=(1, 1), crop_ratio=(2, 3)), (40, 40), (10, 10))
    matrix = augmentation.draw(0, 0, np.arange(3))["matrix"]
    np.testing.assert_allclose(matrix, np.tile([[4, 0, 0], [0, 2, 10]], (3, 1, 1)), atol=1e-12)


def test_the_named_ones_are_plain_data() -> None:
    for name, spec in AUGMENTS.items():
        assert from_dict(AugmentSpec, to_dict(spec), origin=name) == spec
    assert AUGMENTS["none"] == AugmentSpec() and not AUGMENTS["figures"].flip


def test_faults_are_said_together() -> None:
    with pytest.raises(
        ConfigError, match=r"flip is 2; allowed: 0 to 1; crop_scale is \(0.5, 1.2\).*at most 1; fill is 'x'"
    ):
        AugmentSpec(flip=2, crop_scale=(0.5, 1.2), fill="x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="can't be cut from pictures of"):
        Augmentation(AugmentSpec(), (8, 8), (9, 8))
