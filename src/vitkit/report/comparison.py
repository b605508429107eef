"""Several trainings in one plot: curves overlaid, scores with their intervals, scores by the size of the data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vitkit.report.drawing import COLOURS, FAINT, INK, MARKERS, calm, finish, import_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Line", "lines_picture", "scores_picture", "sizes_picture"]

WIDTH, WIDE = 4.4, 5.4  # inches
MOST_POINTS = 150  # of a line: more are drawn as means of as many stretches
MOST_DOTS = 40  # points: up to here each has its dot
LETTERS = 34  # of a name in a legend


@dataclass(frozen=True)
class Line:
    """One run's values, by epochs or minutes."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def lines_picture(lines: Sequence[Line], title: str, x_label: str) -> bytes:
    """A PNG of lines over each other, a colour and a mark for each. A line without points keeps its colour."""
    figure = import_figure()(figsize=(WIDTH, 2.9 + 0.18 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    for line, look in zip(lines, _looks(), strict=False):
        x, y = _thinned(line.x), _thinned(line.y)
        marks = {} if len(line.x) <= MOST_DOTS else {"marker": "none"}
        axes.plot(x, y, linewidth=1.5, markersize=4.5, label=_label(line.name), **{**look, **marks})
    _furnish(axes, title, x_label)
    figure.legend(loc="outside lower left", frameon=False, fontsize=8, labelcolor=INK)
    return finish(figure, None, cut=False)


def scores_picture(scores: Mapping[str, tuple[float, float, float] | None], title: str) -> bytes:
    """A PNG of a row for each name: its (score, lower end, upper end), in percent of 0..1; None leaves it empty."""
    figure = import_figure()(figsize=(WIDE, 0.75 + 0.32 * len(scores)), layout="constrained")
    axes = figure.add_subplot()
    for row, (found, look) in enumerate(zip(scores.values(), _looks(), strict=False)):
        if found is None:
            continue
        score, low, high = found
        reach = [[100 * (score - low)], [100 * (high - score)]]
        axes.errorbar([100 * score], [row], xerr=reach, capsize=3, linewidth=1.6, markersize=6, **look)
    axes.set_yticks(range(len(scores)), [_label(name) for name in scores])
    axes.set_ylim(len(scores) - 0.5, -0.5)
    _furnish(axes, title, "")
    axes.tick_params(axis="y", labelsize=9)
    return finish(figure, None, cut=False)


def sizes_picture(kinds: Mapping[str, Sequence[tuple[int, float, float, float]]], title: str) -> bytes:
    """A PNG of a line for each model: (pictures learnt from, score, lower end, upper end), in percent of 0..1."""
    figure = import_figure()(figsize=(WIDE, 3.4 + 0.18 * len(kinds)), layout="constrained")
    axes = figure.add_subplot()
    for (name, points), look in zip(kinds.items(), _looks(), strict=False):
        count, score, low, high = np.array(sorted(points), np.float64).T
        reach = 100 * np.stack([score - low, high - score])
        axes.errorbar(
            count, 100 * score, yerr=reach, capsize=3, linewidth=1.6, markersize=6, label=_label(name), **look
        )
    counts = sorted({point[0] for points in kinds.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts], minor=False)
    axes.minorticks_off()
    _furnish(axes, title, "pictures to learn from")
    figure.legend(loc="outside lower left", frameon=False, fontsize=9, labelcolor=INK)
    return finish(figure, None, cut=False)


def _looks() -> itertools.cycle[dict[str, Any]]:
    """Colour and mark of the first run, the second, ...: the same in every plot."""
    return itertools.cycle(
        {"color": colour, "marker": MARKERS[place % len(MARKERS)]} for place, colour in enumerate(COLOURS)
    )


def _thinned(values: Sequence[float]) -> list[float]:
    parts = np.array_split(np.asarray(values, np.float64), min(len(values), MOST_POINTS) or 1)
    return [float(part.mean()) for part in parts if len(part)]


def _label(name: str) -> str:
    short = name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}"
    return short.lstrip("_").replace("$", r"\$") or " "  # matplotlib leaves a label that starts with _ out


def _furnish(axes: Axes, title: str, x_label: str) -> None:
    axes.set_title(title, fontsize=10, loc="left", color=INK, parse_math=False)
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.grid(color=FAINT, linewidth=0.5)
    calm(axes)
