"""Faults planted among real flowers are all found, and a clean copy is left in peace."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitkit
from small import NAMES, PREPROCESS, picture_file, small_folder, small_model
from vitkit.api.check import Checkup
from vitkit.errors import Interrupted

CLASSES = ("daisy", "dandelion", "rose", "sunflower", "tulip")


def plant(flowers: Path, root: Path) -> Path:
    """A copy of the flowers, every fifth one in val, with twelve faults."""
    for name in CLASSES:
        for number, file in enumerate(sorted((flowers / name).iterdir())):
            target = root / ("val" if number % 5 == 4 else "train") / name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    train, val = root / "train", root / "val"
    some = {name: sorted((train / name).iterdir())[10:20] for name in CLASSES}
    (train / "daisy/zero.jpg").touch()
    (train / "rose/truncated.jpg").write_bytes(some["rose"][0].read_bytes()[:2000])
    (train / "tulip/text.jpg").write_text("a tulip, in words")
    Image.new("RGB", (1, 1), "red").save(train / "tulip/one.png")
    Image.open(some["tulip"][1]).rotate(3).convert("CMYK").save(train / "tulip/cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(some["sunflower"][2]).crop((30, 0, 128, 90)).save(train / "sunflower/turned.jpg", exif=exif)
    shutil.copyfile(some["daisy"][3], train / "daisy/copy.jpg")
    shutil.copyfile(some["rose"][4], train / "tulip/copy.jpg")
    shutil.copyfile(some["sunflower"][5], val / "sunflower/copy.jpg")
    near = Image.open(some["daisy"][6])
    near.crop((4, 3, 125, 124)).resize((200, 180)).save(train / "daisy/near.jpg", quality=50)
    shutil.rmtree(val / "dandelion")
    (train / "Rose").mkdir()
    some["rose"][7].rename(train / "Rose/misplaced.jpg")
    return root


def kinds_of(checkup: Checkup, name: str) -> set[str]:
    """The kinds of findings that are about the picture called `name`."""
    describe = checkup.survey.samples.describe
    return {
        finding.kind for finding in checkup.findings if any(Path(describe(at)).name == name for at in finding.pictures)
    }


def paths_of(checkup: Checkup, kind: str) -> list[Path]:
    """The pictures that findings of a kind are about."""
    return [Path(checkup.survey.samples.describe(at)) for finding in checkup.of_kind(kind) for at in finding.pictures]


@pytest.mark.shared
def test_all_planted_faults_are_found(shared: Path, tmp_path: Path) -> None:
    root = plant(shared / "data/flowers", tmp_path / "flowers")
    checkup = vitkit.check(root, output=tmp_path / "check.html")
    for name in ("zero.jpg", "truncated.jpg", "text.jpg"):
        assert kinds_of(checkup, name) == {"unreadable"}
    assert kinds_of(checkup, "one.png") == {"tiny"}
    assert "cmyk" in kinds_of(checkup, "cmyk.jpg")
    assert "turned" in kinds_of(checkup, "turned.jpg")
    copied = {"same": "daisy", "same_across_classes": "tulip", "same_across_parts": "sunflower", "alike": "daisy"}
    for kind, name in copied.items():
        found = [file for file in paths_of(checkup, kind) if file.stem in ("copy", "near")]
        assert [file.parent.name for file in found] == [name]
    assert [finding.message for finding in checkup.of_kind("absent") if "'dandelion'" in finding.message] == [
        "val has no picture of class 'dandelion', train 842"
    ]
    (typo,) = checkup.of_kind("spelling")
    assert "'Rose' (1 picture) and 'rose'" in typo.message
    assert not checkup.clean
    page = (tmp_path / "check.html").read_text()
    assert page.count("data:image/png") >= 7 and "The same file under several classes" in page


@pytest.mark.shared
def test_real_flowers_have_six_duplicates_and_no_other_fault(shared: Path) -> None:
    checkup = vitkit.check(shared / "data/flowers")
    assert {finding.kind for finding in checkup.findings} == {"same", "same_across_classes", "alike"}
    assert [len(checkup.of_kind(kind)) for kind in ("same_across_classes", "same")] == [4, 2]
    for kind in ("same", "same_across_classes"):
        for finding in checkup.of_kind(kind):
            assert len({Path(checkup.survey.samples.describe(at)).read_bytes() for at in finding.pictures}) == 1
    assert 20 <= len(checkup.of_kind("alike")) <= 40  # 28, all of them seen to be the same picture


@pytest.mark.shared
@pytest.mark.slow
def test_swapped_labels_of_flowers_are_suspected_by_a_models_embeddings(shared: Path, tmp_path: Path) -> None:
    files = {name: sorted((shared / "data/flowers" / name).iterdir())[:80] for name in CLASSES}
    rng = np.random.default_rng(1)
    swapped = set(rng.choice(400, 10, replace=False).tolist())
    for number, file in enumerate(file for name in CLASSES for file in files[name]):
        name = file.parent.name
        other = CLASSES[(CLASSES.index(name) + int(rng.integers(1, 5))) % 5]
        target = tmp_path / (other if number in swapped else name) / f"{number}.jpg"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    weights = shared / "weights/vit_tiny_patch16_224.safetensors"
    checkup = vitkit.check(tmp_path, model=weights, preset="vit_tiny_patch16_224", suspects=30)
    suspects = {int(file.stem) for file in paths_of(checkup, "label")}
    assert len(suspects) == 30 and len(suspects & swapped) >= 7


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Two classes of five pictures."""
    for number in range(10):
        picture_file(tmp_path / f"few/{'ab'[number % 2]}/{number}.png", seed=number)
    return tmp_path / "few"


def test_a_fine_tuning_that_is_stopped_says_that_nothing_is_kept(few: Path, tmp_path: Path) -> None:
    def stop_while_learning(done: int, total: int) -> None:
        if done == 2 * 10 + 1:
            os.kill(os.getpid(), signal.SIGINT)

    model = small_folder(tmp_path / "model")
    with pytest.raises(Interrupted, match="stopped while labels were being learnt; nothing is kept") as caught:
        vitkit.check(few, model=model, fine_tune=True, on_progress=stop_while_learning)
    assert caught.value.signum == signal.SIGINT


def test_a_model_that_cant_be_fine_tuned_is_refused_before_pictures_are_read(few: Path, tmp_path: Path) -> None:
    rescaled = replace(PREPROCESS, order="rescale_first")
    small_model().save_pretrained(tmp_path / "model", preprocess=rescaled, class_names=NAMES)
    with pytest.raises(vitkit.ConfigError, match="rescale_first"):
        vitkit.check(few, model=tmp_path / "model", fine_tune=True, on_progress=lambda done, total: pytest.fail("read"))
