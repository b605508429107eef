"""vitkit explain: which parts of a picture the answer rests on, drawn over it."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli import options
from vitkit.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitkit.explain.explanation import Explanation
    from vitkit.image.decode import Picture


def explain(
    pictures: options.Pictures,
    output: Annotated[
        str, typer.Option("--output", "-o", help="A .png file for one picture, or a folder for several.")
    ],
    model: options.Model = None,
    target: Annotated[
        str | None, typer.Option("--class", help="The class to explain, by name or index. [the predicted one]")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="auto, attention, rollout or gradient (differs between classes). [auto]")
    ] = None,
    as_json: options.Json = False,
    preset: options.PresetName = None,
    revision: options.Revision = None,
    image_size: options.ImageSize = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> int:
    """Show which parts of pictures the answers rest on: a PNG each, with the map laid over the picture."""
    from vitkit.api.explain import explain
    from vitkit.api.load import load
    from vitkit.checkpoint.presets import DEFAULT_MODEL
    from vitkit.cli.inputs import open_pictures
    from vitkit.cli.output import Progress, complain
    from vitkit.explain.maps import check_method
    from vitkit.image.decode import describe

    method = method or "auto"
    check_method(method, target)
    inputs = open_pictures(pictures)
    first = list(itertools.islice(inputs, 2))
    places = Places(output, first)
    vit = load(
        DEFAULT_MODEL if model is None else model,
        preset=preset,
        revision=revision,
        image_size=options.parse_size(image_size),
        device=device,
        dtype=dtype,
    )
    common = {"model": vit.report.source, "engine": vit.engine.name}
    with Progress(results_shown=sys.stdout.isatty()) as progress:
        for picture in itertools.chain(first, inputs):
            name = picture if isinstance(picture, str) else describe(picture)
            try:
                found = explain(vit, picture, target=target, method=method)
            except ImageError as error:
                progress.advance(failed=True)
                complain(str(error))
                if as_json:
                    _line({"picture": name, "error": str(error), **common})
                continue
            file = places.find(picture)
            found.save(file)
            progress.advance()
            if as_json:
                _line({"picture": name, "output": str(file), **_facts(found), **common})
            else:
                sys.stdout.write(f"{describe(picture)}\n  {found.caption}\n  {file}\n")
    return 1 if progress.failed else 0


class Places:
    """Where each picture's PNG goes: the one file, or "<name>-why.png" in a folder; no two pictures share a place."""

    def __init__(self, output: str, first: Sequence[Picture]) -> None:
        """Raises ConfigError for what can't be written, or for a file where `first` shows that there are several."""
        from vitkit.files import check_new_file

        path = Path(output)
        self.file: Path | None = None
        self.folder = path
        self._used: set[str] = set()
        if path.is_dir():
            check_new_file(path / "why.png")
            return
        check_new_file(path)
        if output.endswith(("/", os.sep)) or not path.suffix:
            return
        if path.suffix.lower() != ".png":
            raise ConfigError(f"--output is {output!r}; allowed: a .png file, or a folder, which may end in /")
        if len(first) != 1:
            raise ConfigError(f"--output {output!r} is one file, but there are several pictures; name a folder")
        if isinstance(first[0], str) and path.exists() and path.samefile(first[0]):
            raise ConfigError(f"--output {output!r} is the picture itself; name another file")
        self.file = path

    def find(self, picture: Picture) -> Path:
        """The file for the next picture; makes the folder."""
        if self.file is not None:
            return self.file
        self.folder.mkdir(exist_ok=True)
        stem = _stem(picture)
        names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
        name = next(name for name in names if name.casefold() not in self._used)
        self._used.add(name.casefold())
        return self.folder / f"{name}-why.png"


def _stem(picture: Picture) -> str:
    from vitkit.image.fetch import is_url

    if not isinstance(picture, str | os.PathLike):
        return "picture"
    text = os.fsdecode(picture)
    return Path(text.split("?")[0] if is_url(text) else text).stem or "picture"


def _facts(found: Explanation) -> dict[str, object]:
    return {
        "method": found.method,
        "class_name": found.class_name,
        "index": found.index,
        "probability": found.probability,
    }


def _line(content: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
