"""vitkit evaluate: how often a classifier is right on labelled pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli import options

if TYPE_CHECKING:
    from vitkit.evaluation.metrics import ClassScores

CLASSES_SHOWN = 20


def evaluate(
    data: Annotated[
        str,
        typer.Argument(help="A folder of class folders, or a CSV with the columns path and label (index, name or id)."),
    ],
    model: options.Model = None,
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

    Top-1 and top-5 with their 95 % intervals, and every class, on pictures whose classes are known.
    """
    from vitkit.api.evaluate import evaluate
    from vitkit.checkpoint.presets import DEFAULT_MODEL
    from vitkit.cli.output import Progress, complain, open_output
    from vitkit.config import to_dict
    from vitkit.engine.predict import BATCH_SIZE
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
    typer.echo(json.dumps(to_dict(scores)) if as_json else f"{scores}\n{class_table(scores.per_class)}")
    return 1 if scores.failed else 0


def class_table(per_class: Sequence[ClassScores]) -> str:
    """The classes in a table: all of them, or the worst where there are many."""
    shown = list(per_class)
    lines = [f"{'recall':>8}{'precision':>11}{'pictures':>10}  class"]
    if len(shown) > CLASSES_SHOWN:
        shown = sorted(per_class, key=lambda row: row.recall)[:CLASSES_SHOWN]
        lines.insert(0, f"the {CLASSES_SHOWN} worst of {len(per_class):,} classes (all: --json, -o):")
    for row in shown:
        precision = "-" if row.precision is None else f"{row.precision:.1%}"
        taken = f", taken {row.confused_count}x for {row.confused_with}" if row.confused_with else ""
        lines.append(f"{row.recall:>8.1%}{precision:>11}{row.count:>10,}  {row.class_name}{taken}")
    return "\n".join(lines)
