"""A sheet holds every picture at its place, tiny ones by whole pixels, and captions that fit."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from vitkit import ConfigError
from vitkit.report.sheet import _wrap, sheet_picture, tile_picture


def draw(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_pictures_stand_in_rows_in_order_and_tiny_ones_are_enlarged_by_whole_pixels() -> None:
    digits = [np.full((8, 8, 1), 10 * number, np.uint8) for number in range(5)]
    digits[4][0, 0] = 255
    sheet = draw(sheet_picture(digits, columns=3))
    assert sheet.shape == (2 * 140 + 12, 3 * 140 + 12, 3)
    for number in range(5):
        top, left = 12 + number // 3 * 140, 12 + number % 3 * 140
        tile = sheet[top : top + 128, left : left + 128]
        assert (tile[16:] == 10 * number).all()
    assert (sheet[152:168, 152:168] == 255).all() and (sheet[168, 152] == 40).all()
    assert (sheet[152:, 292:] == 255).all()


def test_large_pictures_are_reduced_and_their_shape_kept() -> None:
    sheet = draw(sheet_picture([np.zeros((1000, 500, 3), np.uint8)]))
    assert sheet.shape[:2] == (224 + 24, 112 + 24)


def test_captions_stand_below_and_never_run_into_the_next() -> None:
    white = np.full((128, 128, 3), 255, np.uint8)
    long = "a caption far too long for its picture, even on two lines"
    sheet = draw(sheet_picture([white] * 2, [long, "b\nc"], columns=2))
    ink = (sheet < 200).any(axis=2)
    across = ink.any(axis=0)
    assert across[12:140].any() and not across[140:152].any() and across[152:].any()
    assert not ink[:140].any()
    first, second = ink[140:157], ink[157:174]
    assert first[:, :140].any() and second[:, :140].any() and first[:, 152:].any() and not second[:, 152:].any()


def test_captions_are_wrapped_between_words_cut_after_two_lines_and_never_broken_at_a_no_break_space() -> None:
    font = ImageFont.load_default(13)
    width = int(font.getlength("daisy, dandelion (41")) + 1
    assert _wrap("daisy, dandelion (41 %)", width, font) == ["daisy, dandelion (41", "%)"]
    assert _wrap("daisy, dandelion (41\N{NO-BREAK SPACE}%)", width, font) == ["daisy, dandelion", "(41 %)"]
    first, second = _wrap("one two " * 20, width, font)
    assert first.endswith("o") and second.endswith("…") and font.getlength(second) <= width
    (cut,) = _wrap("m" * 100, width, font)
    assert cut.endswith("m…") and font.getlength(cut) <= width


def test_a_picture_of_its_own_keeps_sharp_pixels_when_tiny_and_is_small_when_large() -> None:
    digit = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    tile = draw(tile_picture(digit))
    assert tile.shape == (256, 256, 3)
    np.testing.assert_array_equal(tile[::32, ::32, 0], digit[..., 0])
    assert draw(tile_picture(np.zeros((600, 300, 3), np.uint8))).shape == (160, 80, 3)


def test_the_sheet_is_written_whole_and_returned(tmp_path: Path) -> None:
    png = sheet_picture([np.zeros((8, 8, 3), np.uint8)], file=tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes() == png
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ConfigError, match="no pictures"):
        sheet_picture([])
    with pytest.raises(ConfigError, match="2 captions for 1"):
        sheet_picture([np.zeros((8, 8, 3), np.uint8)], ["a", "b"])
    with pytest.raises(ConfigError, match=r"float64 \[8, 8\]; allowed: uint8"):
        sheet_picture([np.zeros((8, 8))])  # type: ignore[list-item]
