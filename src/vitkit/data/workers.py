"""Processes that decode pictures ahead of need. They return uint8 pixels and decide nothing. No torch in here.

Each worker has a pipe of its own. It ends when its pipe does, so it can't outlive the process that asks, however that
ends. A worker that dies costs speed and nothing else: what it owed is read in its stead.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from vitkit.data.store import Store
from vitkit.errors import ImageError
from vitkit.image.decode import Decoded

__all__ = ["Workers"]

logger = logging.getLogger("vitkit")


class Workers:
    """`count` spawned processes that take from `store`, which must be picklable."""

    def __init__(self, store: Store, count: int) -> None:
        self._store = store
        self._pipes: list[Connection | None] = []
        self._processes = []
        context = multiprocessing.get_context("spawn")  # the same everywhere; forking a process with threads isn't safe
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(store, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the end of the worker ends the pipe
            self._pipes.append(ours)
            self._processes.append(process)

    def take(self, batches: Iterable[NDArray[np.int64]]) -> Iterator[Decoded]:
        """Yields `store.take(indices)` for each of `batches`, in order; raises ImageError that names the picture.

        Left before its end, it closes the workers.
        """
        ahead = iter(batches)
        owed: deque[tuple[int, NDArray[np.int64]]] = deque()
        try:
            for worker, indices in zip(range(len(self._pipes)), ahead, strict=False):
                self._ask(worker, indices)
                owed.append((worker, indices))
            while owed:
                worker, indices = owed.popleft()
                pixels = self._receive(worker, indices)
                # Never more than one question to a worker: two that both wait to write would wait for ever.
                for following in itertools.islice(ahead, 1):
                    self._ask(worker, following)
                    owed.append((worker, following))
                yield pixels
        except BaseException:  # also GeneratorExit: what is owed must not answer the next question
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """False once closed."""
        return bool(self._pipes)

    def close(self) -> None:
        """Ends the workers; they hold nothing that could be lost."""
        for pipe in self._pipes:
            if pipe is not None:
                pipe.close()
        for process in self._processes:
            process.kill()
            process.join()
        self._pipes, self._processes = [], []

    def _ask(self, worker: int, indices: NDArray[np.int64]) -> None:
        pipe = self._pipes[worker]
        if pipe is not None:
            with contextlib.suppress(OSError):  # it has died: `_receive` will find that out in its turn
                pipe.send(indices)

    def _receive(self, worker: int, indices: NDArray[np.int64]) -> Decoded:
        pipe = self._pipes[worker]
        if pipe is None:
            return self._store.take(indices)
        try:
            answer = pipe.recv()
        except (EOFError, OSError):
            self._pipes[worker] = None
            logger.warning("decoding worker %d has died (out of memory?); its pictures are read without it", worker)
            return self._store.take(indices)
        if isinstance(answer, ImageError):
            raise answer
        pixels: Decoded = answer
        return pixels


def _serve(store: Store, pipe: Connection) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who asked decides what it means
    with contextlib.suppress(EOFError, OSError):
        while True:
            indices = pipe.recv()
            try:
                answer: Decoded | ImageError = store.take(indices)
            except ImageError as error:
                answer = error
            pipe.send(answer)
