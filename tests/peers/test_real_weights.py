"""A real ImageNet ViT-Ti/16 on real photos: timm, transformers and vitkit give the same logits from the same files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vitkit
from small import relative
from vitkit.image.decode import decode

pytestmark = [pytest.mark.peer, pytest.mark.shared]

PRESET = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def vit(shared: Path) -> vitkit.Predictor:
    return vitkit.load(shared / f"weights/{PRESET}.safetensors", preset=PRESET, device="cpu", exact=True)


@pytest.fixture(scope="module")
def photos(shared: Path) -> list[Path]:
    return sorted((shared / "data/photos").glob("*.JPEG"))


@pytest.fixture(scope="module")
def native(vit: vitkit.Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "native"
    vit.module.save_pretrained(folder)
    return folder


def test_logits_are_timms_on_every_photo(vit: vitkit.Predictor, photos: list[Path], shared: Path) -> None:
    import timm

    theirs = timm.create_model(PRESET).eval()
    theirs.load_state_dict(load_file(shared / f"weights/{PRESET}.safetensors"))
    transform = timm.data.create_transform(
        input_size=(3, 224, 224), crop_pct=0.9, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    assert len(photos) == 200
    for start in range(0, 200, 20):
        batch = photos[start : start + 20]
        with torch.inference_mode():
            expected = theirs(torch.stack([transform(Image.fromarray(decode(photo))) for photo in batch])).numpy()
        ours = np.stack([answer.logits for answer in vit.answers(batch, batch_size=20)])  # type: ignore[arg-type]
        assert np.abs(ours - expected).max() < 2e-4


def test_the_native_folder_answers_alike_in_timm_and_in_transformers(
    vit: vitkit.Predictor, native: Path, photos: list[Path]
) -> None:
    import timm
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    pixels = torch.stack([vit.preprocess(photo) for photo in photos[::25]])
    with torch.inference_mode():
        expected = vit.module(pixels)
        in_timm = timm.create_model(f"local-dir:{native}", pretrained=True).eval()
        assert relative(in_timm(pixels), expected) <= 1e-5
        wrapped, info = AutoModelForImageClassification.from_pretrained(native, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        assert relative(wrapped.eval()(pixels).logits, expected) <= 1e-5
    assert wrapped.config.id2label[0] == "tench, Tinca tinca"
    processor: Any = AutoImageProcessor.from_pretrained(native)
    pictures = [Image.fromarray(decode(photo)) for photo in photos[::25]]
    assert torch.equal(processor(pictures)["pixel_values"], pixels)


def test_to_hf_answers_alike_as_vit_for_image_classification(
    vit: vitkit.Predictor, native: Path, photos: list[Path], tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor, ViTForImageClassification

    vitkit.convert(native, tmp_path / "hf", to="hf")
    theirs, info = ViTForImageClassification.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    pixels = torch.stack([vit.preprocess(photo) for photo in photos[::25]])
    with torch.inference_mode():
        assert relative(theirs.eval()(pixels).logits, vit.module(pixels)) <= 1e-5
    assert theirs.config.label2id["tench, Tinca tinca"] == 0
    assert AutoImageProcessor.from_pretrained(tmp_path / "hf").size["shortest_edge"] == 248


@pytest.mark.slow
def test_every_form_of_the_weights_scores_the_same(native: Path, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "vit_large_patch14_224.npz").write_bytes((shared / f"weights/{PRESET}.safetensors").read_bytes())
    renamed = vitkit.load(tmp_path / "vit_large_patch14_224.npz", preset=PRESET, device="cpu", exact=True)
    for predictor in (renamed, vitkit.load(native, device="cpu", exact=True)):
        scores = vitkit.evaluate(predictor, shared / "data/photos/labels.csv")
        assert (scores.correct, scores.count) == (172, 200)
