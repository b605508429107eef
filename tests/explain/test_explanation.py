"""An explanation shows the picture as the model saw it, the class as classify says it, and writes one whole PNG."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from small import NAMES, PREPROCESS, picture, small_folder, small_model
from vitkit import ConfigError, ImageError, Preprocess
from vitkit.explain.explanation import Explanation, explain_picture, explain_pixels, find_class, restore
from vitkit.image.preprocess import apply, fit


@dataclass
class Card:
    preprocess: Preprocess | None = PREPROCESS
    class_names: tuple[str, ...] | None = NAMES
    scores: str = "softmax"


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_picture_comes_back_from_its_pixels_exactly(channels: int) -> None:
    rng = np.random.default_rng(0)
    preprocess = Preprocess(
        size=32,
        resize="shortest",
        crop="center_round",
        interpolation="bicubic",
        mean=tuple(rng.uniform(0, 1, channels)),
        std=tuple(rng.uniform(0.1, 1, channels)),
    )
    rgb = rng.integers(0, 256, (40, 50, channels), dtype=np.uint8)
    pixels = torch.from_numpy(apply(preprocess, rgb))
    assert (restore(preprocess, pixels) == fit(preprocess, rgb)).all()


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_class_and_probability_are_those_of_classify(tmp_path: Path, scores: str) -> None:
    vit = vitkit.load(small_folder(tmp_path / "m"), device="cpu", exact=True)
    object.__setattr__(vit.card, "scores", scores)
    best = vit.classify(picture(), top=7)
    found = explain_picture(vit.module, vit.card, picture())
    assert (found.class_name, found.index) == (best[0].class_name, best[0].index)
    assert found.probability == pytest.approx(best[0].probability, abs=1e-6)
    chosen = explain_picture(vit.module, vit.card, picture(), target=best[3].class_name)
    assert chosen.probability == pytest.approx(best[3].probability, abs=1e-6)
    assert chosen.caption == f"{best[3].class_name}, {100 * best[3].probability:.1f} %: gradient-weighted attention"


def test_a_batch_may_have_a_class_for_each_and_no_names() -> None:
    found = explain_pixels(small_model(), Card(class_names=None), torch.randn(2, 3, 32, 32), target=[4, 1])
    assert [(each.index, each.class_name) for each in found] == [(4, "4"), (1, "1")]


def test_an_embedding_has_no_class_and_says_so() -> None:
    (found,) = explain_pixels(small_model(num_classes=0), Card(), torch.randn(1, 3, 32, 32))
    assert (found.index, found.probability) == (None, None)
    assert found.caption == "embedding: class-token attention, last block"


def test_the_png_is_whole_or_absent(tmp_path: Path) -> None:
    values = np.full((4, 4), 1 / 16, np.float32)
    found = Explanation(values, "attention", np.zeros((32, 32, 1), np.uint8), 0, "zero", 1.0)
    found.save(tmp_path / "why.png")
    with Image.open(tmp_path / "why.png") as image:
        assert image.format == "PNG" and image.width == 452
    for name, said in [("why.jpg", r"end in \.png"), ("gone/why.png", "make it first")]:
        with pytest.raises(ConfigError, match=said):
            found.save(tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == ["why.png"]


def test_classes_are_found_by_name_synonym_or_index() -> None:
    names = ["tench, Tinca tinca", "crane", "crane", "3", "1"]
    for text, index in [("tench", 0), ("tinca TINCA", 0), ("tench, Tinca tinca", 0), ("3", 3), ("1", 4), ("2", 2)]:
        assert find_class(text, names, 5) == index
    for text, said in [("crane", "classes 1, 2; give an index"), ("tnech", "nearest: tench"), ("5", "from 0 to 4")]:
        with pytest.raises(ConfigError, match=said):
            find_class(text, names, 5)


def test_what_cannot_be_explained_is_said() -> None:
    with pytest.raises(ConfigError, match="preprocessing is unknown"):
        explain_picture(small_model(), Card(preprocess=None), picture())
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        explain_picture(small_model(), Card(), "gone.jpg")
