"""Drawings of pictures, a PNG each: the loop over them, and the files they go to."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from vitkit.cli.inputs import open_pictures
from vitkit.cli.output import Progress, complain
from vitkit.engine.predict import Predictor
from vitkit.errors import ConfigError, ImageError
from vitkit.files import check_new_file
from vitkit.image.decode import Picture, describe
from vitkit.image.fetch import is_url

__all__ = ["Drawing", "Drawings"]


class Drawing(Protocol):
    """What a picture becomes."""

    @property
    def caption(self) -> str: ...

    def save(self, file: str | os.PathLike[str]) -> None: ...


D = TypeVar("D", bound=Drawing)


class Drawings:
    """Pictures to be drawn, and the place of each PNG: the one file, or "<name>-<ending>.png" in a folder."""

    def __init__(self, pictures: Sequence[str], output: str, *, ending: str) -> None:
        """Checks both before any model is loaded: DataError for no pictures, ConfigError for where they can't go."""
        inputs = open_pictures(pictures)
        first = list(itertools.islice(inputs, 2))
        self._pictures = itertools.chain(first, inputs)
        self._ending = ending
        self._used: set[str] = set()
        self._folder = Path(output)
        self._file = self._one_file(output, first)

    def make(
        self, vit: Predictor, draw: Callable[[Picture], D], facts: Callable[[D], dict[str, object]], *, as_json: bool
    ) -> int:
        """Draws, saves and names them all, and returns the exit code; JSON lines hold the `facts` of each."""
        common = {"model": vit.report.source, "engine": vit.engine.name}
        with Progress(results_shown=sys.stdout.isatty()) as progress:
            for picture in self._pictures:
                name = picture if isinstance(picture, str) else describe(picture)
                try:
                    drawn = draw(picture)
                except ImageError as error:
                    progress.advance(failed=True)
                    complain(str(error))
                    if as_json:
                        _line({"picture": name, "error": str(error), **common})
                    continue
                file = self._place(picture)
                drawn.save(file)
                progress.advance()
                if as_json:
                    _line({"picture": name, "output": str(file), **facts(drawn), **common})
                else:
                    sys.stdout.write(f"{describe(picture)}\n  {drawn.caption}\n  {file}\n")
        return 1 if progress.failed else 0

    def _one_file(self, output: str, first: Sequence[Picture]) -> Path | None:
        """The file that `output` names, None for a folder; of `first`, two show that there are several pictures."""
        path = self._folder
        if path.is_dir():
            check_new_file(path / "any.png")
            return None
        check_new_file(path)
        if output.endswith(("/", os.sep)) or not path.suffix:
            return None
        if path.suffix.lower() != ".png":
            raise ConfigError(f"--output is {output!r}; allowed: a .png file, or a folder, which may end in /")
        if len(first) != 1:
            raise ConfigError(f"--output {output!r} is one file, but there are several pictures; name a folder")
        if isinstance(first[0], str) and path.exists() and path.samefile(first[0]):
            raise ConfigError(f"--output {output!r} is the picture itself; name another file")
        return path

    def _place(self, picture: Picture) -> Path:
        """The file for the next picture, no two the same; makes the folder."""
        if self._file is not None:
            return self._file
        self._folder.mkdir(exist_ok=True)
        stem = _stem(picture)
        names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
        name = next(name for name in names if name.casefold() not in self._used)
        self._used.add(name.casefold())
        return self._folder / f"{name}-{self._ending}.png"


def _stem(picture: Picture) -> str:
    if not isinstance(picture, str | os.PathLike):
        return "picture"
    text = os.fsdecode(picture)
    return Path(text.split("?")[0] if is_url(text) else text).stem or "picture"


def _line(content: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
