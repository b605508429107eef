"""vitkit bench: how fast this machine answers with a model, engine by engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli import options
from vitkit.cli.output import aligned

if TYPE_CHECKING:
    from vitkit.api.bench import Bench


def bench(
    model: options.Model = None,
    engines: Annotated[str | None, typer.Option(help="Engines by commas: torch, onnx, openvino. [all of them]")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Precisions by commas: float32, bfloat16, float16. [those the hardware is made for]"),
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="A folder or glob pattern; the first 200 are shown. [generated ones]")
    ] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Add transformers and timm, with the same weights.")] = False,
    seconds: Annotated[float | None, typer.Option(help="For the race of all, starting apart. [40]")] = None,
    preset: options.PresetName = None,
    revision: options.Revision = None,
    image_size: options.ImageSize = None,
    parity: options.Parity = None,
    device: options.Device = None,
    exact: options.Exact = False,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Draw the figures to this .png file, or write a .html page.")
    ] = None,
    as_json: options.Json = False,
) -> int:
    """Measure how fast this machine answers.

    Latency, throughput and memory of each engine and precision, measured in turns. About a minute for a small model.
    """
    from vitkit.api.bench import SECONDS, bench
    from vitkit.checkpoint.presets import DEFAULT_MODEL
    from vitkit.config import to_dict

    found = bench(
        DEFAULT_MODEL if model is None else model,
        engines=_split(engines),
        dtypes=_split(dtype),
        seconds=SECONDS if seconds is None else seconds,
        pictures=images,
        peers=peers,
        output=output,
        device=device,
        preset=preset,
        revision=revision,
        image_size=image_size,
        parity=parity,
        exact=exact,
        on_start=_tell_start,
    )
    typer.echo(json.dumps(to_dict(found)) if as_json else as_text(found))
    return 0


def as_text(bench: Bench) -> str:
    """The model, the machine, a table, and what it leaves out."""
    from vitkit.api.bench_page import COLUMNS, cells, tell_around, tell_machine, tell_model

    rows = [cells(row) for row in bench.rows if row.speed is not None]
    return "\n".join(
        (
            tell_model(bench),
            tell_machine(bench),
            "",
            *aligned([list(COLUMNS), *rows]),
            "",
            *(f"{row.runner} {row.dtype}: {row.note}" for row in bench.rows if row.note),
            *tell_around(bench),
        )
    )


def _split(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _tell_start(names: Sequence[str], seconds: float) -> None:
    typer.echo(f"measuring {', '.join(names)}: about {max(seconds, 60) / 60:.0f} min", err=True)
