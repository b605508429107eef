"""vitkit classify --labels: classes of one's own from the command line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

import vitkit
from hub_server import HubServer
from small import picture_file, small_folder
from texts import two_towers
from vitkit.cli import main


@pytest.fixture
def model(tmp_path: Path) -> Path:
    two_towers().save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return picture_file(tmp_path / "p.png")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


def rows(model: Path, path: Path, labels: list[str], **options: Any) -> list[tuple[str, float]]:
    found = vitkit.load(model).with_labels(labels, **options).classify(path)
    return [(p.class_name, p.probability) for p in found]


def test_labels_are_the_classes_in_every_form(model: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = rows(model, path, ["a cat", "two dogs"])
    code, out, err = run(capsys, "classify", path, "-m", model, "--labels", "a cat, two dogs", "--json")
    assert (code, err) == (0, "")
    assert [(p["class_name"], p["probability"]) for p in json.loads(out)["predictions"]] == expected
    _, out, _ = run(capsys, "classify", path, "-m", model, "--labels", "a cat,two dogs", "--csv")
    assert [(r["class_name"], float(r["probability"])) for r in csv.DictReader(io.StringIO(out))] == expected
    _, out, _ = run(capsys, "classify", path, "-m", model, "--labels", "a cat,two dogs", "--top", 1)
    assert out.splitlines() == [str(path), f"  {100 * expected[0][1]:6.2f}%  {expected[0][0]}"]


def test_a_text_file_holds_a_label_per_line(model: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = path.with_name("labels.txt")
    labels.write_text("\ufeffa cat, asleep\n\n  two dogs \n", encoding="utf-8")
    templates = ["a photo of {}", "{} in the snow"]
    _, out, _ = run(
        capsys,
        "classify",
        path,
        "-m",
        model,
        "--labels",
        labels,
        "--json",
        *(argument for template in templates for argument in ("--template", template)),
    )
    found = [(p["class_name"], p["probability"]) for p in json.loads(out)["predictions"]]
    assert found == rows(model, path, ["a cat, asleep", "two dogs"], templates=templates)
    assert found != rows(model, path, ["a cat, asleep", "two dogs"])


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["-m", "CLIP"], "CLIP has no classes of its own: say which there are, with --labels 'a cat,a dog'"),
        (["-m", "VIT", "--labels", "a,b"], "VIT has no text tower"),
        (["-m", "CLIP", "--template", "a {}"], "--template is the text around --labels; give these too"),
        (["-m", "CLIP", "--labels", "a,,b"], "a label is empty"),
        (["-m", "CLIP", "--labels", "a,b,a"], "label 'a' is there twice"),
        (["-m", "CLIP", "--labels", "a,b", "--template", "photo"], "template 'photo' has no {}"),
        (["-m", "CLIP", "--labels", "none.txt"], "--labels 'none.txt' can't be read as a text file"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    model: Path, path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], fault: str
) -> None:
    small_folder(model.with_name("vit"))
    names = {"CLIP": str(model), "VIT": str(model.with_name("vit"))}
    code, out, err = run(capsys, "classify", path, *(names.get(argument, argument) for argument in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    for name, folder in names.items():
        err = err.replace(folder, name)
    assert fault in err


def test_a_folder_says_what_it_is_for(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 'vit.with_labels(["a cat", "a dog"]).classify("picture.jpg")' in (model / "README.md").read_text()
    assert "tokenizer   vocab.json, merges.txt\n" in run(capsys, "models", "--show", model)[1]
    vitkit.load(model).with_labels(["a cat", "a dog"]).module.save_pretrained(tmp_path / "cats")
    assert (
        "2: a cat; a dog" in (out := run(capsys, "models", "--show", tmp_path / "cats")[1]) and "tokenizer" not in out
    )


@pytest.mark.parametrize("to", ["native", "hf"])
def test_a_two_tower_model_of_the_hub_brings_its_tokenizer(
    hub: HubServer, model: Path, path: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    folder = model.with_name("hf")
    if to == "hf":
        module = two_towers(pre_norm=True)
        vitkit.save(module, folder, layout="hf")
    else:
        folder = model
    hub.add("org/clip", {file.name: file.read_bytes() for file in folder.iterdir()})
    code, out, err = run(capsys, "classify", path, "-m", "org/clip", "--labels", "a cat,two dogs", "--json")
    assert (code, err) == (0, "")
    found = [(p["class_name"], p["probability"]) for p in json.loads(out)["predictions"]]
    assert found == rows(folder, path, ["a cat", "two dogs"])
    assert {"vocab.json", "merges.txt"} <= set(hub.downloads())
