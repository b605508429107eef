"""A run's folder: every class as scikit-learn scores it, every answer as the saved model gives it."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

import vitkit
from small import picture_file
from vitkit.api.run_tables import class_blocks
from vitkit.evaluation.metrics import Tally
from vitkit.report.html import Folded, Table


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("classes")
    for part, count in (("train", 30), ("val", 24), ("test", 12)):
        for number in range(count):
            name = ("daisy", "a, b", "rose")[number % 3]
            picture_file(folder / "data" / part / name / f"{part}{number}.png", 12, 12, seed=hash_of(part, number))
    settings = {"epochs": 2, "batch_size": 10}
    return vitkit.train(folder / "data", image_size=8, settings=settings, output=folder / "run")


def hash_of(part: str, number: int) -> int:
    return 1000 * len(part) + number


def test_every_answer_is_the_saved_models(result: Any) -> None:
    answers = rows(result.folder / "predictions.csv")
    assert [row["part"] for row in answers] == ["held-out"] * 24 + ["test"] * 12
    vit = vitkit.load(result.model)
    for row in answers:
        path = Path(row["picture"])
        best = vit.classify(path)[0]
        assert (row["said"], row["class"]) == (best.class_name, path.parent.name)
        assert float(row["probability"]) == pytest.approx(best.probability, abs=2e-5)
        assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(row["digest"]) and len(row["digest"]) == 16


def test_every_class_has_the_scores_of_scikit_learn(result: Any) -> None:
    answers, table = rows(result.folder / "predictions.csv"), rows(result.folder / "classes.csv")
    names = sorted({row["class"] for row in answers})
    for part in ("held-out", "test"):
        true, said = ([row[key] for row in answers if row["part"] == part] for key in ("class", "said"))
        expected = precision_recall_fscore_support(true, said, labels=names, zero_division=0)
        found = [row for row in table if row["part"] == part]
        assert [row["class"] for row in found] == names
        for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
            assert [float(row[key] or 0) for row in found] == pytest.approx(values.tolist())
    assert "precision, %" in (result.folder / "report.html").read_text()


def test_of_many_classes_the_page_shows_the_worst_and_folds_the_others() -> None:
    tally = Tally(50)
    for label in range(50):
        for said in (label, label if label < 25 else 0):
            tally.add(label, np.eye(50)[said])
    scores = tally.scores(model="m", engine="e", seconds=0)
    worst, everything = class_blocks(scores)
    assert isinstance(worst, Table) and isinstance(everything, Folded)
    assert [row[0] for row in worst.rows] == ["0", *map(str, range(25, 44))]  # 0 is what all others are taken for
    assert worst.rows[1] == ["25", 2, 100.0, 50.0, 66.7, "0 (1)"]
    assert everything.title == "All 50 classes"
