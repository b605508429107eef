"""The tables of a run's folder: the log's steps, every class, every answer. CSV for spreadsheets and comparisons."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitkit.api.verdicts import percent
from vitkit.config import flatten
from vitkit.data.samples import Samples
from vitkit.data.split import digest_pictures
from vitkit.engine.predict import probabilities
from vitkit.evaluation.label_scores import THRESHOLD
from vitkit.evaluation.metrics import ClassScores, Scores
from vitkit.files import replace_file
from vitkit.report.html import Block, Cell, Folded, Table

__all__ = [
    "answer_rows",
    "class_blocks",
    "setting_cells",
    "tenths",
    "write_classes",
    "write_csv",
    "write_json",
    "write_steps",
]

DIGEST_BYTES = 8
WHOLE = 40
"""Classes: up to here the page shows them all, of more the worst first and the others folded."""
WORST = 20


def answer_rows(part: str, samples: Samples, logits: NDArray[np.float32], scores: str) -> list[dict[str, Any]]:
    """A row of predictions.csv for each of `samples`, whose `logits` are [n, K]; `scores` is a card's.

    The digest of a picture's bytes tells that two runs held out the same one, wherever it lies. The probability is that
    of the answer, and of several labels that of the least sure one.
    """
    chances = probabilities(logits, scores)
    if samples.multi_label:
        answers, sure = chances > THRESHOLD, np.maximum(chances, 1 - chances).min(axis=1)
    else:
        answers, sure = chances.argmax(axis=1), chances.max(axis=1)
    said = dataclasses.replace(samples, labels=answers)
    return [
        {
            "part": part,
            "picture": samples.describe(at),
            "digest": digest[:DIGEST_BYTES].hex(),
            "class": samples.label_text(at),
            "said": said.label_text(at),
            "probability": f"{sure[at]:.6f}",
        }
        for at, digest in enumerate(digest_pictures(samples))
    ]


def write_classes(file: Path, parts: Mapping[str, Scores]) -> None:
    """Precision, recall, F1 and support of every class, of each part of the pictures."""
    write_csv(
        file,
        [
            {
                "part": part,
                "class": row.class_name,
                "precision": row.precision,
                "recall": row.recall,
                "f1": row.f1,
                "support": row.count,
                "confused_with": row.confused_with,
                "confused_count": row.confused_count,
            }
            for part, scores in parts.items()
            for row in scores.per_class
        ],
    )


def write_steps(file: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """The log's steps."""
    write_csv(file, [{name: row[name] for name in row if name != "kind"} for row in log if row["kind"] == "step"])


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows under the names of the first one's keys."""
    with replace_file(file) as part, open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as opened:
        writer = csv.DictWriter(opened, fieldnames=list(rows[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_json(file: Path, content: object) -> None:
    """Indented, whole or not at all."""
    with replace_file(file) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def setting_cells(settings: Mapping[str, Any]) -> dict[str, Cell]:
    """A run's settings by their whole names, as a page shows them."""
    return {name: _cell(value) for name, value in flatten(settings).items()}


def class_blocks(scores: Scores) -> list[Block]:
    """Every class in a table; of very many the worst, and all of them folded."""
    rows = scores.per_class
    caption = f"Mean of the classes: recall {percent(scores.balanced_accuracy, 1)}, F1 {percent(scores.macro_f1, 1)}."
    if len(rows) <= WHOLE:
        return [_class_table(rows, caption)]
    worst = sorted(rows, key=lambda row: row.f1)[:WORST]
    everything = Folded(f"All {len(rows):,} classes", [_class_table(rows, "in the order of the outputs")])
    return [_class_table(worst, f"{caption} The {WORST} classes of lowest F1:"), everything]


def _class_table(rows: Sequence[ClassScores], caption: str) -> Table:
    cells: list[list[Cell]] = [
        [
            row.class_name,
            row.count,
            *(tenths(value) for value in (row.precision, row.recall, row.f1)),
            f"{row.confused_with} ({row.confused_count})" if row.confused_with else None,
        ]
        for row in rows
    ]
    columns = ("class", "pictures", "precision, %", "recall, %", "F1, %", "taken most often for")
    return Table(columns, cells, caption)


def _cell(value: Any) -> Cell:
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value)
    return str(value) if isinstance(value, bool) else value


def tenths(share: float | None) -> float | None:
    """A share as percent for a table's cell."""
    return None if share is None else round(100 * share, 1)
