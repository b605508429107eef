"""Every kind of picture decodes to the pixels Pillow's documentation promises, every fault to one line."""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from vitkit.errors import ConfigError, ImageError
from vitkit.image.decode import FORMATS, Header, Limits, decode, describe, read_header

RED, GREEN = (200, 20, 30), (10, 180, 60)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int, *bands: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *bands), dtype=np.uint8)


def png(width: int, height: int, depth: int, color_type: int, rows: bytes) -> bytes:
    """A PNG written by hand from the specification: Pillow writes no 16-bit colour, and no false sizes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png_16bit(samples: np.ndarray) -> bytes:
    """[H, W] becomes grey, [H, W, 3] colour."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png(samples.shape[1], samples.shape[0], 16, 2 if samples.ndim == 3 else 0, rows)


def refused(picture: Any, **options: Any) -> str:
    """The error's text, which has to be one line."""
    with pytest.raises(ImageError) as caught:
        decode(picture, **options)
    text = str(caught.value)
    assert text.isprintable()
    return text


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_back_the_pixels(kind: str, tmp_path: Path) -> None:
    pixels = noise(13, 17, 3)
    data = encode(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {}))
    path = tmp_path / "picture"  # no extension: content decides
    path.write_bytes(data)
    for picture in (data, path, str(path), Image.open(io.BytesIO(data)), Image.fromarray(pixels), pixels):
        decoded = decode(picture)
        assert decoded.dtype == np.uint8
        assert np.array_equal(decoded, pixels)
        assert decoded.flags.writeable and decoded.flags.c_contiguous


def test_jpeg_equals_pillow_in_colour_grey_and_cmyk() -> None:
    colour = Image.fromarray(noise(40, 50, 3))
    for image in (colour, colour.convert("L"), colour.convert("CMYK")):
        data = encode(image, "JPEG")
        assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])  # in JPEG they are stored inverted, as Adobe does
def test_a_flat_cmyk_picture_has_the_colour_it_was_made_of(kind: str) -> None:
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    assert np.abs(decode(encode(image, kind)).astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("tag", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_turns_as_pillow_does_and_invalid_values_say_nothing(tag: int, kind: str) -> None:
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8] = RED
    pixels[8:, 16:] = GREEN
    exif = Image.Exif()
    exif[0x0112] = tag
    data = encode(Image.fromarray(pixels), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode(data), np.asarray(expected))
    by_hand = {3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1), 8: np.rot90(pixels)}.get(tag)
    if by_hand is not None and kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(data), by_hand)


def test_a_pil_image_is_turned_and_not_changed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encode(Image.new("RGB", (20, 10), RED), "PNG", exif=exif)))
    assert decode(image).shape == (20, 10, 3)
    assert image.size == (20, 10)
    assert image.getexif()[0x0112] == 6


