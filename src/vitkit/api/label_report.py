"""What held-out pictures with several labels say of a finished run: its scores, every class, the worst answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.api.run_maps import show_maps
from vitkit.api.run_tables import answer_rows, tenths, write_csv, write_json
from vitkit.api.verdicts import SHOWN, WEIGHTS, Held, Verdict, percent, picture_of, run_pictures, show_pictures
from vitkit.checkpoint.card import Card
from vitkit.config import to_dict
from vitkit.data.loader import Loader
from vitkit.data.samples import Samples, Splits
from vitkit.engine.predict import probabilities
from vitkit.evaluation.label_scores import THRESHOLD, LabelTally, MultiLabelScores
from vitkit.model.base import ImageModel
from vitkit.report.html import Block, Heading, Paragraph, Table
from vitkit.training.scores import summary

__all__ = ["judge_labels"]


def judge_labels(
    folder: Path,
    module: ImageModel,
    weights: str,
    card: Card,
    held: Held,
    splits: Splits,
    evaluation: Loader,
    test: Loader | None,
) -> Verdict:
    """Average precision, F1 and exact matches; writes results.json, classes.csv, predictions.csv and mistakes.png."""
    assert splits.val is not None
    parts = {"held-out": _score(held, splits.val, weights)}
    answers = answer_rows("held-out", splits.val, held.logits, card.scores)
    scores = parts["held-out"]
    text = (
        f"Of {scores.count:,} held-out pictures {percent(scores.exact_match, 1)} have all their labels right, by the "
        f"{WEIGHTS[weights]} after the last step; mean average precision {percent(scores.mean_average_precision, 1)}."
    )
    if test is not None and splits.test is not None:
        read = run_pictures(module, test)
        parts["test"] = tested = _score(read, splits.test, weights)
        answers += answer_rows("test", splits.test, read.logits, card.scores)
        average = percent(tested.mean_average_precision, 1)
        text += f" On {tested.count:,} test pictures, read this once, it is {average}."
    content = {**to_dict(scores), **({"test": to_dict(parts["test"])} if "test" in parts else {})}
    write_json(folder / "results.json", content)
    write_csv(folder / "predictions.csv", answers)
    write_csv(folder / "classes.csv", _class_rows(parts))
    blocks: list[Block] = [
        Heading("How well it tells each class"),
        _class_table(scores),
        *_mistakes(held, evaluation, card, splits.val, folder / "mistakes.png"),
        *show_maps(module, card, splits.val, evaluation),
    ]
    return Verdict(summary(scores), summary(parts["test"]) if "test" in parts else {}, text, blocks)


def _score(held: Held, samples: Samples, weights: str) -> MultiLabelScores:
    tally = LabelTally(samples.num_classes)
    for at, chances in enumerate(probabilities(held.logits, "sigmoid")):
        tally.add(samples.classes_of(at).tolist(), chances)
    names = samples.class_names
    return tally.scores(model=f"last step, {weights}", engine="torch float32 on cpu", class_names=names, seconds=0)


def _class_rows(parts: Mapping[str, MultiLabelScores]) -> list[dict[str, Any]]:
    return [
        {
            "part": part,
            "class": row.class_name,
            "average_precision": row.average_precision,
            "precision": row.precision,
            "recall": row.recall,
            "f1": row.f1,
            "support": row.count,
        }
        for part, scores in parts.items()
        for row in scores.per_class
    ]


def _class_table(scores: MultiLabelScores) -> Table:
    columns = ("class", "pictures", "average precision, %", "precision, %", "recall, %", "F1, %")
    rows = [
        [row.class_name, row.count, *map(tenths, (row.average_precision, row.precision, row.recall, row.f1))]
        for row in scores.per_class
    ]
    micro, macro = percent(scores.micro_f1, 1), percent(scores.macro_f1, 1)
    caption = f"F1 of all answers together {micro}, mean of the classes {macro}."
    return Table(columns, rows, caption)


def _mistakes(held: Held, evaluation: Loader, card: Card, samples: Samples, file: Path) -> list[Block]:
    """The held-out pictures of which one answer was most wrongly sure."""
    assert card.preprocess is not None
    chances = probabilities(held.logits, "sigmoid")
    missed = np.where(samples.labels, 1 - chances, chances)  # the probability of each wrong answer
    wrong = np.flatnonzero(missed.max(axis=1) > THRESHOLD)
    if not len(wrong):
        return [Paragraph("Of every held-out picture all labels are right.")]
    worst = wrong[np.argsort(-missed[wrong].max(axis=1), kind="stable")][:SHOWN]
    captions = []
    for at in worst.tolist():
        label = int(missed[at].argmax())
        name = f"{'no ' if samples.labels[at, label] else ''}{samples.class_names[label]}"
        captions.append(f"{samples.label_text(at)}, said {name} ({percent(missed[at, label])})")
    pictures = [picture_of(evaluation, index) for index in worst.tolist()]
    lead = f"The worst {len(worst)} of {len(wrong)} pictures with a wrong answer: the true labels, and that answer."
    return [Paragraph(lead), show_pictures(pictures, captions, card.preprocess, file)]
