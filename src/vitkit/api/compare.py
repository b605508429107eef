"""compare: runs side by side: scores with intervals, pictures that only one of them names rightly, cost, settings."""

from __future__ import annotations

import csv
import os
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit.api.compare_page import write_comparison
from vitkit.api.run_tables import setting_cells
from vitkit.api.runs import RUN_FILE, read_run
from vitkit.config import read_json, to_dict
from vitkit.errors import ConfigError, list_faults
from vitkit.evaluation.metrics import Interval
from vitkit.evaluation.paired import mcnemar, paired_interval
from vitkit.files import check_new_file
from vitkit.report.drawing import import_figure
from vitkit.report.html import Cell
from vitkit.training.log import read_log

__all__ = ["Comparison", "Paired", "RunSummary", "compare"]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What one run came to, and what it cost."""

    name: str
    folder: str
    model: str
    parameters: int
    macs: int
    """Multiply-accumulates of one picture's forward pass."""
    pictures: tuple[int, ...]
    """To learn from, held out and, where there are any, for the test."""
    steps: int
    """Done so far."""
    finished: bool
    seconds: float
    """Of all steps, without evaluations and checkpoints."""
    images_per_s: float
    """The median of all steps."""
    scores: Mapping[str, float]
    """Of a finished run the results of its last step, else its last evaluation."""
    intervals: Mapping[str, Interval]
    """95 % intervals of those scores that are shares of pictures."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A run against the first one, on the pictures that both held out."""

    run: str
    against: str
    part: str
    """"held-out" or "test"."""
    shared: int
    """Pictures in both runs' part, byte for byte and under the same class."""
    same_set: bool
    """Whether these are all of both."""
    only_run: int
    """Pictures that this run alone names rightly."""
    only_against: int
    difference: float
    """Accuracy of the run less that of the other, on the shared pictures."""
    interval: Interval
    p: float
    """McNemar's exact p."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Plain data, JSON-able through vitkit.config.to_dict. The first run is what the others are measured against."""

    runs: tuple[RunSummary, ...]
    paired: tuple[Paired, ...]
    settings: Mapping[str, tuple[Cell, ...]]
    """Those that aren't the same in all runs: each run's value, None where it has no such setting."""
    notes: tuple[str, ...]
    """What limits the comparison."""


@dataclass(frozen=True)
class _Run:
    """A run's folder, read."""

    summary: RunSummary
    settings: Mapping[str, Cell]
    results: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    answers: Sequence[Mapping[str, str]]


