"""The scripts of docs/EXPORT.md, where neither vitkit nor torch can be imported, answer as the command does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vitkit
from small import NAMES, PREPROCESS, picture, picture_file, small_folder, small_model
from vitkit.checkpoint.card import Card
from vitkit.cli import main
from vitkit.exports.artifact import write_export
from vitkit.exports.graph import CropGraph
from vitkit.image.decode import decode
from vitkit.image.preprocess import fit

SCRIPTS = re.findall(r"^```python\n(.*?)^```$", (Path(__file__).parents[2] / "docs/EXPORT.md").read_text(), re.M | re.S)
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("vitkit", "torch"):
            raise ImportError(name + " isn't here")
sys.meta_path.insert(0, Blocker())
"""

Answers = dict[str, list[tuple[str, float]]]
"""A picture's file to its best classes and their probabilities."""


def by_script(form: str, export: Path, pictures: list[Path], folder: Path) -> Answers:
    """What the script for exports of `form` prints, run without vitkit and torch."""
    (script,) = (text for text in SCRIPTS if f'"{form}":' in text)
    (folder / "sitecustomize.py").write_text(BLOCKER)
    (folder / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", "import torch"], env=environment, check=True, capture_output=True)
    command = [sys.executable, folder / "script.py", export, *pictures]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    answers: Answers = {}
    for line in done.stdout.splitlines():
        name, class_name, odds = line.split("\t")
        answers.setdefault(name, []).append((class_name, float(odds)))
    return answers


def by_command(model: Path, pictures: list[Path], output: Path) -> Answers:
    """What `vitkit classify --exact` says."""
    arguments = ["classify", *pictures, "--model", model, "--exact", "--json", "-o", output, "--device", "cpu"]
    assert main([str(argument) for argument in arguments]) == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.read_text().splitlines()]
    return {
        line["picture"]: [(found["class_name"], found["probability"]) for found in line["predictions"]]
        for line in lines
    }


def assert_alike(found: Answers, expected: Answers, tolerance: float) -> None:
    """The same pictures, best classes and, within the tolerance, probabilities."""
    assert found.keys() == expected.keys()
    for name, answers in expected.items():
        assert found[name][0][0] == answers[0][0], name
        odds = dict(found[name])
        for class_name, probability in answers:
            assert odds.get(class_name, probability) == pytest.approx(probability, abs=tolerance), name


def generated(folder: Path) -> list[Path]:
    """Colour, grey, turned by EXIF, thin, and smaller than the model's crop."""
    folder.mkdir()
    files = [picture_file(folder / f"{seed}.png", 40 + 7 * seed, 90 - 9 * seed, seed=seed) for seed in range(6)]
    files += [picture_file(folder / "thin.png", 12, 200, seed=7), picture_file(folder / "small.png", 9, 8, seed=8)]
    picture(50, 60, seed=9).convert("L").save(folder / "grey.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(44, 71, seed=10).save(folder / "turned.jpg", exif=turned, quality=95)
    return [*files, folder / "grey.png", folder / "turned.jpg"]


def test_the_script_for_whole_pictures_has_ten_lines() -> None:
    (script,) = (text for text in SCRIPTS if '"pictures":' in text)
    assert len([line for line in script.splitlines() if line]) == 10


@pytest.mark.parametrize("form", ["crops", "pictures"])
def test_a_script_answers_as_the_command_does(form: str, tmp_path: Path) -> None:
    model = small_folder(tmp_path / "model")
    pictures = generated(tmp_path / "pictures")
    vitkit.export(model, tmp_path / "m.onnx", form=form)
    found = by_script(form, tmp_path / "m.onnx", pictures, tmp_path)
    assert_alike(found, by_command(model, pictures, tmp_path / "answers.jsonl"), 1e-4)


def test_scores_of_a_sigmoid_are_read_as_such(tmp_path: Path) -> None:
    card = Card(preprocess=PREPROCESS, class_names=NAMES, scores="sigmoid")
    file = picture_file(tmp_path / "p.png")
    graph = CropGraph(small_model(), PREPROCESS)
    write_export(graph, card, tmp_path / "m.onnx")
    with torch.no_grad():
        odds = graph(torch.from_numpy(fit(PREPROCESS, decode(file)))[None])["logits"][0].sigmoid()
    expected = [(NAMES[i], float(odds[i])) for i in odds.argsort(descending=True)]
    assert_alike(by_script("crops", tmp_path / "m.onnx", [file], tmp_path), {str(file): expected}, 1e-5)


@pytest.fixture(scope="module")
def photos(shared: Path) -> list[Path]:
    return sorted((shared / "data/photos").glob("*.JPEG"))


@pytest.fixture(scope="module")
def vit(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, name = tmp_path_factory.mktemp("real") / "vit", "vit_tiny_patch16_224"
    vitkit.convert(shared / f"weights/{name}.safetensors", folder, preset=name)
    return folder


@pytest.fixture(scope="module")
def command_s(vit: Path, photos: list[Path]) -> Answers:
    return by_command(vit, photos, vit.parent / "answers.jsonl")


@pytest.mark.shared
@pytest.mark.parametrize(("form", "tolerance"), [("crops", 1e-5), ("pictures", 1e-3)])
def test_the_200_photos_are_answered_alike(
    form: str, tolerance: float, vit: Path, photos: list[Path], command_s: Answers, tmp_path: Path
) -> None:
    assert len(photos) == 200
    vitkit.export(vit, tmp_path / "vit.onnx", form=form)
    assert_alike(by_script(form, tmp_path / "vit.onnx", photos, tmp_path), command_s, tolerance)
