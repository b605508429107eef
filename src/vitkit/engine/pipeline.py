"""Work on a stream in several threads at once: results in the stream's order, few of them held."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["batched", "in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int = 1
) -> Generator[Result, None, None]:
    """What `work` gives for each item, in order, by `threads` at a time; at most `threads + ahead` items are held.

    Items are drawn in the caller's thread, so any iterator will do, and only when a result is asked for. One that is
    ready isn't kept back while a slow stream is waited for. What `work` and the stream raise is raised in its place,
    after the results before it; then, and when the iterator is closed, nothing more is begun, and what was begun is
    waited for. With 0 threads the caller's works.
    """
    if not threads:
        yield from map(work, items)
        return
    held: deque[Future[Result]] = deque()
    stream = iter(items)
    with ThreadPoolExecutor(threads, "vitkit") as pool:
        try:
            while True:
                try:
                    held.append(pool.submit(work, next(stream)))
                except BaseException as end:
                    while held:
                        yield held.popleft().result()
                    if isinstance(end, StopIteration):
                        return
                    raise
                while held and (len(held) == threads + ahead or held[0].done()):
                    yield held.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one maybe shorter."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch
