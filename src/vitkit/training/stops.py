"""Signals that ask a training to end after its step, with everything saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

__all__ = ["Stop", "stopping"]


@dataclass
class Stop:
    """Set by a signal, read between steps."""

    signum: int = 0


@contextmanager
def stopping() -> Iterator[Stop]:
    """SIGINT and SIGTERM ask the loop to end after its step; a second one ends the process as usual."""
    stop = Stop()
    previous: dict[int, Any] = {}

    def ask(signum: int, frame: FrameType | None) -> None:
        stop.signum = signum
        signal.signal(signum, previous[signum])

    for signum in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[signum] = signal.signal(signum, ask)
        except ValueError:  # not the main thread: the caller's handlers stay
            break
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
