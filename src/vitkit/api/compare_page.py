"""The page of a comparison: which run is better, by how much, at what price, and what was done differently."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitkit.report.comparison import Line, lines_picture, scores_picture, sizes_picture
from vitkit.report.drawing import DENSITY
from vitkit.report.html import Block, Cell, Figure, Figures, Heading, Note, Paragraph, Table, write_page

if TYPE_CHECKING:
    from vitkit.api.compare import Comparison, Paired, RunSummary

__all__ = ["tell_pair", "tell_score", "tell_time", "write_comparison"]

CLASSES = 15
"""Classes shown: those whose F1 differs most."""

VERDICTS = 3
"""Told in a sentence; a table has them all."""

Log = Sequence[Mapping[str, Any]]


def write_comparison(
    file: str | os.PathLike[str], comparison: Comparison, logs: Sequence[Log], results: Sequence[Mapping[str, Any]]
) -> None:
    """Writes the page; `logs` and `results` are those of the runs, in order."""
    runs = comparison.runs
    verdicts = [tell_pair(pair) for pair in comparison.paired if pair.part == "held-out"]
    blocks: list[Block] = [
        *map(Note, verdicts[:VERDICTS]),
        *(Paragraph(f"{note}.") for note in comparison.notes),
        *_by_size(runs),
        Heading("Scores"),
        *_score_figures(runs),
        _score_table(runs),
        *_pairs(comparison.paired),
        *_curves(runs, logs),
        Heading("Cost"),
        _cost_table(runs),
        *_classes(runs, results),
        Heading("What was done differently"),
        _settings(comparison),
    ]
    names = [run.name for run in runs]
    lead = f"{', '.join(names[:-1])} and {names[-1]}, measured against {names[0]}."
    write_page(file, f"{len(runs)} runs compared", blocks, lead=lead)


def tell_score(run: RunSummary, name: str) -> str | None:
    """A score as text, with its interval where it has one; shares in percent."""
    if name not in run.scores:
        return None
    value = run.scores[name]
    if name in run.intervals:
        low, high = run.intervals[name]
        return f"{100 * value:.2f} % ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * value:.2f} %" if name.endswith("F1") else f"{value:.4g}"


def tell_pair(pair: Paired) -> str:
    """The verdict on two runs in a sentence."""
    low, high = pair.interval
    pictures = f"{pair.shared:,} {'' if pair.same_set else 'common '}{pair.part} pictures"
    certain = "which isn't chance alone" if pair.p < 0.05 else "which may be chance"
    if pair.only_run == pair.only_against:
        verdict = f"{pair.run} and {pair.against} name equally many of {pictures} rightly"
    else:
        more = "more" if pair.difference > 0 else "fewer"
        points = f"{abs(100 * pair.difference):.2f} points"
        verdict = f"{pair.run} names {points} {more} of {pictures} rightly than {pair.against}, {certain}"
    return f"{verdict} (95 % interval {100 * low:+.1f} to {100 * high:+.1f} points, McNemar p = {pair.p:.2g})."


def tell_time(seconds: float) -> str:
    """In seconds below two minutes, in minutes below two hours, else in hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _by_size(runs: Sequence[RunSummary]) -> list[Block]:
    """Accuracy over the pictures learnt from, where models were trained on different numbers of them."""
    kinds: dict[str, list[tuple[int, float, float, float]]] = defaultdict(list)
    for run in runs:
        if "accuracy" in run.intervals:
            kind = f"{run.model}, {run.parameters / 1e6:.2g} M parameters"
            kinds[kind].append((run.pictures[0], run.scores["accuracy"], *run.intervals["accuracy"]))
    if not any(len({count for count, *_ in points}) > 1 for points in kinds.values()):
        return []
    png = sizes_picture(kinds, "held-out accuracy, %, with 95 % intervals")
    alt = "Held-out accuracy of each model over the number of pictures it learnt from"
    return [Heading("More pictures"), Figure(png, alt, density=DENSITY)]


def _score_figures(runs: Sequence[RunSummary]) -> list[Block]:
    found = []
    for name in dict.fromkeys(name for run in runs for name in run.intervals):
        scores = {run.name: (run.scores[name], *run.intervals[name]) if name in run.intervals else None for run in runs}
        title = name if name.startswith("test") else f"held-out {name}"
        png = scores_picture(scores, f"{title}, %, with 95 % intervals")
        found.append(Figure(png, f"The {title} of each run with its interval", density=DENSITY))
    return list(found)


def _score_table(runs: Sequence[RunSummary]) -> Block:
    names = list(dict.fromkeys(name for run in runs for name in run.scores))
    columns = ("run", *(name if name.startswith("test") else f"held-out {name}" for name in names))
    return Table(columns, [[run.name, *(tell_score(run, name) for name in names)] for run in runs])