def test_broken_exif_does_not_cost_the_picture() -> None:
    data = encode(Image.new("RGB", (20, 10), RED), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode(data).shape == (10, 20, 3)


def test_transparency_lies_on_white() -> None:
    colour = noise(8, 9, 3)
    for alpha in (0, 255):
        rgba = np.dstack([colour, np.full((8, 9), alpha, np.uint8)])
        expected = colour if alpha else np.full_like(colour, 255)
        assert np.array_equal(decode(encode(Image.fromarray(rgba))), expected)
        assert np.array_equal(decode(rgba), expected)
    half = np.dstack([colour, noise(8, 9, seed=1)])
    exact = 255 + (half[..., 3:] / 255) * (colour.astype(float) - 255)
    assert np.abs(decode(half) - exact).max() <= 0.51


def test_palettes_and_key_colours_become_transparent_where_they_say_so() -> None:
    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([*RED, *GREEN])
    palette.paste(0, (0, 0, 2, 2))
    assert np.array_equal(decode(encode(palette))[0], [RED, RED, GREEN, GREEN])
    for transparency in (0, bytes([0, 255])):
        pixels = decode(encode(palette, transparency=transparency))
        assert np.array_equal(pixels[0], [(255,) * 3, (255,) * 3, GREEN, GREEN])
    assert np.array_equal(decode(encode(palette, "GIF", transparency=0))[0, 0], (255,) * 3)
    grey = Image.new("L", (2, 1), 7)
    assert np.array_equal(decode(encode(grey, transparency=7)), np.full((1, 2, 3), 255))
    assert np.array_equal(decode(encode(Image.new("LA", (2, 1), (7, 0)))), np.full((1, 2, 3), 255))
    assert np.array_equal(decode(encode(Image.new("LA", (2, 1), (7, 255)))), np.full((1, 2, 3), 7))


def test_grey_and_one_bit_pictures_repeat_their_channel() -> None:
    grey = noise(6, 5)
    assert np.array_equal(decode(encode(Image.fromarray(grey))), np.repeat(grey[..., None], 3, axis=2))
    bits = Image.fromarray(grey > 127)
    assert bits.mode == "1"
    assert np.array_equal(decode(encode(bits))[..., 0], (grey > 127) * np.uint8(255))


def test_sixteen_bits_keep_their_high_byte_in_grey_and_colour() -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (6, 5, 3)).astype(np.uint16)
    grey = samples[..., 0]
    expected = (samples >> 8).astype(np.uint8)
    assert np.array_equal(decode(png_16bit(samples)), expected)
    assert np.array_equal(decode(samples), expected)
    assert np.array_equal(decode(samples.astype(">u2")), expected)
    assert np.array_equal(decode(png_16bit(grey))[..., 1], expected[..., 0])
    assert np.array_equal(decode(encode(Image.fromarray(grey), "TIFF"))[..., 2], expected[..., 0])
    big_endian = Image.frombytes("I;16B", (5, 6), grey.astype(">u2").tobytes())
    assert np.array_equal(decode(big_endian)[..., 0], expected[..., 0])
    assert np.array_equal(decode(Image.fromarray(grey.astype(np.int32)))[..., 0], expected[..., 0])
    assert "holds -1..-1" in refused(Image.new("I", (2, 2), -1))


def test_floats_are_refused_with_what_to_do() -> None:
    assert "scale them to 0..255" in refused(Image.new("F", (2, 2), 0.5))
    assert "scale them to 0..255" in refused(encode(Image.new("F", (2, 2), 0.5), "TIFF"))
    for dtype in (np.float32, np.float64, np.int64, bool):
        text = refused(np.zeros((4, 5, 3), dtype))
        assert f"array [4, 5, 3] {np.dtype(dtype)}" in text
        assert "uint8" in text


def test_one_channel_is_pillows_grey_of_the_colours() -> None:
    pixels = noise(7, 6, 3)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    assert np.array_equal(decode(encode(Image.fromarray(pixels)), channels=1), expected)
    assert np.array_equal(decode(pixels, channels=1), expected)
    grey = noise(7, 6)
    assert np.array_equal(decode(encode(Image.fromarray(grey)), channels=1)[..., 0], grey)
    assert np.array_equal(decode(grey, channels=1)[..., 0], grey)


def test_other_channel_counts_take_arrays_of_just_that_count() -> None:
    for channels in (2, 4, 5):
        pixels = noise(7, 6, channels)
        assert np.array_equal(decode(pixels, channels=channels), pixels)
    assert "[H, W, 5]" in refused(encode(Image.new("RGB", (4, 4))), channels=5)
    assert "holds [7, 6, 3], no pixels of 5 channels" in refused(noise(7, 6, 3), channels=5)
    assert "holds [3, 224, 224], no pixels of 1, 3 or 4 channels" in refused(noise(3, 224, 224))
    for shape in ((4,), (2, 2, 2, 3), (0, 5, 3), (5, 0), (4, 4, 0), (4, 4, 2)):
        refused(np.zeros(shape, np.uint8))


