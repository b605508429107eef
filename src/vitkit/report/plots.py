"""Plots as PNG files, drawn with matplotlib's objects alone: no pyplot, no display, no global state."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitkit.errors import ConfigError
from vitkit.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_output", "confusion_matrix_picture"]

MOST_WHOLE = 40  # classes: up to here the whole matrix is drawn, its names readable
MOST_CONFUSED = 30  # classes drawn of more
MOST_NUMBERED = 20  # classes: up to here every cell has room for its count
NAME_LENGTH = 24
DPI = 120


@dataclass(frozen=True, eq=False)
class _Table:
    """The part of a confusion matrix that is drawn."""

    counts: NDArray[np.int64]
    """[S, S] of the classes drawn, with one more column for all the others where some aren't."""
    rows: list[str]
    columns: list[str]


def check_output(file: str | os.PathLike[str]) -> None:
    """Raises ConfigError where no plot could be written to `file`: call it before long work."""
    path = Path(file)
    if path.suffix.lower() != ".png":
        raise ConfigError(f"can't write {str(path)!r}: plots are PNG files; let its name end in .png")
    if not path.parent.is_dir():
        raise ConfigError(f"can't write {str(path)!r}: there is no folder {str(path.parent)!r}; make it first")
    if path.is_dir():
        raise ConfigError(f"can't write {str(path)!r}: it is a folder; name a file in it")
    _import_figure()


def confusion_matrix_picture(
    confusion: Sequence[tuple[int, int, int]], class_names: Sequence[str], file: str | os.PathLike[str]
) -> None:
    """Writes the confusion matrix as a PNG: a row for each class, a column for each class it was taken for.

    `confusion` holds (label, predicted class, pictures) for the pairs that occurred, as indices into `class_names`. The
    colour is the share of a row's pictures, on a scale of square roots, so that rare confusions show; blue is right,
    orange wrong, a grey row a class without pictures. Up to 40 classes are drawn whole; of more, the 30 of the
    commonest confusions, and all other classes as one last column. Raises ConfigError as `check_output` does.
    """
    check_output(file)
    table = _select(confusion, class_names)
    count = sum(times for _, _, times in confusion)
    correct = sum(times for label, said, times in confusion if label == said)
    title = f"top-1 {100 * correct / max(count, 1):.1f} % of {count:,} {'picture' if count == 1 else 'pictures'}"
    if len(table.rows) < len(class_names):
        title += f"; {len(table.rows)} of {len(class_names):,} classes, the most confused"
    figure = _draw(table, title)
    with replace_file(file) as part:
        figure.savefig(part, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15, facecolor="white")


def _import_figure() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("plots need matplotlib, which isn't installed: pip install 'vitkit[plot]'") from None
    return Figure


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
    counts = table.counts
    height, width = counts.shape
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    cell = float(np.clip(6 / height, 0.28, 1.2))  # inches
    figure = _import_figure()(figsize=(width * cell + 3.4, height * cell + 2.4), layout="constrained")
    axes = figure.add_subplot()
    _paint(axes, shares, height_inches=height * cell)
    for row in np.flatnonzero(totals == 0):
        axes.axhspan(row - 0.5, row + 0.5, color="0.88", linewidth=0)
    if height <= MOST_NUMBERED:
        _write_counts(axes, counts, shares)
    axes.grid(which="minor", color="0.85", linewidth=0.6)
    axes.spines[:].set_color("0.85")
    font = float(np.clip(cell * 24, 6, 10))
    # A letter is about 0.6 of the font's size wide, a point 1/72 inch.
    crowded = max(map(len, table.columns)) * 0.6 * font / 72 > cell
    axes.set_xticks(range(width), table.columns, fontsize=font, parse_math=False, rotation=90 if crowded else 0)
    axes.set_yticks(range(height), table.rows, fontsize=font, parse_math=False)
    axes.set_xticks(np.arange(width + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(height + 1) - 0.5, minor=True)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("class")
    axes.set_title(title, fontsize=10)
    return figure


def _paint(axes: Axes, shares: NDArray[np.float64], *, height_inches: float) -> None:
    """Colours the cells, and explains the colours beside a matrix that many inches high."""
    from matplotlib.colors import PowerNorm

    right = np.eye(*shares.shape) == 1
    for kind, hidden, colours in (("confused", right, "Oranges"), ("right", ~right, "Blues")):
        image = axes.imshow(
            np.ma.masked_where(hidden | (shares == 0), shares),
            cmap=colours,
            norm=PowerNorm(0.5, vmin=0, vmax=1),
            interpolation="nearest",
        )
        bar = axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, shrink=min(0.85, 3 / height_inches))
        bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0", "1 %", "5 %", "20 %", "50 %", "100 %"])
        bar.ax.tick_params(labelsize=7, length=2)
        bar.ax.set_title(kind, fontsize=8)


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    digits = max(len(f"{counts.max():,}"), 2)
    font = float(np.clip(220 / (len(counts) * digits), 5.5, 11))
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.4 else "0.15"
        text = f"{counts[row, column]:,}"
        axes.text(column, row, text, ha="center", va="center", fontsize=font, color=colour)
