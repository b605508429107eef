"""Where results and progress go: stdout or a whole file; a moving line, or now and then a plain one, on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from vitkit.files import replace_file, writing

if TYPE_CHECKING:
    from vitkit.api.written import Written
    from vitkit.engine.predict import Answer

__all__ = ["Progress", "aligned", "complain", "complain_of_failures", "is_first_process", "open_output"]

PLAIN_EVERY_S = 10.0


@contextlib.contextmanager
def open_output(path: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears at `path` only when it is complete."""
    if path is None:
        yield sys.stdout
        return
    # As on stdout: a file name that isn't UTF-8 is written as the bytes it is.
    with (
        writing(path),
        replace_file(path) as part,
        open(part, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        yield file


def is_first_process() -> bool:
    """Whether this is the one of `torchrun`'s processes that talks; so is one that stands alone."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def complain(text: str) -> None:
    """One line on stderr about an input that failed; of several processes, only the first one's."""
    if is_first_process():
        print(f"vitkit: {' '.join(text.split())}", file=sys.stderr)  # noqa: T201


def complain_of_failures(written: Written) -> int:
    """Says how many pictures of a whole run failed, and returns the exit code that says so."""
    if written.failed:
        complain(f"{written.failed:,} of {written.count:,} pictures failed")
    return 1 if written.failed else 0


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines: the first column to the left, the others to the right."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
        for row in rows
    ]


class Progress:
    """Counts pictures on stderr: a moving line with the rate on a terminal, else a plain line every ten seconds."""

    def __init__(self, what: str = "pictures", *, results_shown: bool = False) -> None:
        self.what = what
        self.total: int | None = None
        self._results_shown = results_shown
        self.done = 0
        self.failed = 0
        self._start = self._said = time.monotonic()
        self._bar: object | None = None

    def __enter__(self) -> Self:
        # Where the results themselves run down the same terminal, a bar would be written over.
        if sys.stderr.isatty() and not self._results_shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            rate = TextColumn("{task.fields[rate]}")
            self._bar = Bar(*columns, rate, console=Console(stderr=True), transient=True, redirect_stdout=False)
            self._task = self._bar.add_task(self.what, total=self.total, rate="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()  # type: ignore[attr-defined]
        elif self._said > self._start:
            self._say()

    def advance(self, *, failed: bool = False) -> None:
        """Counts one more picture."""
        self.done += 1
        self.failed += failed
        if self._bar is not None:
            self._bar.update(self._task, total=self.total, advance=1, rate=self._rate())  # type: ignore[attr-defined]
        elif not self._results_shown and time.monotonic() - self._said > PLAIN_EVERY_S:
            self._said = time.monotonic()
            self._say()

    def tell(self, answer: Answer) -> None:
        """Counts an answer's picture, and names it if it failed."""
        self.advance(failed=answer.error is not None)
        if answer.error is not None:
            complain(str(answer.error))

    def _rate(self) -> str:
        return f"{self.done / max(time.monotonic() - self._start, 1e-9):.1f}/s"

    def _say(self) -> None:
        total = "" if self.total is None else f" of {self.total:,}"
        failed = f", {self.failed:,} failed" if self.failed else ""
        print(f"{self.done:,}{total} {self.what}, {self._rate()}{failed}", file=sys.stderr)  # noqa: T201