def test_tensors_have_their_channels_first() -> None:
    torch = pytest.importorskip("torch")
    pixels = noise(7, 6, 3)
    tensor = torch.from_numpy(np.moveaxis(pixels, -1, 0).copy())
    assert np.array_equal(decode(tensor), pixels)
    assert np.array_equal(decode(tensor[0])[..., 2], pixels[..., 0])
    assert np.array_equal(decode(tensor.repeat(2, 1, 1), channels=6)[..., 3:], pixels)
    assert "tensor [3, 7, 6] float32" in refused(tensor.float())
    assert "tensor [3, 7, 6] bfloat16" in refused(tensor.bfloat16())
    assert "tensor [7, 6, 3] uint8" in refused(tensor.permute(1, 2, 0))


@pytest.mark.parametrize("tag", [0, 1, 6])
def test_a_header_tells_what_is_stored(tag: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    content = encode(Image.new("CMYK", (5, 9)), "JPEG", exif=exif)
    (tmp_path / "a.png").write_bytes(content)
    header = read_header(tmp_path / "a.png")
    assert header == read_header(content) == Header("JPEG", "CMYK", 5, 9, 4, np.dtype(np.uint8), False, tag)
    assert header.turned == (tag == 6)


def test_a_header_of_no_picture_is_refused_as_its_pixels_are(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("not a picture at all")
    for picture in (tmp_path / "a.jpg", tmp_path / "absent.jpg", b"", b"\xff\xd8\xff"):
        with pytest.raises(ImageError, match=re.escape(refused(picture))):
            read_header(picture)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame_and_say_so(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.new("RGB", (9, 8), colour) for colour in (RED, GREEN, (0, 0, 0))]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    with caplog.at_level(logging.INFO, "vitkit"):
        assert np.array_equal(decode(data)[3, 3], RED)
    assert caplog.messages == [f"bytes of {len(data):,}: animated, first of 3 frames"]


def test_a_phones_mpo_gives_its_main_picture_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    large, preview = Image.new("RGB", (32, 16), RED), Image.new("RGB", (16, 8), GREEN)
    with caplog.at_level(logging.INFO, "vitkit"):
        assert decode(encode(large, "MPO", save_all=True, append_images=[preview])).shape == (16, 32, 3)
    assert not caplog.messages


def test_faults_of_paths_are_named_in_one_line(tmp_path: Path) -> None:
    text_file = tmp_path / "notes.jpg"
    text_file.write_text("this is no picture\n")
    empty = tmp_path / "empty.png"
    empty.touch()
    allowed = ", ".join(FORMATS)
    assert refused(text_file) == f"{text_file} isn't a picture in an allowed format; allowed: {allowed}"
    assert "is empty (0 bytes)" in refused(empty)
    assert "is empty (0 bytes)" in refused(b"")
    assert refused(tmp_path / "no.jpg") == f"{tmp_path / 'no.jpg'} doesn't exist; check the path"
    assert "doesn't exist" in refused(text_file / "below.jpg")
    assert "is a folder" in refused(str(tmp_path))
    assert "can't be opened" in refused("a\0b.jpg")
    assert repr("a\nb.jpg") in refused("a\nb.jpg")
    assert "can't be opened" in refused("x" * 5000)
    for nothing in (3, None, ["a.jpg"], object()):
        assert "allowed: path, URL, bytes" in refused(nothing)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions and pipes")
def test_unreadable_files_and_pipes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    assert "isn't an ordinary file" in refused(pipe)
    locked = tmp_path / "locked.jpg"
    locked.touch(mode=0)

    def denied(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)  # root may open anything
    assert "may not be read" in refused(locked)


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "EPS", "PDF"])
def test_formats_outside_the_list_are_refused(kind: str) -> None:
    assert "allowed: JPEG, PNG" in refused(encode(Image.new("RGB", (16, 16)), kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_and_damaged_files_are_refused_never_crash_and_never_warn(kind: str, tmp_path: Path) -> None:
    whole = encode(Image.fromarray(noise(64, 64, 3)), kind)
    path = tmp_path / "cut"
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "broken or truncated" in refused(path)
        assert str(path) in refused(path)


@given(st.data())
def test_no_damage_gives_anything_but_pixels_or_an_image_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]))
    body = bytearray(encode(Image.fromarray(noise(9, 8, 3)), kind))
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=4)):
        body[at] = data.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(body), limits=Limits(max_pixels=10_000))
    except ImageError as error:
        assert str(error).isprintable()
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


