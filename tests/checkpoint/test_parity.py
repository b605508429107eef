"""The report names where libraries differ over the same weights, and the caller chooses whose way is taken."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vitkit
from small import picture, small_model
from vitkit import ConfigError, Preprocess
from vitkit.api.load import read_source
from vitkit.api.show import describe_checkpoint, show_data
from vitkit.checkpoint.families import LAYOUTS
from vitkit.checkpoint.origins import ORIGINS, Library
from vitkit.checkpoint.parity import with_parity
from vitkit.checkpoint.read import Checkpoint, read
from vitkit.image.preprocess import apply
from vitkit.model.spec import VitSpec
from vitkit.model.swin_spec import SwinSpec

COMMIT = "0123456789abcdef" * 2 + "01234567"
GOOGLE = f"google/vit-base-patch16-224@{COMMIT}"
SQUASHED = Preprocess(size=224, resize="squash", crop="none", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
CROPPED = Preprocess(
    size=224,
    resize="shortest",
    resize_size=248,
    crop="center_round",
    interpolation="bicubic",
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT in the layout of google/vit-base-patch16-224, with its settings."""
    folder = tmp_path_factory.mktemp("models") / "vit"
    module = small_model(image_size=224, patch_size=16, norm_eps=1e-12, position_resample="bicubic")
    vitkit.save(module, folder, preprocess=SQUASHED, layout="hf")
    return folder


def rows(checkpoint: Checkpoint) -> dict[str, tuple[str | None, ...]]:
    """Settings to (in force, timm, hf, original)."""
    return {row.setting: (row.in_force, row.timm, row.hf, row.original) for row in checkpoint.report.differences}


GOOGLES_DIFFERENCES = {
    "position_resample": ("bicubic", "bicubic_antialias", "bicubic", "bilinear_align_corners"),
    "norm_eps": ("1e-12", "1e-06", "1e-12", "1e-06"),
    "activation": ("gelu", "gelu", "gelu", "gelu_tanh"),
    "resize": ("squash 224x224", "shortest 248x248", "squash 224x224", "squash 224x224"),
    "interpolation": ("bilinear", "bicubic", "bilinear", "bilinear"),
    "antialias": ("yes", "yes", "yes", "no"),
    "crop": ("none", "center_round", "none", "none"),
    "order": ("resize_first", "resize_first", "resize_first", "rescale_first"),
}


def test_googles_vit_is_told_where_the_libraries_differ(folder: Path) -> None:
    checkpoint = with_parity(read(folder, source=GOOGLE), None)
    assert rows(checkpoint) == GOOGLES_DIFFERENCES
    assert checkpoint.report.published == "google/vit-base-patch16-224"
    text = describe_checkpoint(checkpoint)
    assert (
        "published   as google/vit-base-patch16-224 or alike; the original is google-research/vision_transformer\n"
        in text
    )
    assert "resize             squash 224x224  shortest 248x248" in text
    assert "in force as hf; --parity (parity=): timm, hf, original" in text
    data = json.loads(json.dumps(show_data(checkpoint)))
    assert data["report"]["differences"][0]["setting"] == "position_resample"


def test_the_caller_says_what_a_folder_is_like_and_its_name_says_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows(read_source(folder, preset="vit_base_patch16_224")) == GOOGLES_DIFFERENCES
    (tmp_path / "google").mkdir()
    (tmp_path / "google" / "vit-base-patch16-224").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    unknown = read_source("google/vit-base-patch16-224")
    assert unknown.report.published is None and unknown.report.differences == ()
    assert "once --preset names one trained alike" in describe_checkpoint(unknown)
    other = read_source(folder, preset="swin_tiny_patch4_window7_224")  # whose fields this model doesn't have
    assert other.report.differences == ()


def test_a_file_that_departs_from_its_kind_is_its_librarys_own_way(folder: Path, tmp_path: Path) -> None:
    module = small_model(image_size=224, patch_size=16, norm_eps=1e-5, position_resample="bicubic")
    vitkit.save(module, tmp_path / "m", preprocess=dataclasses.replace(SQUASHED, mean=(0.4,) * 3), layout="hf")
    found = rows(with_parity(read(tmp_path / "m", source=GOOGLE), None))
    assert found["norm_eps"] == ("1e-05", "1e-06", "1e-05", "1e-06")
    assert found["mean"] == ("0.4 0.4 0.4", "0.5 0.5 0.5", "0.4 0.4 0.4", "0.5 0.5 0.5")


def test_parity_changes_what_differs_and_says_so(folder: Path) -> None:
    checkpoint = with_parity(read(folder, source=GOOGLE), "timm")
    spec = checkpoint.model.spec
    assert isinstance(spec, VitSpec)
    assert (spec.position_resample, spec.norm_eps) == ("bicubic_antialias", 1e-6)
    assert checkpoint.card.preprocess == CROPPED
    assert {name: row[0] for name, row in rows(checkpoint).items()} == {
        name: row[1] for name, row in GOOGLES_DIFFERENCES.items()
    }
    note = checkpoint.report.notes[-1]
    assert note.startswith("parity with timm, on request: position_resample bicubic_antialias; norm_eps 1e-06; resize")
    assert checkpoint.report.origins["preprocess"] == "parity with timm"
    same = with_parity(read(folder, source=GOOGLE), "hf")
    assert same.report.notes[-1] == "parity with hf, on request: nothing changes"
    assert same.model == read(folder).model and same.card.preprocess == SQUASHED


