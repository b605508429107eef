"""vitkit compare: which of several runs is better, by how much, and at what price."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli import options
from vitkit.cli.output import aligned

if TYPE_CHECKING:
    from vitkit.api.compare import Comparison


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN", help="Folders that vitkit train made; two or more.")],
    output: Annotated[str | None, typer.Option("--output", "-o", help="Write a page to this .html file.")] = None,
    as_json: options.Json = False,
) -> int:
    """Compare trainings with the first of them.

    Scores with intervals, the same held-out pictures one by one, cost, and the settings that differ.
    """
    from vitkit.api.compare import compare
    from vitkit.config import to_dict

    comparison = compare(runs, output=output)
    typer.echo(json.dumps(to_dict(comparison)) if as_json else as_text(comparison))
    return 0


def as_text(comparison: Comparison) -> str:
    """Scores, verdicts and differing settings in lines."""
    from vitkit.api.compare_page import tell_pair, tell_score, tell_time

    runs = comparison.runs
    scores = list(dict.fromkeys(name for run in runs for name in run.scores))
    rows = [["run", *(name if name.startswith("test") else f"held-out {name}" for name in scores)]]
    rows[0] += ["parameters", "pictures", "steps", "time", "images/s"]
    for run in runs:
        cost = (f"{run.parameters:,}", f"{run.pictures[0]:,}", f"{run.steps:,}")
        speed = (tell_time(run.seconds), f"{run.images_per_s:,.0f}")
        rows.append([run.name, *(tell_score(run, name) or "-" for name in scores), *cost, *speed])
    lines = aligned(rows)
    lines += [tell_pair(pair) for pair in comparison.paired]
    lines += [f"{note}." for note in comparison.notes]
    if comparison.settings:
        lines.append("settings that differ:")
        table = [[f"  {name}", *map(_spell, values)] for name, values in comparison.settings.items()]
        lines += aligned(table)
    return "\n".join(lines)


def _spell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "-" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
