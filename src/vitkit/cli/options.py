"""Options that several commands share: one spelling, one meaning, no default of their own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypedDict, get_type_hints

import typer

from vitkit.errors import ConfigError

__all__ = [
    "BatchSize",
    "Device",
    "Dtype",
    "EngineName",
    "Exact",
    "GoOn",
    "ImageSize",
    "Json",
    "Loading",
    "Model",
    "Parity",
    "PatchSize",
    "Pictures",
    "PngOutput",
    "PresetName",
    "Revision",
    "spread",
]

Pictures = Annotated[
    list[str],
    typer.Argument(help="Paths, http(s) URLs, folders, glob patterns; - reads paths (or one picture) from stdin."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Hub id[@revision], folder, export (.onnx, .xml), or weight file with --preset. "
        "[google/vit-base-patch16-224]",
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub id.")]
PresetName = Annotated[str | None, typer.Option("--preset", help="What a bare weight file is; list: vitkit models.")]


def parse_size(text: str) -> int | tuple[int, int]:
    """An --image-size: "384" or "256x192" (height x width)."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ConfigError(f"--image-size is {text!r}; allowed: a number of pixels, or HEIGHTxWIDTH such as 256x192")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


if TYPE_CHECKING:
    ImageSize: TypeAlias = int | tuple[int, int] | None
else:  # typer takes no unions
    ImageSize = Annotated[
        Any,
        typer.Option(
            "--image-size",
            parser=parse_size,
            metavar="SIZE",
            help="Run at another size: 384, or 256x192 (height x width).",
        ),
    ]
PatchSize = Annotated[
    int | None, typer.Option("--patch-size", help="Cut smaller or larger patches: 8, in pixels.", min=1)
]
Parity = Annotated[
    str | None,
    typer.Option(
        "--parity", help="Run as timm, hf (transformers) or original (the authors' code) does, where that is known."
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps. [auto]")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [float32]")]
EngineName = Annotated[
    str | None, typer.Option("--engine", help="torch, onnx, openvino, or auto: the fastest here. [torch]")
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Pictures run at once. [8]", min=1)]
GoOn = Annotated[
    bool, typer.Option("--resume", help="Go on with what a run that didn't end left in OUTPUT.part; same call else.")
]
PngOutput = Annotated[str, typer.Option("--output", "-o", help="A .png file for one picture, or a folder for several.")]
Exact = Annotated[
    bool, typer.Option("--exact", help="Pictures to the bit as the model's own library prepares them: slower.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Loading(TypedDict, total=False):
    """The options of every command that loads a model to use it, and the keywords of `vitkit.load` that they are."""

    preset: PresetName
    revision: Revision
    image_size: ImageSize
    parity: Parity
    device: Device
    dtype: Dtype
    engine: EngineName


def spread(command: Callable[..., int]) -> Callable[..., int]:
    """The command as typer reads it: a parameter `loading` becomes an option for each key of `Loading`."""
    signature = inspect.signature(command, eval_str=True)
    if "loading" not in signature.parameters:
        return command
    keys = get_type_hints(Loading, include_extras=True)
    optional = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=keys[key]) for key in keys
    ]
    others = [parameter for name, parameter in signature.parameters.items() if name != "loading"]

    @functools.wraps(command)
    def spread_out(**given: Any) -> int:
        loading = {key: given.pop(key) for key in keys}
        return command(**given, loading=loading)

    spread_out.__signature__ = signature.replace(parameters=[*others, *optional])  # type: ignore[attr-defined]
    spread_out.__annotations__ = {}  # the signature has them
    return spread_out
