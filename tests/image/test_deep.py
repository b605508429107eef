"""Pictures beyond 8-bit colour keep every bit, from the file to the pixels of a model."""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from vitkit import Preprocess
from vitkit.errors import ConfigError, ImageError
from vitkit.image import deep
from vitkit.image.decode import Limits, decode, read_header, samples_of
from vitkit.image.preprocess import apply, fit, normalize
from vitkit.image.sources import to_timm, to_transformers

WHOLE = (0, 65535)
rng = np.random.default_rng(0)


def noise(*shape: int, dtype: str = "uint16", high: int = 65536) -> NDArray[Any]:
    return rng.integers(0, high, shape).astype(dtype)


def png_file(samples: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits written by the format's definition, unfiltered: Pillow writes no such colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = samples.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_file(samples: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def npy_file(samples: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, samples)
    return buffer.getvalue()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_16_bit_png_keeps_every_bit(channels: int) -> None:
    samples = noise(11, 7, channels)
    assert np.array_equal(decode(png_file(samples), channels=channels, value_range=WHOLE), samples)
    header = read_header(png_file(samples))
    assert (header.height, header.width, header.channels, header.deep) == (11, 7, channels, True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (1, {}),
        (3, {"photometric": "rgb"}),
        (3, {"photometric": "rgb", "planarconfig": "separate"}),
        (5, {"photometric": "minisblack", "planarconfig": "contig"}),
        (5, {"photometric": "minisblack", "planarconfig": "separate", "compression": "zlib"}),
        (5, {"photometric": "minisblack", "planarconfig": "contig", "tile": (16, 16)}),
    ],
)
def test_a_16_bit_tiff_keeps_every_bit(order: str, channels: int, options: dict[str, Any]) -> None:
    samples = noise(20, 30, channels)
    planes = options.get("planarconfig") == "separate"
    stored = samples[..., 0] if channels == 1 else np.moveaxis(samples, -1, 0) if planes else samples
    data = tiff_file(stored, byteorder=order, **options)
    assert np.array_equal(decode(data, channels=channels, value_range=WHOLE), samples)
    header = read_header(data)
    assert (header.height, header.width, header.channels, header.deep) == (20, 30, channels, True)


@pytest.mark.parametrize("imagej", [False, True])
def test_pages_of_a_tiff_are_channels(imagej: bool) -> None:
    samples = noise(5, 20, 30)
    for data in (tiff_file(samples, imagej=imagej), tiff_file(np.moveaxis(samples, 0, -1))):
        assert np.array_equal(decode(data, channels=5, value_range=WHOLE), np.moveaxis(samples, 0, -1))


@pytest.mark.parametrize("kind", ["npy", "npz", "tiff"])
def test_five_channels_of_8_bits_are_pixels_as_they_are(kind: str, tmp_path: Path) -> None:
    samples = noise(12, 9, 5, dtype="uint8", high=256)
    path = tmp_path / f"picture.{kind}"
    if kind == "npz":
        np.savez(path, picture=samples)
    else:
        options = {"photometric": "minisblack", "planarconfig": "contig"}
        path.write_bytes(npy_file(samples) if kind == "npy" else tiff_file(samples, **options))
    assert np.array_equal(decode(path, channels=5), samples)
    with pytest.raises(ImageError, match=r"\[12, 9, 5\].*channels as the model takes them") as refusal:
        decode(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("samples", "value_range"),
    [
        (np.float32([[-3, -1, 0], [0.5, 1, 9]]), (-1, 1)),
        (np.float64([[-3, -1, 0], [0.5, 1, 9]]), (-1, 1)),
        (np.int16([[-2000, -1024, 0], [40, 3071, 9000]]), (-1024, 3071)),
        (np.uint16([[0, 1, 2], [4094, 4095, 60000]]), (0, 4095)),
    ],
)
def test_the_range_becomes_the_full_scale_and_is_cut_off_beyond(
    samples: NDArray[Any], value_range: tuple[float, float]
) -> None:
    low, high = value_range
    wanted = [round(65535 * min(max((value - low) / (high - low), 0), 1)) for value in samples.ravel().tolist()]
    for picture in (samples, npy_file(samples), tiff_file(samples)):
        assert decode(picture, channels=1, value_range=value_range).ravel().tolist() == wanted
    grey = decode(samples, channels=3, value_range=value_range)
    assert grey.shape == (2, 3, 3) and (grey == grey[..., :1]).all()


def test_what_a_deep_model_cannot_read_is_named() -> None:
    def refused(picture: Any, **options: Any) -> str:
        with pytest.raises(ImageError) as refusal:
            decode(picture, value_range=WHOLE, **options)
        return str(refusal.value)

    assert "holds uint8; the model reads deeper samples, 0 to 65535" in refused(noise(4, 4, 3, dtype="uint8", high=256))
    assert "has 5 channels; the model takes 3" in refused(noise(4, 4, 5))
    assert "has 4 channels; the model takes 1" in refused(png_file(noise(4, 4, 4)), channels=1)
    assert "16-bit grey with alpha" in refused(png_file(noise(4, 4, 2)), channels=1)
    assert "aren't finite" in refused(np.float32([[0, np.nan]]), channels=1)
    assert "holds <U1 [1, 1]" in refused(npy_file(np.array([["a"]])), channels=1)
    assert "broken or truncated NumPy file" in refused(npy_file(noise(9, 9))[:-5], channels=1)
    assert "can't be read" in refused(
        tiff_file(noise(20, 30, 5), photometric="minisblack", planarconfig="contig")[:1000], channels=5
    )
    assert "broken or truncated NumPy file" in refused(npy_file(noise(9, 9)).replace(b"(9, 9)", b"(9, 9{"), channels=1)


