"""A sheet holds every picture at its place, tiny ones by whole pixels, and captions that fit."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkit import ConfigError
from vitkit.report.sheet import sheet_picture


def draw(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_pictures_stand_in_rows_in_order_and_tiny_ones_are_enlarged_by_whole_pixels() -> None:
    digits = [np.full((8, 8, 1), 10 * number, np.uint8) for number in range(5)]
    digits[4][0, 0] = 255
    sheet = draw(sheet_picture(digits, columns=3))
    assert sheet.shape == (2 * 122 + 10, 3 * 122 + 10, 3)
    for number in range(5):
        top, left = 10 + number // 3 * 122, 10 + number % 3 * 122
        tile = sheet[top : top + 112, left : left + 112]
        assert (tile[14:] == 10 * number).all()
    assert (sheet[132:146, 132:146] == 255).all() and (sheet[146, 132] == 40).all()
    assert (sheet[132:, 254:] == 255).all()


def test_large_pictures_are_reduced_and_their_shape_kept() -> None:
    sheet = draw(sheet_picture([np.zeros((1000, 500, 3), np.uint8)]))
    assert sheet.shape[:2] == (224 + 20, 112 + 20)


def test_captions_stand_below_and_never_run_into_the_next() -> None:
    black = np.full((112, 112, 3), 255, np.uint8)
    sheet = draw(sheet_picture([black] * 2, ["a caption far too long for its picture", "b\nc"], columns=2))
    ink = (sheet < 200).any(axis=(0, 2))
    assert ink[10:122].any() and not ink[122:132].any() and ink[132:].any()


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