def compare(runs: Sequence[str | os.PathLike[str]], *, output: str | os.PathLike[str] | None = None) -> Comparison:
    """Compares the folders of two or more runs, finished or not; `output` is a page for it, one HTML file.

    Raises ConfigError for folders that are no runs, all at once, and for an output that can't be written.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise ConfigError(f"compare needs two or more runs, and was given {len(folders)}; name their folders")
    faults = [f"{folder} has no {RUN_FILE}" for folder in folders if not (folder / RUN_FILE).is_file()]
    if faults:
        raise ConfigError(f"{list_faults(faults)}; give the folders of runs that vitkit train made")
    if output is not None:
        check_new_file(output)
        import_figure()
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    read = [_read(folder, name) for folder, name in zip(folders, names, strict=True)]
    paired = [pair for run in read[1:] for part in ("held-out", "test") if (pair := _pair(run, read[0], part))]
    comparison = Comparison(
        runs=tuple(run.summary for run in read),
        paired=tuple(paired),
        settings=_differing([run.settings for run in read]),
        notes=tuple(_notes(read, paired)),
    )
    if output is not None:
        write_comparison(output, comparison, [run.log for run in read], [run.results for run in read])
    return comparison


def _read(folder: Path, name: str) -> _Run:
    spec = read_run(folder)
    log = read_log(folder / "log.jsonl") if (folder / "log.jsonl").is_file() else []
    steps = [row for row in log if row["kind"] == "step"]
    evaluations = [row for row in log if row["kind"] == "evaluation"]
    finished = (folder / "results.json").is_file()
    results = read_json(folder / "results.json") if finished else {}
    scores, intervals = _scores(results) if finished else (_floats(evaluations[-1]) if evaluations else {}, {})
    summary = RunSummary(
        name=name,
        folder=str(folder),
        model=spec.spec.spec.title,
        parameters=spec.spec.spec.num_parameters(),
        macs=spec.spec.spec.macs(),
        pictures=spec.pictures,
        steps=len(steps),
        finished=finished,
        seconds=sum(row["seconds"] for row in steps),
        images_per_s=statistics.median(row["images_per_s"] for row in steps) if steps else 0.0,
        scores=scores,
        intervals=intervals,
    )
    return _Run(summary, setting_cells(to_dict(spec)), results, log, _read_answers(folder / "predictions.csv"))


def _scores(results: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Interval]]:
    """The scores of results.json: of a classifier accuracy and F1, of another run whatever its objective says."""
    scores: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    for prefix, content in (("", results), ("test ", results.get("test", {}))):
        if "top1" in content:
            scores[f"{prefix}accuracy"] = content["top1"]
            intervals[f"{prefix}accuracy"] = tuple(content["top1_interval"])
            if "macro_f1" in content:
                scores[f"{prefix}macro F1"] = content["macro_f1"]
        else:
            scores |= {f"{prefix}{name}": value for name, value in _floats(content).items()}
    return scores, intervals


def _floats(table: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in table.items() if isinstance(value, float)}


def _read_answers(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with open(file, newline="", encoding="utf-8", errors="surrogateescape") as opened:
        return list(csv.DictReader(opened))


def _pair(run: _Run, first: _Run, part: str) -> Paired | None:
    """None where a run kept no answers of that part, or no picture is in both."""
    ours, theirs = _hits(run, part), _hits(first, part)
    shared = [(a, b) for key in ours.keys() & theirs.keys() for a, b in zip(ours[key], theirs[key], strict=False)]
    if not shared:
        return None
    only_run, only_first = (sum(a and not b for a, b in shared), sum(b and not a for a, b in shared))
    return Paired(
        run=run.summary.name,
        against=first.summary.name,
        part=part,
        shared=len(shared),
        same_set=len(shared) == sum(map(len, ours.values())) == sum(map(len, theirs.values())),
        only_run=only_run,
        only_against=only_first,
        difference=(only_run - only_first) / len(shared),
        interval=paired_interval(only_run, only_first, len(shared)),
        p=mcnemar(only_run, only_first),
    )


def _hits(run: _Run, part: str) -> dict[tuple[str, str], list[bool]]:
    """Whether each picture was named rightly, by its digest and class; pictures of equal bytes share a list."""
    hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in run.answers:
        if row["part"] == part:
            hits[row["digest"], row["class"]].append(row["said"] == row["class"])
    return hits


def _differing(settings: Sequence[Mapping[str, Cell]]) -> dict[str, tuple[Cell, ...]]:
    names = dict.fromkeys(name for table in settings for name in table)
    rows = {name: tuple(table.get(name) for table in settings) for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _notes(read: Sequence[_Run], paired: Sequence[Paired]) -> list[str]:
    notes = [f"{run.summary.name} isn't finished; its last evaluation is shown" for run in read if not run.results]
    first = read[0]
    held_out = {pair.run: pair for pair in paired if pair.part == "held-out"}
    for run in read[1:]:
        name, other = run.summary.name, first.summary.name
        if not (run.answers and first.answers):
            if "accuracy" in run.summary.scores and "accuracy" in first.summary.scores:
                notes.append(f"{name} and {other} can't be paired: one of them keeps no predictions.csv")
        elif name not in held_out:
            notes.append(f"{name} and {other} held out no picture in common: their scores are of different pictures")
        elif not held_out[name].same_set:
            shared = held_out[name].shared
            notes.append(f"{name} and {other} held out different pictures, {shared:,} in common: only these are paired")
    return notes