@pytest.mark.parametrize("size", [(10_000, 10_000), (13_500, 13_500), (60_000, 60_000), (70_000, 1)])
def test_bombs_are_refused_from_their_header_without_a_warning(size: tuple[int, int]) -> None:
    """100 million pixels are where Pillow's own open would warn; these are let through to the decoder."""
    text = refused(png(*size, 8, 2, b"\0"))
    if size == (10_000, 10_000):
        assert "broken or truncated" in text
    else:
        assert f"{size[0]:,} x {size[1]:,} pixels; at most 178,956,970 pixels and 65,535 a side" in text


def test_limits_are_the_callers(tmp_path: Path) -> None:
    image = Image.new("RGB", (100, 50))
    for picture in (encode(image), image, encode(image, "TIFF")):
        assert decode(picture, limits=Limits(max_pixels=5000, max_side=100)).shape == (50, 100, 3)
        assert "at most 4,999 pixels" in refused(picture, limits=Limits(max_pixels=4999))
        assert "99 a side" in refused(picture, limits=Limits(max_side=99))
    with pytest.raises(ConfigError, match="max_side is 0"):
        Limits(max_side=0)


def test_urls_are_refused_where_they_are_not_allowed() -> None:
    assert "URLs aren't fetched here" in refused("http://127.0.0.1:1/a.jpg", allow_urls=False)
    assert "only these are fetched" in refused("file:///etc/hostname")


def test_files_are_closed_after_success_and_after_every_fault(tmp_path: Path) -> None:
    """An open handle would be a ResourceWarning, and warnings are errors; /proc says it directly."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    good, cut, text = tmp_path / "good.png", tmp_path / "cut.png", tmp_path / "text.png"
    good.write_bytes(encode(Image.fromarray(noise(64, 64, 3))))
    cut.write_bytes(good.read_bytes()[:2000])
    text.write_text("no")
    before = len(os.listdir("/proc/self/fd"))
    decode(good)
    for path in (cut, text):
        refused(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_decode_the_same_pixels() -> None:
    pixels = [noise(60, 50, 3, seed=seed) for seed in range(8)]
    data = [encode(Image.fromarray(picture)) for picture in pixels]
    with ThreadPoolExecutor(8) as pool:
        for decoded, expected in zip(pool.map(decode, data * 4), pixels * 4, strict=True):
            assert np.array_equal(decoded, expected)


@pytest.mark.parametrize(
    ("picture", "name"),
    [
        ("a/cat.jpg", lambda picture: "a/cat.jpg"),
        (Path("a/cat.jpg"), str),
        (b"1234", lambda picture: "bytes of 4"),
        (np.zeros((4, 5), np.uint8), lambda picture: "array [4, 5] uint8"),
        (Image.new("RGB", (5, 4)), lambda picture: "PIL image 5x4 RGB"),
    ],
)
def test_pictures_have_short_names(picture: Any, name: Callable[[Any], str]) -> None:
    assert describe(picture) == name(picture)


def test_an_opened_pil_image_is_called_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    Image.new("RGB", (2, 2)).save(path)
    with Image.open(path) as image:
        assert describe(image) == str(path)


@pytest.mark.shared
def test_the_exif_pictures_all_stand_upright(shared: Path) -> None:
    for shape in ("Landscape", "Portrait"):
        upright = decode(shared / f"data/exif-orientation/{shape}_1.jpg").astype(int)
        for orientation in (0, *range(2, 9)):
            turned = decode(shared / f"data/exif-orientation/{shape}_{orientation}.jpg").astype(int)
            assert turned.shape == upright.shape
            assert np.abs(turned - upright).mean() < 6  # each file was compressed on its own
