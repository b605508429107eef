"""What every plot is drawn with: matplotlib's objects alone, colours all readers tell apart, PNGs for fine screens."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkit.errors import ConfigError
from vitkit.files import replace_file, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "DENSITY",
    "FAINT",
    "INK",
    "MARKERS",
    "SOFT",
    "calm",
    "check_output",
    "finish",
    "import_figure",
]

DENSITY = 2
"""Pixels of a plot for each of the 120 to the inch at which its text is easy to read, for sharp screens."""
DPI = 120 * DENSITY

INK, SOFT, FAINT = "0.2", "0.35", "0.85"
# Petroff, 2021, arXiv:2107.02270, ten colours that colour-blind readers tell apart too.
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKERS = "o^sDv"  # neighbours differ in it too; moved on by one after every ten colours, for 50 different looks


def check_output(file: str | os.PathLike[str]) -> None:
    """Raises ConfigError where no plot could be written to `file`: call it before long work."""
    path = Path(file)
    if path.suffix.lower() != ".png":
        raise ConfigError(f"can't write {str(path)!r}: plots are PNG files; let its name end in .png")
    if not path.parent.is_dir():
        raise ConfigError(f"can't write {str(path)!r}: there is no folder {str(path.parent)!r}; make it first")
    if path.is_dir():
        raise ConfigError(f"can't write {str(path)!r}: it is a folder; name a file in it")
    import_figure()


def calm(axes: Axes) -> None:
    """Small grey numbers, and lines only left and below."""
    axes.tick_params(labelsize=8, length=2, colors=SOFT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.set_axisbelow(True)


def finish(figure: Figure, file: str | os.PathLike[str] | None, *, cut: bool = True) -> bytes:
    """The figure as a PNG, its bytes, by default cut to what is drawn; in `file` too, whole or not at all."""
    buffer = io.BytesIO()
    box: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.08} if cut else {}
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", **box)
    if file is not None:
        check_output(file)
        with writing(file), replace_file(file) as part:
            part.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def import_figure() -> type[Figure]:
    """The class of matplotlib that pyplot would make; ConfigError where it isn't installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("plots need matplotlib, which isn't installed: pip install 'vitkit[plot]'") from None
    return Figure
