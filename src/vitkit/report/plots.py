"""Plots as PNGs, drawn with matplotlib's objects alone: no pyplot, no display, no global state."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitkit.errors import ConfigError
from vitkit.report.drawing import (
    COLOURS,
    FAINT,
    INK,
    MARKERS,
    SOFT,
    calm,
    check_output,
    finish,
    import_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Points: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]

__all__ = [
    "confusion_matrix_picture",
    "curve_pictures",
    "curves_picture",
    "scatter_picture",
    "similarity_picture",
]

MOST_WHOLE = 40  # classes: up to here the whole matrix is drawn, its names readable
MOST_CONFUSED = 30  # classes drawn of more
MOST_NUMBERED = 20  # classes: up to here every cell has room for its count
NAME_LENGTH = 24
FIRST, SECOND = "#3b5bdb", "#e8590c"  # what was trained on, and what was held out
MOST_STEPS = 200  # points of a curve
MOST_DOTS = 40  # evaluations: up to here each has its dot
PANEL = (3.2, 2.5)  # inches
ROUND = (1, 2, 5, 10)  # steps between ticks, times a power of ten
MOST_NAMED = 32  # classes of a scatter plot: up to here the legend names them


@dataclass(frozen=True, eq=False)
class _Table:
    """The part of a confusion matrix that is drawn."""

    counts: NDArray[np.int64]
    """[S, S] of the classes drawn, with one more column for all the others where some aren't."""
    rows: list[str]
    columns: list[str]


def confusion_matrix_picture(
    confusion: Sequence[tuple[int, int, int]],
    class_names: Sequence[str],
    file: str | os.PathLike[str] | None = None,
) -> bytes:
    """The confusion matrix as a PNG, its bytes: a row for each class, a column for each class it was taken for.

    `confusion` holds (label, predicted class, pictures) for the pairs that occurred, as indices into `class_names`. The
    colour is the share of a row's pictures, on a scale of square roots, so that rare confusions show; blue is right,
    orange wrong, a grey row a class without pictures. Up to 40 classes are drawn whole; of more, the 30 of the
    commonest confusions, and all other classes as one last column. Written to `file` too, where given: raises
    ConfigError as `check_output` does.
    """
    if file is not None:
        check_output(file)
    table = _select(confusion, class_names)
    count = sum(times for _, _, times in confusion)
    correct = sum(times for label, said, times in confusion if label == said)
    title = f"top-1 {100 * correct / max(count, 1):.1f} % of {count:,} {'picture' if count == 1 else 'pictures'}"
    if len(table.rows) < len(class_names):
        title += f"; {len(table.rows)} of {len(class_names):,} classes, the most confused"
    return finish(_draw(table, title), file)


@dataclass(frozen=True)
class _Panel:
    """One quantity of a training's log."""

    title: str
    key: str
    percent: bool = False


PANELS = (
    _Panel("loss", "loss"),
    _Panel("accuracy, %", "accuracy", percent=True),
    _Panel("mean average precision, %", "mAP", percent=True),
    _Panel("learning rate", "lr"),
)


def curves_picture(rows: Sequence[Mapping[str, Any]], file: str | os.PathLike[str] | None = None) -> bytes:
    """Loss, accuracy and learning rate over the steps as a PNG, its bytes; written to `file` too, where given.

    `rows` are a training's log: "step" and any of "loss", "accuracy", "mAP" (0..1) and "lr". A row with
    "kind": "evaluation" speaks of held-out pictures, as do the keys "val_loss" and "val_accuracy". Of many training
    steps the mean is drawn, in at most 200 stretches, over a pale line of every step. What no row tells has no panel.
    Raises ConfigError where there is nothing to draw.
    """
    drawn = _curves(rows)
    figure = import_figure()(figsize=(PANEL[0] * len(drawn), PANEL[1]), layout="constrained")
    for number, curve in enumerate(drawn, start=1):
        _draw_curve(figure.add_subplot(1, len(drawn), number), *curve)
    return finish(figure, file, cut=False)


