"""Work on a stream in several threads at once: results in the stream's order, few of them held."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

__all__ = ["batched", "begun", "in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int = 1
) -> Generator[Result, None, None]:
    """What `work` gives for each item, in order, by `threads` at a time; at most `threads + ahead` items are held.

    Items are drawn in the caller's thread, so any iterator will do, and only when a result is asked for: one that
    becomes ready while the stream is waited for comes with the next item. An error of `work` or the stream is raised in
    its place, after the results before it, an interrupt at once; then, and when the iterator is closed, nothing more is
    begun, and what was begun is waited for. With 0 threads the caller's works, and each result comes before the next
    item is drawn.
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
                except Exception as end:
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
    """Lists of `size` items, the last one maybe shorter; an error of the stream comes after the items before it."""
    batch, rest = begun(items, size)
    while batch:
        yield batch
        batch, rest = begun(rest, size)
    next(rest, None)  # raises the error that ended the stream, if one did


def begun(items: Iterable[Item], count: int) -> tuple[list[Item], Iterator[Item]]:
    """The first items, `count` or as many as there are, and the rest: drawing from it raises the stream's error."""
    stream, first = iter(items), []
    try:
        for item in islice(stream, count):
            first.append(item)
    except Exception as error:
        return first, _raising(error)
    return first, stream


def _raising(error: Exception) -> Generator[Any, None, None]:
    yield from ()
    raise error
