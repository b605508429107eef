"""Boards that show a training while it runs, TensorBoard and trackio: fed with the log's rows, and with nothing else.

A board begins with the rows that the log kept, so that after a resume it holds each step once, whatever it had shown of
steps that were lost. Both are written on this machine, without a network.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vitkit.errors import ConfigError, list_faults, nearest

__all__ = ["BOARDS", "Board", "check_boards", "open_boards"]

PROJECT = "vitkit"
"""The project of all runs in trackio."""
FLUSH_S = 10
SILENT = ("kind", "step", "weights", "seconds")
"""Fields of a row that aren't drawn."""


class Board(Protocol):
    """What hears of every row of the log."""

    name: str
    """What it is called in BOARDS."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Shows one more row."""

    def close(self) -> None:
        """No more rows."""


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir RUN`. Their clock is the time of the steps."""

    name = "tensorboard"

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = folder / "tensorboard"
        shutil.rmtree(place, ignore_errors=True)
        self._writer: Any = SummaryWriter(str(place), flush_secs=FLUSH_S)
        self._clock = time.time()

    def add(self, row: Mapping[str, Any]) -> None:
        """A point for each of its values."""
        self._clock += row.get("seconds", 0.0)
        for name, value in _values(row).items():
            self._writer.add_scalar(name, value, _steps_done(row), walltime=self._clock)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


class Trackio:
    """A run of trackio's project "vitkit", under the folder's name, in its local store: `trackio show`."""

    name = "trackio"

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import trackio

        place = str(folder.resolve())
        with contextlib.redirect_stdout(sys.stderr):  # results alone go to stdout
            with contextlib.suppress(ValueError):  # no project yet
                for run in trackio.Api().runs(PROJECT):
                    if (run.config or {}).get("folder") == place:
                        run.delete()
            self._run = trackio.init(
                PROJECT,
                name=folder.resolve().name,
                config={**settings, "folder": place},
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def add(self, row: Mapping[str, Any]) -> None:
        """A point for each of its values."""
        self._run.log(_values(row), step=_steps_done(row))

    def close(self) -> None:
        """Writes what is left."""
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()


BOARDS: Mapping[str, Callable[[Path, Mapping[str, Any]], Board]] = {"tensorboard": TensorBoard, "trackio": Trackio}


def check_boards(names: Sequence[str]) -> None:
    """Raises ConfigError, before any work, for boards that are unknown or aren't installed."""
    faults = []
    for name in names:
        if name not in BOARDS:
            faults.append(f"log_to {name!r} is unknown{nearest(name, BOARDS)}; allowed: {', '.join(BOARDS)}")
        elif importlib.util.find_spec(name) is None:
            faults.append(f"log_to {name!r} isn't installed: pip install 'vitkit[{name}]'")
    if faults:
        raise ConfigError(list_faults(faults))


@contextlib.contextmanager
def open_boards(names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> Iterator[list[Board]]:
    """The boards called `names` for the run in `folder`, empty: what they showed of it before is forgotten."""
    with contextlib.ExitStack() as stack:
        boards = []
        for name in dict.fromkeys(names):
            boards.append(BOARDS[name](folder, settings))
            stack.callback(_close, boards[-1])
        yield boards


def _close(board: Board) -> None:
    # The log has all rows: what a board can't keep at the end is shown when the run is resumed.
    with contextlib.suppress(OSError):
        board.close()


def _steps_done(row: Mapping[str, Any]) -> int:
    """Steps after which the row is true: the log numbers steps from 0, and an evaluation by the steps before it."""
    return int(row["step"]) + int(row["kind"] == "step")


def _values(row: Mapping[str, Any]) -> dict[str, float]:
    group = "training" if row["kind"] == "step" else "held-out"
    return {f"{group}/{name}": value for name, value in row.items() if name not in SILENT}