def test_an_array_says_its_size_before_it_is_read() -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<u2", "fortran_order": False, "shape": (60000, 60000, 2)})
    with pytest.raises(ImageError, match="60,000 x 60,000 pixels; at most"):
        decode(header.getvalue(), channels=2)


@pytest.mark.parametrize("kind", ["npy", "npz", "tiff", "tiles"])
def test_a_few_bytes_never_become_many(kind: str) -> None:
    samples = np.zeros((512, 512, 8), np.float64)  # 16 MiB
    packed = io.BytesIO()
    np.savez_compressed(packed, samples)
    planes: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
    content = {
        "npy": npy_file(samples)[:128],
        "npz": packed.getvalue(),
        "tiff": tiff_file(samples, compression="zlib", **planes),
        "tiles": tiff_file(samples[:8, :8], tile=(512, 512), **planes),
    }[kind]
    with pytest.raises(ImageError, match=r"unpacks to 16,777,\d+ bytes; at most 16,777,215 are read"):
        decode(content, channels=8, value_range=(0, 1), limits=Limits(max_array_bytes=2**24 - 1))


@pytest.mark.parametrize("compression", ["zlib", "lzma"])
def test_a_strip_of_a_tiff_never_becomes_many(compression: str) -> None:
    content = tiff_file(noise(16, 16, 5), photometric="minisblack", planarconfig="contig", compression=compression)
    bomb = {"zlib": zlib, "lzma": lzma}[compression].compress(bytes(2**24))
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        places = [tiff.pages[0].tags[name].valueoffset for name in ("StripOffsets", "StripByteCounts")]
    planted = bytearray(content + bomb)
    for place, value in zip(places, (len(content), len(bomb)), strict=True):
        struct.pack_into("<I", planted, place, value)
    with pytest.raises(ImageError, match=r"unpacks to 8,388,609 bytes; at most 8,388,608 are read"):
        samples_of(bytes(planted), limits=Limits(max_array_bytes=2**23))
    assert samples_of(bytes(planted), limits=Limits(max_array_bytes=2**25)).shape == (16, 16, 5)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[{}]]), allow_pickle=True)
    with pytest.raises(ImageError, match="a picture is numbers"):
        decode(tmp_path / "a.npy")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(ConfigError, match=r"takes tifffile; pip install 'vitkit\[tiff\]'"):
        decode(tiff_file(noise(20, 30, 5), photometric="minisblack", planarconfig="contig"), channels=5)


def test_exif_turns_deep_pictures_too() -> None:
    samples = noise(5, 8, 1)
    image, exif = Image.fromarray(samples[..., 0]), Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    assert np.array_equal(
        decode(buffer.getvalue(), channels=1, value_range=WHOLE)[..., 0], np.rot90(samples[..., 0], -1)
    )


def test_an_8_bit_model_takes_the_high_bytes_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    samples = noise(6, 5, 3)
    with caplog.at_level("INFO", "vitkit"):
        assert np.array_equal(decode(png_file(samples)), samples >> 8)
    assert "deeper than the 8 bits" in caplog.text
    with_alpha = png_file(np.concatenate([samples[..., :1], np.full((6, 5, 1), 65535, np.uint16)], axis=2))
    assert not read_header(with_alpha).deep  # of these its low bytes can't be read
    assert np.array_equal(decode(with_alpha, channels=1), samples[..., :1] >> 8)
    assert np.array_equal(samples_of(with_alpha)[..., :1], samples[..., :1] >> 8)


PREPROCESS = Preprocess(
    size=(6, 8),
    resize="squash",
    crop="none",
    interpolation="bicubic",
    mean=(0.5,) * 5,
    std=(0.25,) * 5,
    value_range=(0, 4095),
)


def test_resizing_is_that_of_floats_rounded_once() -> None:
    samples = noise(13, 17, 5, high=4096)
    held = decode(samples, channels=5, value_range=PREPROCESS.value_range)
    fitted = fit(PREPROCESS, held)
    assert fitted.dtype == np.uint16 and fitted.shape == (6, 8, 5)
    for band in range(5):
        resized = Image.fromarray(samples[..., band].astype(np.float32)).resize((8, 6), Image.Resampling.BICUBIC)
        wanted = (np.asarray(resized, np.float64) / 4095).clip(0, 1)
        assert np.abs(fitted[..., band] / 65535 - wanted).max() < 2e-5  # two roundings to 1/65535 and float32 sums
        assert np.allclose(apply(PREPROCESS, held)[band], (wanted - 0.5) / 0.25, atol=1e-4)
    assert np.array_equal(apply(PREPROCESS, held), normalize(PREPROCESS, fitted))


def test_other_libraries_have_no_words_for_it() -> None:
    assert to_timm(PREPROCESS) is None and to_transformers(PREPROCESS) is None


@pytest.mark.parametrize("value_range", [(1, 1), (2, 1), (0,), (0, float("inf"))])
def test_a_range_has_a_low_and_a_high_end(value_range: Any) -> None:
    with pytest.raises(ConfigError, match="value_range is"):
        Preprocess(**{**vars(PREPROCESS), "value_range": value_range})


def test_samples_are_given_as_they_are_stored() -> None:
    assert samples_of(np.float32([[1]])).dtype == np.float32
    assert samples_of(png_file(noise(3, 4, 3))).dtype == np.uint16
    assert np.iinfo(np.uint16).max == deep.FULL_SCALE
