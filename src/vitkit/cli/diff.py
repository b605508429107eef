"""vitkit diff: two models, stage by stage from pixels to logits."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitkit.cli import options

if TYPE_CHECKING:
    from vitkit.evaluation.diff import Compared, Difference

AROUND = 2
"""Stages shown before and after the first that departs."""

SIZE = typer.Option(parser=options.parse_size, metavar="SIZE", help="Run it at another size: 384, or 256x192.")
PRESET = typer.Option(help="What its bare weight file is.")
PARITY = typer.Option(help="Run it as timm, hf (transformers) or original does.")
DTYPE = typer.Option(help="float32, bfloat16 or float16. [float64]")


def diff(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A folder, weight file or Hub id; timm:... or hf:... runs it there.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="What it is compared with, the same or another.")],
    pictures: Annotated[
        list[str] | None, typer.Argument(help="Shown beside generated ones: paths, URLs, folders, glob patterns.")
    ] = None,
    preset_a: Annotated[str | None, PRESET] = None,
    preset_b: Annotated[str | None, PRESET] = None,
    image_size_a: Annotated[Any, SIZE] = None,
    image_size_b: Annotated[Any, SIZE] = None,
    parity_a: Annotated[str | None, PARITY] = None,
    parity_b: Annotated[str | None, PARITY] = None,
    dtype_a: Annotated[str | None, DTYPE] = None,
    dtype_b: Annotated[str | None, DTYPE] = None,
    rtol: Annotated[
        float | None, typer.Option(help="Largest relative difference. [1e-7 and more by depth, in float64]")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Print every stage.")] = False,
    as_json: options.Json = False,
) -> int:
    """Name the first stage where two models part, and by how much.

    Both are walked from pixels to logits in float64; exit code 1 where they depart.
    """
    from vitkit.api.diff import diff
    from vitkit.cli.inputs import open_pictures

    difference = diff(
        a,
        b,
        open_pictures(pictures or []),
        preset_a=preset_a,
        preset_b=preset_b,
        image_size_a=image_size_a,
        image_size_b=image_size_b,
        parity_a=parity_a,
        parity_b=parity_b,
        dtype_a=dtype_a,
        dtype_b=dtype_b,
        rtol=rtol,
    )
    typer.echo(_as_json(difference) if as_json else _as_text(difference, every=every))
    return 0 if difference.agrees else 1


def _as_text(difference: Difference, *, every: bool) -> str:
    stages, departures = difference.stages, difference.departures
    near = {stages.index(stage) + step for stage in departures for step in range(-AROUND, AROUND + 1)}
    shown = [stage for i, stage in enumerate(stages) if every or i in near or (departures and i == len(stages) - 1)]
    width = max((len(_shape(stage)) for stage in shown), default=0)
    lines = [f"{difference.a} against {difference.b}: {difference}"]
    for stage in shown:
        mark = ">" if stage in departures else " "
        amounts = [f"{x:.2g}" if math.isfinite(x) else "-" for x in (stage.absolute, stage.relative)]
        agrees = "agrees" if stage.agrees else "departs"
        lines.append(f"{mark} {stage.name:<24} {_shape(stage):<{width}} {amounts[0]:>9} {amounts[1]:>9}  {agrees}")
    if every and difference.unnamed:
        lines.append(f"seen in one of them only: {', '.join(difference.unnamed)}")
    if difference.same_top1 is not None:
        lines.append(f"the same class for {difference.same_top1} of {difference.pictures} pictures")
    return "\n".join(lines)


def _shape(stage: Compared) -> str:
    same = stage.shape_a == stage.shape_b
    return f"{list(stage.shape_a)}" if same else f"{list(stage.shape_a)}, {list(stage.shape_b)}"


def _as_json(difference: Difference) -> str:
    stages = [
        {
            "name": stage.name,
            "shape_a": stage.shape_a,
            "shape_b": stage.shape_b,
            "absolute": stage.absolute if math.isfinite(stage.absolute) else None,
            "relative": stage.relative if math.isfinite(stage.relative) else None,
            "limit": stage.limit,
            "agrees": stage.agrees,
        }
        for stage in difference.stages
    ]
    departures = [{"stage": s.name, "cause": difference.causes.get(s.name, "")} for s in difference.departures]
    return json.dumps(
        {
            "a": difference.a,
            "b": difference.b,
            "agrees": difference.agrees,
            "departures": departures,
            "same_top1": difference.same_top1,
            "pictures": difference.pictures,
            "unnamed": difference.unnamed,
            "stages": stages,
        }
    )
