"""Options that several commands share: one spelling, one meaning, no default of their own."""

from __future__ import annotations

from typing import Annotated

import typer

from vitkit.errors import ConfigError

__all__ = [
    "BatchSize",
    "Device",
    "Dtype",
    "ImageSize",
    "Json",
    "Model",
    "Pictures",
    "PresetName",
    "Revision",
    "parse_size",
]

Pictures = Annotated[
    list[str],
    typer.Argument(help="Paths, http(s) URLs, folders, glob patterns; - reads paths (or one picture) from stdin."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Hub id[@revision], folder, or weight file with --preset. [google/vit-base-patch16-224]"
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub id.")]
PresetName = Annotated[str | None, typer.Option("--preset", help="What a bare weight file is; list: vitkit models.")]
ImageSize = Annotated[
    str | None, typer.Option("--image-size", help="Run at another size: 384, or 256x192 (height x width).")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps. [auto]")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [float32]")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Pictures run at once. [8]", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def parse_size(text: str | None) -> int | tuple[int, int] | None:
    """An --image-size: "384" or "256x192" (height x width)."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ConfigError(f"--image-size is {text!r}; allowed: a number of pixels, or HEIGHTxWIDTH such as 256x192")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