def curve_pictures(rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """The panels of `curves_picture` one by one, PNGs of equal size by their titles: for pages of any width."""
    pictures = {}
    for panel, training, held_out in _curves(rows):
        figure = import_figure()(figsize=PANEL, layout="constrained")
        _draw_curve(figure.add_subplot(), panel, training, held_out)
        pictures[panel.title] = finish(figure, None, cut=False)
    return pictures


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[tuple[_Panel, _Points, _Points]]:
    drawn = [(panel, *_series(rows, panel.key)) for panel in PANELS]
    drawn = [entry for entry in drawn if len(entry[1][0]) or len(entry[2][0])]
    if not drawn:
        raise ConfigError("no curve can be drawn: no row has a step and a loss, an accuracy or a learning rate")
    return drawn


def _draw_curve(axes: Axes, panel: _Panel, training: _Points, held_out: _Points) -> None:
    from matplotlib.ticker import MaxNLocator

    scale = 100 if panel.percent else 1
    steps, values = training
    if len(steps) > MOST_STEPS:
        axes.plot(steps, scale * values, color=FIRST, linewidth=0.5, alpha=0.25)
    # A stretch is at least one step: few steps are drawn as they are.
    stretches = [part for part in np.array_split(np.arange(len(steps)), MOST_STEPS) if len(part)]
    middles = np.array([[steps[part].mean(), values[part].mean()] for part in stretches]).reshape(-1, 2)
    one = "o" if len(steps) == 1 else "-"
    if len(steps):
        axes.plot(middles[:, 0], scale * middles[:, 1], one, color=FIRST, linewidth=1.4, markersize=4, label="training")
    if len(held_out[0]):
        dots = "o-" if len(held_out[0]) <= MOST_DOTS else "-"
        axes.plot(held_out[0], scale * held_out[1], dots, color=SECOND, linewidth=1.4, markersize=4, label="held out")
        # Beside the title, where no curve runs.
        place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.02, 1.0), "ncols": 2, "borderaxespad": 0.3}
        axes.legend(**place, fontsize=8, labelcolor=INK, frameon=False, handlelength=1.4, columnspacing=1.0)
    axes.set_title(panel.title, fontsize=10, loc="left", color=INK)
    axes.set_xlabel("step", fontsize=9, color=INK)
    calm(axes)
    axes.grid(color=FAINT, linewidth=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1, steps=ROUND))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
    axes.yaxis.set_major_formatter("{x:g}")
    if not panel.percent:
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if values.size and values.min() < 0 else 0)


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[_Points, _Points]:
    """(steps, values) of training and of held-out pictures."""
    training: list[tuple[float, float]] = []
    held_out: list[tuple[float, float]] = []
    for row in rows:
        if "step" not in row:
            continue
        evaluation = row.get("kind") == "evaluation"
        if row.get(key) is not None:
            (held_out if evaluation else training).append((row["step"], row[key]))
        if row.get(f"val_{key}") is not None:
            held_out.append((row["step"], row[f"val_{key}"]))
    first, second = (np.array(points, np.float64).reshape(-1, 2) for points in (training, held_out))
    return (first[:, 0], first[:, 1]), (second[:, 0], second[:, 1])


