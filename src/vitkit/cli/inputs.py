"""The pictures a command is given: arguments and standard input, checked before any model is loaded."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from vitkit.errors import DataError
from vitkit.image.decode import Blob, Picture, is_picture
from vitkit.image.listing import list_pictures

__all__ = ["look_ahead", "open_pictures"]


class Unlisted(Blob):
    """A folder or pattern on standard input that gives no picture: one that can't be read."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason

    def read(self) -> bytes:
        """Raises what is wrong with it."""
        raise OSError(self.reason)


def open_pictures(arguments: Sequence[str]) -> Iterator[Picture]:
    """The pictures that `arguments` stand for, in order, lazily; "-" is one path per line of stdin, or one picture.

    Raises DataError at once, before the first picture, for an empty folder, a glob that matches nothing, or no input.
    """
    for argument in arguments:
        if argument != "-":
            next(list_pictures([argument]), None)  # raises for what holds no picture
    pictures = itertools.chain.from_iterable(_standard_input() if a == "-" else list_pictures([a]) for a in arguments)
    return iter(pictures)


def look_ahead(pictures: Iterator[Picture], engine: str | None) -> tuple[list[Picture], Iterator[Picture]]:
    """The first few, for `--engine auto` to be tried on, and all of them; none for another engine."""
    from vitkit.engine.choose import AUTO, PICTURES

    first = list(itertools.islice(pictures, PICTURES)) if engine == AUTO else []
    return first, itertools.chain(first, pictures)


def _standard_input() -> Iterator[Picture]:
    # A process can be started without stdin. The type of `buffer` has no peek, its object does.
    stream: Any = io.BufferedReader(io.BytesIO()) if sys.stdin is None else sys.stdin.buffer
    head = stream.peek(16)
    # BMW.jpg begins like a bitmap; but every picture holds a zero byte soon, and no path does.
    if is_picture(head) and b"\0" in head:
        yield stream.read()
        return
    empty = True
    for line in stream:
        path = line.decode(sys.getfilesystemencoding(), "surrogateescape").rstrip("\r\n")
        if path:
            empty = False
            try:
                yield from list_pictures([path])
            except DataError as error:
                yield Unlisted(path, str(error))
    if empty:
        raise DataError("standard input holds no path; give one per line, or the bytes of one picture")