def test_a_converted_folder_keeps_the_way_it_was_asked_for(folder: Path, tmp_path: Path) -> None:
    vitkit.convert(folder, tmp_path / "m", preset="vit_base_patch16_224", parity="timm")
    vit, asked = vitkit.load(tmp_path / "m"), vitkit.load(folder, preset="vit_base_patch16_224", parity="timm")
    pictures = [picture(300, 260)]
    assert vit.card.preprocess == CROPPED
    assert np.array_equal(vit.embed(pictures), asked.embed(pictures))
    assert not np.array_equal(vit.embed(pictures), vitkit.load(folder).embed(pictures))


def test_another_size_follows_the_way_asked_for(folder: Path) -> None:
    vit = vitkit.load(folder, preset="vit_base_patch16_224", parity="timm", image_size=160)
    assert vit.card.preprocess is not None
    assert (vit.card.preprocess.size, vit.card.preprocess.resize_size) == ((160, 160), (177, 177))
    assert "positions resampled (bicubic_antialias)" in vit.report.notes[-1]


@pytest.mark.parametrize(
    ("source", "parity", "said"),
    [
        (GOOGLE, "keras", "parity is 'keras'; allowed: timm, hf, original"),
        ("a/b", "timm", "how 'timm' runs these weights isn't known; known: hf; a preset of the same training tells"),
        (f"timm/vit_base_patch16_siglip_224.webli@{COMMIT}", "original", "isn't known; known: timm, hf;"),
    ],
)
def test_what_isnt_known_is_an_error_that_names_what_is(folder: Path, source: str, parity: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_parity(read(folder, source=source), parity)
    assert said in str(error.value)


def test_two_ways_at_once_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="parity 'timm' and preprocess both say"):
        vitkit.load(folder, preprocess=CROPPED, parity="timm")
    with pytest.raises(ConfigError, match="parity: the model is loaded already"):
        vitkit.evaluate(vitkit.load(folder), folder, parity="timm")


def test_what_a_library_is_not_known_to_do_stays_and_is_named(folder: Path) -> None:
    checkpoint = with_parity(read(folder, source=f"openai/clip-vit-base-patch32@{COMMIT}"), "original")
    assert checkpoint.report.notes[-1].endswith("; position_resample stays bicubic, its own isn't known")


# The layouts of each library, where it has one of its own for the weights; they say its policies too.
LAYOUTS_OF: dict[tuple[str, Library], str] = {
    ("google", "timm"): "timm/vit",
    ("google", "hf"): "transformers/vit",
    ("google", "original"): "google/vit",
    ("deit", "original"): "facebook/deit3",
    ("deit-distilled", "hf"): "transformers/deit-distilled",
    ("beit", "timm"): "timm/beit",
    ("beit", "hf"): "transformers/beit",
    ("dino", "original"): "meta/dino",
    ("dinov2", "hf"): "transformers/dinov2",
    ("dinov2", "original"): "meta/dinov2",
    ("dinov2-registers", "hf"): "transformers/dinov2-registers",
    ("dinov2-registers", "original"): "meta/dinov2-registers",
    ("mae", "original"): "meta/mae",
    ("swin", "timm"): "timm/swin",
    ("swin", "hf"): "transformers/swin",
    ("swin", "original"): "microsoft/swin",
    ("swinv2", "hf"): "transformers/swinv2",
    ("clip-base", "hf"): "transformers/clip-vision",
    ("siglip", "hf"): "transformers/siglip-vision",
    ("siglip", "original"): "google/big-vision",
}


@pytest.mark.parametrize(("name", "library"), LAYOUTS_OF, ids=str)
def test_the_table_agrees_with_the_layouts(name: str, library: Library) -> None:
    habit = getattr(ORIGINS[name], library)
    policies = {field for spec in (VitSpec(), SwinSpec()) for field in spec.policies} & habit.fields.keys()
    implied = LAYOUTS[LAYOUTS_OF[name, library]].implies
    assert policies and {field: habit.fields[field] for field in policies} == {
        field: implied[field] for field in policies
    }


def test_every_habit_makes_a_spec_and_a_preprocessing() -> None:
    specs: dict[str, Any] = {"beit": VitSpec(position="relative"), "swin": SwinSpec(), "swinv2": SwinSpec(version=2)}
    unknown = set()
    for name, origin in ORIGINS.items():
        for library, habit in (("timm", origin.timm), ("hf", origin.hf), ("original", origin.original)):
            assert habit is not None
            dataclasses.replace(specs.get(name, VitSpec()), **habit.fields)
            if habit.pictures(224) is None:
                unknown.add((name, library))
    assert unknown == {("deit-distilled", "hf"), ("dinov2-registers", "hf"), ("siglip", "original")}


@pytest.mark.parametrize("size", [(7, 9), (30, 20), (61, 40)])
def test_without_antialiasing_four_pixels_make_one(size: tuple[int, int]) -> None:
    """As TensorFlow's tf.image.resize does, and torch's interpolation."""
    preprocess = Preprocess(
        size=(20, 30),
        resize="squash",
        crop="none",
        interpolation="bilinear",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        order="rescale_first",
        antialias=False,
    )
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    unit = torch.from_numpy(rgb).permute(2, 0, 1)[None].double() / 255
    expected = (F.interpolate(unit, size=(20, 30), mode="bilinear") - 0.5) / 0.5
    np.testing.assert_allclose(apply(preprocess, rgb), expected[0].numpy(), atol=1e-6)
    smooth = dataclasses.replace(preprocess, antialias=True)
    assert size == (7, 9) or np.abs(apply(smooth, rgb) - expected[0].numpy()).max() > 0.1
    with pytest.raises(ConfigError, match="antialias is False, but interpolation 'bicubic' has it"):
        dataclasses.replace(preprocess, interpolation="bicubic")
