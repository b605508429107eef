"""Notices when another process of a training ends, and ends this one: otherwise it would wait for that one for ever."""

from __future__ import annotations

import logging
import os
import threading
import time

from torch._C._distributed_c10d import Store

__all__ = ["Watch"]

logger = logging.getLogger("vitkit")

BEAT_S = 1.0
PATIENCE_S, SHORT_PATIENCE_S = 20.0, 4.0
"""Silence after which a process counts as ended; the shorter one where it said so, or something in common failed."""
FAULT = "!"
"""What the last word of a process begins with that ends by a fault of the user's; it goes on with the fault."""
CLOSING_S = 3.0
"""What the process that may hold the common store leaves the others to come to the same verdict."""


class Watch(threading.Thread):
    """Every process says in the common store that it lives, once a second, and looks at what the others say."""

    def __init__(self, store: Store, rank: int, count: int) -> None:
        super().__init__(daemon=True, name="vitkit-watch")
        self._store = store.clone()  # type: ignore[attr-defined]  # a connection of its own: the other one may be waiting
        self._rank, self._count = rank, count
        self._over, self._judged = threading.Event(), threading.Event()
        self._patience = PATIENCE_S
        self._say(f"{time.time()}")

    def run(self) -> None:
        """Until it is stopped."""
        heard = [("", time.monotonic())] * self._count
        while not self._over.wait(BEAT_S):
            try:
                self._say(f"{time.time()}")
                words = [self._store.get(_key(rank)).decode() for rank in range(self._count)]
            except RuntimeError:  # the store is gone, and so is the process that held it
                self._end({0: heard[0][0]})
            now = time.monotonic()
            heard = [(word, since if word == old else now) for word, (old, since) in zip(words, heard, strict=True)]
            lost = {
                rank: word
                for rank, (word, since) in enumerate(heard)
                if now - since > (SHORT_PATIENCE_S if word.startswith(FAULT) else self._patience)
            }
            if lost and not self._over.is_set():
                self._end(lost)

    def judge(self) -> None:
        """After a computation in common failed: doesn't return where that is because a process has ended."""
        self._patience = SHORT_PATIENCE_S
        if self._judged.wait(SHORT_PATIENCE_S + 3 * BEAT_S):
            self.join()  # which ends the process

    def stop(self, fault: str | None = None) -> None:
        """Watches no more; a `fault` is what the others are to say of this process, if they don't end by themselves."""
        self._over.set()
        self.join()
        if fault is not None:
            self._say(FAULT + fault)
            if self._rank == 0:
                time.sleep(2 * BEAT_S)  # it may hold the store: the others are to read that first

    def _say(self, word: str) -> None:
        self._store.set(_key(self._rank), word)

    def _end(self, lost: dict[int, str]) -> None:
        """One line of the first process that is left, and the end of this one."""
        self._judged.set()
        rank, word = next(iter(lost.items()))
        speaker = next(each for each in range(self._count) if each not in lost)
        if self._rank == speaker and not (rank == 0 and word.startswith(FAULT)):  # which the first has said itself
            why = word.removeprefix(FAULT) if word.startswith(FAULT) else "killed, or its machine is gone"
            logger.critical(
                "vitkit: process %d of %d has ended (%s), and all end with it; the last good checkpoint is kept: go on "
                "with --resume",
                rank,
                self._count,
                why,
            )
        if self._rank == 0:
            time.sleep(CLOSING_S)
        os._exit(1)  # the main thread waits in a computation that can't be broken off


def _key(rank: int) -> str:
    return f"vitkit/alive/{rank}"
