"""The one log of a training: a line of JSON per step and per evaluation, from which every curve and table is made."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from vitkit.errors import CheckpointError, DataError
from vitkit.files import replace_file, why_unwritten
from vitkit.training.boards import Board

__all__ = ["CLOCK_FIELDS", "Log", "read_log"]

CLOCK_FIELDS = ("seconds", "images_per_s")
"""Fields that tell the time; all others are equal in an interrupted and an uninterrupted training."""


class Log:
    """Appends to `path`, and tells the `boards`, left open; on a resume, rows past the checkpoint are dropped first.

    CheckpointError where a row can't be written: the training can go on from its last checkpoint all the same.
    """

    def __init__(self, path: Path, *, keep_steps: int, writes: bool = True, boards: Sequence[Board] = ()) -> None:
        self._path = path
        self._boards = boards
        self._file: TextIO | None = None
        if not writes:  # another process does
            return
        rows = []
        with _writing(path):
            if path.exists():
                rows = [row for row in read_log(path) if row["step"] < keep_steps or _ends(row, keep_steps)]
                with replace_file(path) as part:
                    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for row in rows:
            self._show(row)
        with _writing(path):
            self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  # open as long as the training

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """No more rows."""
        if self._file is not None:
            # Every row is flushed: what is left is one that couldn't be, and was said.
            with contextlib.suppress(OSError):
                self._file.close()

    def step(self, step: int, epoch: int, values: dict[str, float], seconds: float, pictures: int) -> None:
        """One optimiser step, numbered from 0."""
        clock = {"seconds": round(seconds, 6), "images_per_s": round(pictures / max(seconds, 1e-9), 2)}
        self._write({"kind": "step", "step": step, "epoch": epoch, **values, **clock})

    def evaluation(self, step: int, scores: dict[str, float], weights: str) -> None:
        """Scores after `step` steps of the "raw" weights or their moving average, "ema"."""
        self._write({"kind": "evaluation", "step": step, "weights": weights, **scores})

    def _write(self, row: dict[str, Any]) -> None:
        if self._file is not None:
            with _writing(self._path):
                self._file.write(json.dumps(row) + "\n")
            self._show(row)

    def _show(self, row: dict[str, Any]) -> None:
        for board in self._boards:
            with _writing(f"log_to {board.name}"):
                board.add(row)


@contextlib.contextmanager
def _writing(what: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{what}: can't be written ({why_unwritten(error)}); --resume goes on from the last checkpoint"
        ) from error


def _ends(row: dict[str, Any], steps: int) -> bool:
    """An evaluation after the last kept step belongs to it."""
    return bool(row["kind"] == "evaluation" and row["step"] == steps)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows; a last line that a kill cut short is left out. DataError for any other damage."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number == len(lines) - 1 and not line.endswith("\n"):
                break
            raise DataError(f"{path}: line {number + 1} isn't JSON; the log was edited or damaged") from None
    return rows
