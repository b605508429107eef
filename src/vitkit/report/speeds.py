"""How fast several ways to run a model are, in one plot: how long one picture takes, and how many a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitkit.report.drawing import COLOURS, FAINT, INK, SOFT, calm, finish, import_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Lane", "speeds_picture"]

WIDTH, ROW = 8.6, 0.42  # inches
PALE = 0.35  # opacity
SMALL = 8  # points


@dataclass(frozen=True)
class Lane:
    """One way to run the model."""

    name: str
    group: str
    """What shares a colour: the engine."""
    latency_ms: tuple[float, float, float]
    """p50, p95 and p99 of a single picture."""
    images_per_s: tuple[float, float, float]
    """Of the model alone: the median, and the quartiles around it."""
    from_files: float
    """Pictures a second from files to answers."""


def speeds_picture(lanes: Sequence[Lane], title: str, subtitle: str) -> bytes:
    """A PNG of a row for each lane, one or more of them."""
    figure = import_figure()(figsize=(WIDTH, 1.75 + ROW * len(lanes)), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK, parse_math=False)
    left, right = figure.subplots(1, 2, sharey=True)
    groups = list(dict.fromkeys(lane.group for lane in lanes))
    colours = [COLOURS[groups.index(lane.group) % len(COLOURS)] for lane in lanes]
    _latencies(left, lanes, colours)
    _rates(right, lanes, colours)
    left.set_yticks(range(len(lanes)), [lane.name.replace("$", r"\$") for lane in lanes])
    left.set_ylim(len(lanes) - 0.45, -0.55)
    left.tick_params(axis="y", labelsize=9, labelcolor=INK)
    figure.supxlabel(subtitle, x=0.01, ha="left", fontsize=SMALL, color=SOFT, parse_math=False)
    return finish(figure, None, cut=False)


def _latencies(axes: Axes, lanes: Sequence[Lane], colours: Sequence[str]) -> None:
    """A dot at the median, a thick line to p95, a thin one to p99."""
    for row, (lane, colour) in enumerate(zip(lanes, colours, strict=True)):
        p50, p95, p99 = lane.latency_ms
        axes.plot([p50, p99], [row, row], color=colour, linewidth=1.2)
        axes.plot([p50, p95], [row, row], color=colour, linewidth=6, alpha=PALE, solid_capstyle="butt")
        axes.plot(p50, row, "o", color=colour, markersize=7)
        axes.annotate(f"{p50:.3g}", (p99, row), (5, 0), "data", "offset points", va="center", size=SMALL, color=INK)
    _furnish(axes, "one picture, from file to answer, ms", max(lane.latency_ms[2] for lane in lanes))
    axes.set_xlabel("dot: median; bar: to p95; line: to p99", fontsize=SMALL, color=SOFT, loc="left")


def _rates(axes: Axes, lanes: Sequence[Lane], colours: Sequence[str]) -> None:
    """Pale bars of the model alone, with quartiles; full ones in them from files."""
    for row, (lane, colour) in enumerate(zip(lanes, colours, strict=True)):
        rate, low, high = lane.images_per_s
        axes.barh(row, rate, 0.62, color=colour, alpha=PALE)
        axes.barh(row, lane.from_files, 0.3, color=colour)
        axes.plot([low, high], [row, row], color=INK, linewidth=1)
        end = max(high, lane.from_files)
        axes.annotate(f"{rate:.3g}", (end, row), (5, 0), "data", "offset points", va="center", size=SMALL, color=INK)
    _furnish(axes, "pictures a second", max(max(lane.images_per_s[2], lane.from_files) for lane in lanes))
    words = "wide: the model alone, its quartiles; narrow: from files"
    axes.set_xlabel(words, fontsize=SMALL, color=SOFT, loc="left")


def _furnish(axes: Axes, title: str, end: float) -> None:
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.set_xlim(0, 1.14 * end)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    calm(axes)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