def _pairs(paired: Sequence[Paired]) -> list[Block]:
    if not paired:
        return []
    rows: list[list[Cell]] = [
        [
            pair.run,
            pair.part,
            pair.shared,
            pair.only_run,
            pair.only_against,
            f"{100 * pair.difference:+.2f} ({100 * pair.interval[0]:+.1f} to {100 * pair.interval[1]:+.1f})",
            float(f"{pair.p:.2g}"),
        ]
        for pair in paired
    ]
    against = paired[0].against
    columns = ("run", "part", "pictures", "only it is right", f"only {against} is", "difference, points", "p")
    same = all(pair.same_set for pair in paired)
    pictures = "All runs held out the same pictures, byte for byte" if same else "Only pictures that both held out"
    how = (
        f"{pictures}: what counts are those that only one of the two names rightly. Intervals are Bonett and Price's, "
        "p is McNemar's, exact."
    )
    return [Heading(f"Picture by picture, against {against}"), Paragraph(how), Table(columns, rows)]


def _curves(runs: Sequence[RunSummary], logs: Sequence[Log]) -> list[Block]:
    steps = [_steps(log) for log in logs]
    evaluated = [_evaluations(log, each) for log, each in zip(logs, steps, strict=True)]
    unit, divisor = ("seconds", 1) if max(run.seconds for run in runs) < 120 else ("minutes", 60)
    panels = [
        ("held-out accuracy, %", "epochs", _lines(runs, evaluated, "epochs", "accuracy", up=100)),
        ("held-out accuracy, %", f"{unit} of steps", _lines(runs, evaluated, "seconds", "accuracy", divisor, 100)),
        ("held-out loss", "epochs", _lines(runs, evaluated, "epochs", "loss")),
        ("training loss", "epochs", _lines(runs, steps, "epochs", "loss")),
    ]
    figures = [
        Figure(lines_picture(lines, title, label), f"{title} of each run over {label}", density=DENSITY)
        for title, label, lines in panels
        if any(len(line.x) for line in lines)
    ]
    caution = "The training loss is of pictures as they are varied and mixed, which runs may do differently."
    return [Heading("How they learned"), Figures(figures, width=400), Paragraph(caution)] if figures else []


def _lines(
    runs: Sequence[RunSummary], logs: Sequence[Log], by: str, key: str, divisor: float = 1, up: float = 1
) -> list[Line]:
    """A line for each run: its rows' `key`, times `up`, over `by`, by `divisor`."""
    told = [[row for row in log if row.get(key) is not None] for log in logs]
    return [
        Line(run.name, [row[by] / divisor for row in rows], [up * row[key] for row in rows])
        for run, rows in zip(runs, told, strict=True)
    ]


def _steps(log: Log) -> list[dict[str, Any]]:
    """The steps, with the epochs and seconds at the end of each."""
    rows = [row for row in log if row["kind"] == "step"]
    per_epoch = sum(row["epoch"] == 0 for row in rows)
    seconds = itertools.accumulate(row["seconds"] for row in rows)
    return [
        {**row, "epochs": (row["step"] + 1) / per_epoch, "seconds": spent}
        for row, spent in zip(rows, seconds, strict=True)
    ]


def _evaluations(log: Log, steps: Log) -> list[dict[str, Any]]:
    """The evaluations, with the epochs and seconds at the end of the step before."""
    times = [{"epochs": row["epochs"], "seconds": row["seconds"]} for row in steps]
    return [{**row, **times[row["step"] - 1]} for row in log if row["kind"] == "evaluation"]


def _cost_table(runs: Sequence[RunSummary]) -> Block:
    rows: list[list[Cell]] = [
        [
            run.name,
            run.model,
            run.parameters,
            float(f"{run.macs / 1e9:.3g}"),
            run.pictures[0],
            run.steps,
            tell_time(run.seconds),
            round(run.images_per_s),
        ]
        for run in runs
    ]
    columns = ("run", "model", "parameters", "GMACs", "pictures", "steps", "time", "images/s")
    return Table(columns, rows, "The time is that of the steps, images/s the median step's.")


def _classes(runs: Sequence[RunSummary], results: Sequence[Mapping[str, Any]]) -> list[Block]:
    """The classes whose F1 differs most between the runs that have them all."""
    tables = {
        run.name: {row["class_name"]: row["f1"] for row in content["per_class"]}
        for run, content in zip(runs, results, strict=True)
        if "per_class" in content
    }
    if len(tables) < 2:
        return []
    common = set.intersection(*(set(table) for table in tables.values()))
    spread = {name: [table[name] for table in tables.values()] for name in common}
    ranked = sorted(spread, key=lambda name: (min(spread[name]) - max(spread[name]), name))[:CLASSES]
    rows = [[name, *(round(100 * f1, 1) for f1 in spread[name])] for name in ranked]
    lead = "F1 of each class, in percent, on the run's own held-out pictures; the classes that differ most."
    return [Heading("Class by class"), Table(("class", *tables), rows, lead)] if rows else []


def _settings(comparison: Comparison) -> Block:
    if not comparison.settings:
        return Paragraph("Nothing: all settings are the same.")
    rows: list[list[Cell]] = [[name, *map(_text, values)] for name, values in comparison.settings.items()]
    return Table(("setting", *(run.name for run in comparison.runs)), rows)


def _text(value: Cell) -> Cell:
    return f"{value:.6g}" if isinstance(value, float) else value if value is None else str(value)
