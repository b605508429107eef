"""vitkit evaluate: how often a classifier is right on labelled pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from vitkit.cli import options

if TYPE_CHECKING:
    from vitkit.evaluation.label_scores import LabelClassScores
    from vitkit.evaluation.metrics import ClassScores

CLASSES_SHOWN = 20

Row = TypeVar("Row", "ClassScores", "LabelClassScores")


def evaluate(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of class folders, or a CSV, JSONL or Parquet file of path and label (name, id or index)."
        ),
    ],
    model: options.Model = None,
    split: Annotated[str | None, typer.Option(help="The part of a table with a column split: val or test.")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Write everything as JSON to this file.")] = None,
    confusion: Annotated[
        str | None, typer.Option("--confusion", help="Draw the confusion matrix to this PNG file.")
    ] = None,
    as_json: options.Json = False,
    batch_size: options.BatchSize = None,
    *,
    loading: options.Loading,
) -> int:
    """Measure accuracy on labelled pictures.

    Top-1 and top-5 with their 95 % intervals, and every class, on pictures whose classes are known; where a picture
    has several labels, average precision and F1.
    """
    from vitkit.api.evaluate import evaluate
    from vitkit.checkpoint.presets import DEFAULT_MODEL
    from vitkit.cli.output import Progress, complain, open_output
    from vitkit.config import to_dict
    from vitkit.engine.predict import BATCH_SIZE
    from vitkit.evaluation.label_scores import MultiLabelScores
    from vitkit.files import check_new_file

    if output is not None:
        check_new_file(output)
    with Progress() as progress:

        def tell(done: int, total: int | None) -> None:
            progress.total = total
            progress.advance()

        scores = evaluate(
            DEFAULT_MODEL if model is None else model,
            data,
            split=split,
            batch_size=batch_size or BATCH_SIZE,
            confusion=confusion,
            **loading,
            on_progress=tell,
        )
    for _, error in scores.failed:
        complain(error)
    if output is not None:
        with open_output(output) as stream:
            stream.write(json.dumps(to_dict(scores), indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps(to_dict(scores)))
    else:
        table = label_table(scores.per_class) if isinstance(scores, MultiLabelScores) else class_table(scores.per_class)
        typer.echo(f"{scores}\n{table}")
    return 1 if scores.failed else 0


def class_table(per_class: Sequence[ClassScores]) -> str:
    """The classes in a table: all of them, or the worst where there are many."""
    head, shown = _worst(per_class)
    lines = [*head, f"{'recall':>8}{'precision':>11}{'pictures':>10}  class"]
    for row in shown:
        taken = f", taken {row.confused_count}x for {row.confused_with}" if row.confused_with else ""
        lines.append(f"{row.recall:>8.1%}{_percent(row.precision):>11}{row.count:>10,}  {row.class_name}{taken}")
    return "\n".join(lines)


def label_table(per_class: Sequence[LabelClassScores]) -> str:
    """As `class_table`, where a picture has several labels."""
    head, shown = _worst(per_class)
    lines = [*head, f"{'AP':>8}{'recall':>8}{'precision':>11}{'pictures':>10}  class"]
    for row in shown:
        average = _percent(row.average_precision)
        lines.append(f"{average:>8}{row.recall:>8.1%}{row.precision:>11.1%}{row.count:>10,}  {row.class_name}")
    return "\n".join(lines)


def _worst(rows: Sequence[Row]) -> tuple[list[str], list[Row]]:
    """A line that says so where not all are shown, and those that are."""
    if len(rows) <= CLASSES_SHOWN:
        return [], list(rows)
    head = f"the {CLASSES_SHOWN} worst of {len(rows):,} classes (all: --json, -o):"
    return [head], sorted(rows, key=lambda row: row.recall)[:CLASSES_SHOWN]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
