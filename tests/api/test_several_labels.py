"""Pictures with several labels, from a table to a trained model: its scores are scikit-learn's, its run resumes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, precision_recall_fscore_support

import vitkit
from api.test_train import assert_same, ending, interrupt_at
from vitkit.api.train import train
from vitkit.cli import main
from vitkit.errors import Interrupted

PLACES = {
    "left": (slice(0, 16), slice(0, 6)),
    "right": (slice(0, 16), slice(10, 16)),
    "blue": (slice(4, 12), slice(6, 10)),
}
FAST = {"epochs": 3, "batch_size": 16, "lr": 2e-3, "ema_decay": 0.0, "dtype": "float32", "sampling": "balanced"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey noise with any of three bright regions in it, each a label; some lie, so that nothing is perfect."""
    folder = tmp_path_factory.mktemp("regions")
    draw = np.random.default_rng(0)
    lines = []
    for number in range(150):
        pixels = draw.integers(0, 90, (16, 16, 3), dtype=np.uint8)
        labels = [name for name in PLACES if draw.random() < 0.4]
        for name in labels:
            pixels[PLACES[name]] += np.uint8(140)
        if draw.random() < 0.1:
            labels = labels[1:]
        Image.fromarray(pixels).save(folder / f"{number}.png")
        part = "train" if number < 90 else "val" if number < 120 else "test"
        lines.append(json.dumps({"file_name": f"{number}.png", "labels": labels, "split": part}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder / "metadata.jsonl"


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on it."""
    return train(str(table), image_size=16, settings=FAST, output=tmp_path_factory.mktemp("runs") / "run").folder


def truth(table: Path, part: str, names: tuple[str, ...]) -> tuple[list[str], Any]:
    rows = [json.loads(line) for line in table.read_text("utf-8").splitlines()]
    rows = [row for row in rows if row["split"] == part]
    labels = np.array([[name in row["labels"] for name in names] for row in rows])
    return [str(table.parent / row["file_name"]) for row in rows], labels


@pytest.mark.parametrize("part", ["val", "test"])
def test_the_scores_of_a_run_are_scikit_learns(table: Path, run: Path, part: str) -> None:
    vit = vitkit.load(run / "model", device="cpu", dtype="float32")
    assert vit.card.scores == "sigmoid" and vit.class_names == ("blue", "left", "right")
    pictures, labels = truth(table, part, vit.class_names)
    chances = np.zeros(labels.shape)
    for row, found in zip(chances, vit.classify(pictures, top=3), strict=True):
        for prediction in found:
            row[prediction.index] = prediction.probability
    said = chances > 0.5
    results = json.loads((run / "results.json").read_text("utf-8"))
    scores = results if part == "val" else results["test"]
    assert scores["count"] == len(pictures) == 30 and 0.2 < scores["exact_match"] < 1
    expected = {
        "mean_average_precision": average_precision_score(labels, chances),
        "micro_f1": f1_score(labels, said, average="micro"),
        "macro_f1": f1_score(labels, said, average="macro", zero_division=0),
        "exact_match": accuracy_score(labels, said),
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    precision, recall, f1, support = precision_recall_fscore_support(labels, said, average=None, zero_division=0)
    for index, row in enumerate(scores["per_class"]):
        assert row["count"] == support[index]
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx(
            [precision[index], recall[index], f1[index]], abs=1e-12
        )
        assert row["average_precision"] == pytest.approx(average_precision_score(labels[:, index], chances[:, index]))


def test_a_run_shows_each_class_and_each_answer(table: Path, run: Path) -> None:
    answers = list(csv.DictReader((run / "predictions.csv").read_text("utf-8").splitlines()))
    assert len(answers) == 60 and {"left | right", "none"} <= {row["class"] for row in answers}
    right = [row["class"] == row["said"] for row in answers if row["part"] == "held-out"]
    results = json.loads((run / "results.json").read_text("utf-8"))
    assert np.mean(right) == results["exact_match"]
    classes = list(csv.DictReader((run / "classes.csv").read_text("utf-8").splitlines()))
    assert [row["class"] for row in classes] == ["blue", "left", "right"] * 2
    page = (run / "report.html").read_text("utf-8")
    assert "have all their labels right" in page and "average precision, %" in page
    baseline = json.loads((run / "baseline.json").read_text("utf-8"))
    assert baseline["score"] == "mAP" and 0.3 < baseline["knn"] < 1 and 0.3 < baseline["probe"] < 1
    assert "mAP k-NN" in page and "mean average precision, %" in page.replace("Curve of the ", "")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    assert log[-1]["kind"] == "evaluation" and log[-1]["mAP"] == pytest.approx(results["mean_average_precision"])


def test_a_run_resumes_to_the_same_bits(table: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(str(table), image_size=16, settings=FAST, output=tmp_path / "run", on_step=interrupt_at(4))
    train(resume=tmp_path / "run")
    assert_same(ending(tmp_path / "run"), ending(run))


def test_evaluate_and_classify_speak_of_several_labels(
    table: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, labels = truth(table, "val", ("blue", "left", "right"))
    results = json.loads((run / "results.json").read_text("utf-8"))
    scores = vitkit.evaluate(run / "model", table, split="val", device="cpu", dtype="float32")
    assert scores.mean_average_precision == pytest.approx(results["mean_average_precision"], abs=1e-12)
    assert scores.exact_match == results["exact_match"] and scores.count == 30
    assert main(["evaluate", str(table), "--split", "val", "-m", str(run / "model")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"mAP {results['mean_average_precision']:.1%}, F1 ")
    assert [line.split()[-1] for line in said.splitlines()[2:]] == ["blue", "left", "right"]
    with pytest.raises(vitkit.ConfigError, match="several labels"):
        vitkit.evaluate(run / "model", table, confusion=tmp_path / "x.png")
    both = next(path for path, row in zip(pictures, labels, strict=True) if row[1] and row[2])
    found = vitkit.load(run / "model", device="cpu", dtype="float32").classify(both)
    assert sum(prediction.probability for prediction in found) > 1.2


def test_a_loss_of_one_class_a_picture_is_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(vitkit.ConfigError, match=r"loss is softmax.* has several: choose bce or focal"):
        train(str(table), settings={"loss": "softmax"}, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
