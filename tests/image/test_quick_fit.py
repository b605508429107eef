"""The quick way to a crop: within 1 of 255 of the exact one for every size, and the same answers on real photos."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vitkit
from small import picture
from vitkit import ImageError, Preprocess
from vitkit.image.decode import decode
from vitkit.image.preprocess import fit
from vitkit.image.quick_fit import quick_fit, side_to_keep

IMAGENET: dict[str, Any] = {
    "size": 224,
    "resize": "shortest",
    "resize_size": 248,
    "crop": "center_round",
    "interpolation": "bicubic",
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
}


@st.composite
def preprocesses(draw: st.DrawFn) -> Preprocess:
    size = draw(st.tuples(*[st.integers(4, 80)] * 2))
    spare = draw(st.tuples(*[st.integers(0, 30)] * 2))
    if draw(st.booleans()):
        size, spare = size[:1] * 2, spare[:1] * 2
    channels = draw(st.sampled_from([1, 3]))
    return Preprocess(
        size=size,
        resize=draw(st.sampled_from(["shortest", "shortest", "squash"])),
        resize_size=(size[0] + spare[0], size[1] + spare[1]),
        crop=draw(st.sampled_from(["center_round", "center_floor"])),
        interpolation=draw(st.sampled_from(["bilinear", "bicubic", "lanczos", "hamming", "nearest"])),
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )


@settings(max_examples=300, deadline=None)
@given(preprocesses(), st.tuples(*[st.integers(1, 400)] * 2), st.integers(0, 99), st.booleans())
def test_it_is_within_1_of_pillow_for_every_size(
    preprocess: Preprocess, shape: tuple[int, int], seed: int, harsh: bool
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, preprocess.channels), dtype=np.uint8)
    if harsh:
        pixels = (pixels > 127).astype(np.uint8) * 255
    quick, exact = quick_fit(preprocess, pixels), fit(preprocess, pixels)
    assert quick.shape == exact.shape and quick.dtype == exact.dtype
    assert np.abs(quick.astype(int) - exact).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(288, 432), (432, 288), (375, 500), (500, 333), (224, 500), (248, 248)])
def test_smooth_pictures_are_within_1_too(height: int, width: int) -> None:
    """On a slope many values lie halfway between whole numbers, and would fall to either side together."""
    preprocess, pixels = Preprocess(**IMAGENET), np.asarray(picture(height, width))
    assert np.abs(quick_fit(preprocess, pixels).astype(int) - fit(preprocess, pixels)).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(500, 249), (500, 250), (501, 250), (900, 300), (300, 900)])
def test_the_order_of_the_passes_is_pillows_for_tall_pictures_too(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    preprocess = Preprocess(**IMAGENET)
    assert np.abs(quick_fit(preprocess, pixels).astype(int) - fit(preprocess, pixels)).max() <= 1


def test_less_than_the_whole_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    plain = Image.Image.resize

    def resize(self: Image.Image, size: tuple[int, int], *given: Any, **named: Any) -> Image.Image:
        made.append(self.height * size[0] + size[0] * size[1])
        return plain(self, size, *given, **named)

    monkeypatch.setattr(Image.Image, "resize", resize)
    preprocess, pixels = Preprocess(**IMAGENET), np.asarray(picture(500, 375))
    fit(preprocess, pixels)
    whole, made = sum(made), []
    quick_fit(preprocess, pixels)
    assert sum(made) < 0.8 * whole


def test_faults_are_those_of_fit() -> None:
    preprocess = Preprocess(**IMAGENET)
    for pixels, fault in [
        (np.zeros((9, 9, 1), np.uint8), r"the model takes uint8 \[H, W, 3\]"),
        (np.zeros((9, 9, 3), np.uint16), "the picture is uint16"),
        (np.zeros((0, 9, 3), np.uint8), r"\[0, 9, 3\]"),
        (np.zeros((1, 800_000, 3), np.uint8), "crop it first"),
    ]:
        with pytest.raises(ImageError, match=fault):
            quick_fit(preprocess, pixels)


@pytest.mark.parametrize("progressive", [False, True])
def test_large_jpegs_are_decoded_smaller_and_never_below_twice_what_is_made(progressive: bool) -> None:
    preprocess = Preprocess(**IMAGENET)
    for sides, made in [((2100, 3000), 4), ((1100, 1000), 2), ((980, 1400), 1)]:
        buffer = io.BytesIO()
        picture(*sides).save(buffer, "JPEG", quality=90, progressive=progressive)
        pixels = decode(buffer.getvalue(), shrink_to=side_to_keep(preprocess))
        assert pixels.shape[:2] == tuple(-(-side // made) for side in sides)
        exact = fit(preprocess, decode(buffer.getvalue()))
        assert np.abs(quick_fit(preprocess, pixels).astype(int) - exact).mean() < 1
    assert side_to_keep(Preprocess(**IMAGENET | {"resize": "none", "resize_size": None})) is None


@pytest.mark.parametrize("picking", [{"interpolation": "nearest"}, {"interpolation": "bilinear", "antialias": False}])
def test_large_jpegs_are_decoded_whole_where_resizing_picks_single_pixels(picking: dict[str, Any]) -> None:
    """Noise: what is picked differs from its neighbours, so that decoding smaller would be seen."""
    noise = np.random.default_rng(0).integers(0, 256, (1100, 1100, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=95)
    preprocess = Preprocess(**IMAGENET | picking)
    pixels = decode(buffer.getvalue(), shrink_to=side_to_keep(preprocess))
    np.testing.assert_array_equal(quick_fit(preprocess, pixels), fit(preprocess, decode(buffer.getvalue())))


@pytest.mark.shared
def test_real_photos_get_the_same_answers(shared: Path, tmp_path: Path) -> None:
    """200 photos of the size they come in, and 10 of them at 12 megapixels, which are decoded at a quarter."""
    weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    quick, exact = (
        vitkit.load(weights, preset="vit_tiny_patch16_224", device="cpu", exact=exact) for exact in (False, True)
    )
    with open(shared / "data" / "photos" / "labels.csv", newline="", encoding="utf-8") as file:
        photos = [shared / "data" / "photos" / row["path"] for row in csv.DictReader(file)]
    for photo in photos[::20]:
        with Image.open(photo) as image:
            scale = (12e6 / (image.width * image.height)) ** 0.5
            large = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)))
        large.save(tmp_path / f"{photo.stem}.jpg", quality=90)
    every: list[Any] = [*photos, *sorted(tmp_path.iterdir())]
    for photo, found, expected in zip(every, quick.classify(every, top=2), exact.classify(every, top=2), strict=True):
        margin = expected[0].probability - expected[1].probability
        assert found[0].index == expected[0].index or margin < 0.05, (photo, found, expected)
