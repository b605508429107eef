"""Overlays point at the right patches, at any size and number of channels, in honest colours."""

import numpy as np
import pytest
from PIL import Image

from vitkit import ImageError
from vitkit.explain.overlay import colour, draw_pair, enlarge, overlay


def test_colours_are_matplotlibs_magma() -> None:
    import matplotlib

    places = np.linspace(0, 1, 256)
    expected = matplotlib.colormaps["magma"](places)[:, :3] * 255
    assert np.abs(colour(places) - expected).max() <= 3  # 17 colours, straight lines between


def test_tiny_pictures_grow_by_whole_pixels_and_large_ones_stay() -> None:
    digit = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    grown = enlarge(digit)
    assert grown.shape == (224, 224, 3)
    assert (grown[::28, ::28, 1] == digit[..., 0]).all() and (grown[27::28, 27::28, 1] == digit[..., 0]).all()
    photo = np.random.default_rng(0).integers(0, 256, (300, 256, 3), dtype=np.uint8)
    assert enlarge(photo) is photo
    assert enlarge(photo[:100, :120]).shape == (300, 360, 3)


@pytest.mark.parametrize("side", [8, 224])
def test_the_brightest_place_is_the_patch_with_the_largest_value(side: int) -> None:
    values = np.full((4, 4), 0.01, np.float32)
    values[1, 3] = 0.5
    shown = overlay(np.full((side, side, 3), 128, np.uint8), values).sum(axis=2)
    patch = shown.shape[0] // 4
    row, column = np.unravel_index(int(shown.argmax()), shown.shape)
    assert (row // patch, column // patch) == (1, 3)


def test_patches_of_tiny_pictures_keep_their_edges() -> None:
    shown = overlay(np.zeros((8, 8, 1), np.uint8), np.array([[1, 0], [0, 0]], np.float32))
    assert (shown[:112, :112] == shown[0, 0]).all() and (shown[:112, 112:] == shown[0, 223]).all()


def test_a_map_of_equal_or_zero_values_is_one_colour() -> None:
    grey = np.full((8, 8, 1), 100, np.uint8)
    for level in (0.25, 0.0):
        assert len(np.unique(overlay(grey, np.full((2, 2), level, np.float32)).reshape(-1, 3), axis=0)) == 1


def test_the_caption_has_its_strip_below_and_long_ones_are_wrapped() -> None:
    picture = np.zeros((224, 224, 3), np.uint8)
    values = np.ones((2, 2), np.float32)
    short = draw_pair(picture, values, "cat, 98.0 %", "attention")
    long = draw_pair(picture, values, "a class name that goes on " * 4, "attention")
    assert short.width == long.width == 452 and 224 < short.height < long.height < 340
    strip = np.asarray(short.crop((0, 224, 452, short.height)).convert("L"))
    assert strip.min() < 60 and (strip[:, -8:] == 255).all() and (strip[-2:] == 255).all()


def test_what_is_no_picture_is_refused() -> None:
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(ImageError, match=r"allowed: uint8 \[H, W, C\]"):
            enlarge(wrong)
    assert enlarge(np.zeros((8, 8, 5), np.uint8)).shape == (224, 224, 3)
    assert Image.fromarray(enlarge(np.zeros((1, 1, 1), np.uint8))).size == (224, 224)