def scatter_picture(
    points: NDArray[np.floating],
    labels: Sequence[int] | NDArray[np.integer],
    class_names: Sequence[str],
    file: str | os.PathLike[str] | None = None,
    *,
    title: str = "",
) -> bytes:
    """Points [n, 2], such as embeddings brought to a plane, coloured by class, as a PNG, its bytes; with a legend.

    `labels` are indices into `class_names`. Axes have no numbers: only nearness means something. Of more than 32
    classes none is named. Written to `file` too, where given. Raises ConfigError for shapes that disagree.
    """
    labels = np.asarray(labels)
    if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1]:
        raise ConfigError(f"points are {list(points.shape)}, labels {list(labels.shape)}; allowed: [n, 2] and [n]")
    present = np.unique(labels)
    named = len(present) <= MOST_NAMED
    figure = import_figure()(figsize=(4.9 if named else 4.0, 3.7), layout="constrained")
    axes = figure.add_subplot()
    size = float(np.clip(6000 / max(len(points), 1), 5, 36))
    for place, label in enumerate(present):
        axes.scatter(
            points[labels == label, 0],
            points[labels == label, 1],
            s=size,
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[(place + place // len(COLOURS)) % len(MARKERS)],
            edgecolors="white",
            linewidths=0.3,
        )
    if named and len(present):
        for dots, name in zip(axes.collections, _shorten(present.tolist(), class_names), strict=True):
            dots.set_label(name.lstrip("_").replace("$", r"\$") or " ")  # a label that starts with _ is left out
        enlarged = max(1, 5 / size**0.5)
        figure.legend(loc="outside right upper", frameon=False, fontsize=9, markerscale=enlarged, handletextpad=0.2)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(FAINT)
    axes.set_title(title, fontsize=10, loc="left", color=INK, parse_math=False)
    return finish(figure, file)


def similarity_picture(
    positions: NDArray[np.floating], grid: tuple[int, int], file: str | os.PathLike[str] | None = None
) -> bytes:
    """The cosine similarity of every patch's position embedding to all others', as a PNG, its bytes.

    `positions` [h*w, D], row by row, without the prefix tokens' rows. A tile for each patch, at its place, shows its
    similarity to the whole grid (Dosovitskiy et al., 2021, figure 7). Written to `file` too, where given.
    """
    h, w = grid
    if positions.ndim != 2 or len(positions) != h * w:
        raise ConfigError(f"positions are {list(positions.shape)}; a grid of {h} x {w} patches needs [{h * w}, D]")
    units = positions / np.maximum(np.linalg.norm(positions, axis=1, keepdims=True), 1e-12)
    tiles = (units @ units.T).reshape(h, w, h, w)
    figure = import_figure()(figsize=(4.8, 4.0 * h * h / (w * w) + 0.5), layout="constrained")
    axes = figure.add_subplot()
    lowest = min(float(tiles.min()), 0.0)
    plane = tiles.transpose(0, 2, 1, 3).reshape(h * h, w * w)
    image = axes.imshow(plane, cmap="viridis", vmin=lowest, vmax=1, interpolation="nearest")
    for length, cut in ((w, axes.axvline), (h, axes.axhline)):
        for tile in range(1, length):
            cut(tile * length - 0.5, color="white", linewidth=float(np.clip(20 / length, 0.6, 5)))
    step = -(-max(h, w) // 8)
    for length, put in ((w, axes.set_xticks), (h, axes.set_yticks)):
        places = range(0, length, step)
        put([(place + 0.5) * length - 0.5 for place in places], [str(place + 1) for place in places])
    axes.set_xlabel("patch column", fontsize=9, color=INK)
    axes.set_ylabel("patch row", fontsize=9, color=INK)
    calm(axes)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2, colors=SOFT)
    bar.set_label("cosine similarity", fontsize=9, color=INK)
    return finish(figure, file)


def _select(confusion: Sequence[tuple[int, int, int]], class_names: Sequence[str]) -> _Table:
    whole = len(class_names) <= MOST_WHOLE
    shown = list(range(len(class_names))) if whole else _most_confused(confusion)
    place = {index: at for at, index in enumerate(shown)}
    counts = np.zeros((len(shown), len(shown) + (not whole)), np.int64)
    for label, said, times in confusion:
        if label in place:
            counts[place[label], place.get(said, -1)] += times
    rows = _shorten(shown, class_names)
    return _Table(counts, rows, rows if whole else [*rows, "all others"])


def _most_confused(confusion: Sequence[tuple[int, int, int]]) -> list[int]:
    """The classes of the commonest confusions, either way round; those with most pictures where that isn't enough."""
    pairs: Counter[tuple[int, int]] = Counter()
    pictures: Counter[int] = Counter()
    for label, said, times in confusion:
        pictures[label] += times
        if label != said:
            pairs[min(label, said), max(label, said)] += times
    ranked = itertools.chain.from_iterable(pair for pair, _ in pairs.most_common())
    known = dict.fromkeys(itertools.chain(ranked, (index for index, _ in pictures.most_common())))
    return sorted(itertools.islice(known, MOST_CONFUSED))


def _shorten(indices: Sequence[int], class_names: Sequence[str]) -> list[str]:
    """Names with room on an axis: the first synonym, cut, and the index where that leaves two alike."""
    firsts = [class_names[index].split(",")[0].strip() for index in indices]
    short = [name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1].rstrip()}…" for name in firsts]
    uses = Counter(short)
    return [name if uses[name] == 1 else f"{name} ({index})" for name, index in zip(short, indices, strict=True)]


def _draw(table: _Table, title: str) -> Figure:
    """Every cell has its size in inches; what stands around the matrix lies outside the figure, which grows by it."""
    counts = table.counts
    height, width = counts.shape
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    cell = float(np.clip(4.2 / height, 0.25, 0.85))  # inches
    figure = import_figure()(figsize=(width * cell, height * cell))
    axes = figure.add_axes((0, 0, 1, 1))
    _paint(figure, axes, shares)
    for row in np.flatnonzero(totals == 0):
        axes.axhspan(row - 0.5, row + 0.5, color="0.88", linewidth=0)
    if height <= MOST_NUMBERED:
        _write_counts(axes, counts, shares, cell)
    axes.grid(which="minor", color=FAINT, linewidth=0.6)
    axes.spines[:].set_color(FAINT)
    font = float(np.clip(cell * 28, 7, 10))
    # A letter is about 0.6 of the font's size wide, a point 1/72 inch.
    crowded = max(map(len, table.columns)) * 0.6 * font / 72 > cell
    axes.set_xticks(range(width), table.columns, fontsize=font, parse_math=False, rotation=90 if crowded else 0)
    axes.set_yticks(range(height), table.rows, fontsize=font, parse_math=False)
    axes.set_xticks(np.arange(width + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(height + 1) - 0.5, minor=True)
    axes.tick_params(which="both", length=0, labelcolor=INK)
    axes.set_xlabel("predicted class", fontsize=10, color=INK)
    axes.set_ylabel("class", fontsize=10, color=INK)
    axes.set_title(title, fontsize=10, loc="left", color=INK, pad=58)  # points: above the colours' scales
    return figure


def _paint(figure: Figure, axes: Axes, shares: NDArray[np.float64]) -> None:
    """Colours the cells, and explains the colours above them."""
    from matplotlib.colors import PowerNorm

    right = np.eye(*shares.shape) == 1
    width, height = figure.get_size_inches()
    for place, (kind, hidden, colours) in enumerate((("right", ~right, "Blues"), ("confused", right, "Oranges"))):
        image = axes.imshow(
            np.ma.masked_where(hidden | (shares == 0), shares),
            cmap=colours,
            norm=PowerNorm(0.5, vmin=0, vmax=1),
            interpolation="nearest",
        )
        scale = figure.add_axes((2.2 * place / width, 1 + 0.36 / height, 1.75 / width, 0.1 / height))
        bar = figure.colorbar(image, cax=scale, orientation="horizontal")
        bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0", "5 %", "20 %", "50 %", "100 %"])
        bar.outline.set_visible(False)
        scale.tick_params(labelsize=8, length=2, colors=SOFT)
        scale.set_title(f"{kind}, share of the row", fontsize=8, loc="left", color=INK, pad=3)


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], cell: float) -> None:
    digits = max(len(f"{counts.max():,}"), 2)
    font = float(np.clip(min(72 / (0.7 * digits), 32) * cell, 5, 10))
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.4 else "0.15"
        text = f"{counts[row, column]:,}"
        axes.text(column, row, text, ha="center", va="center_baseline", fontsize=font, color=colour)
