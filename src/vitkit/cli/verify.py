"""vitkit verify: the proof of a checkpoint or an export, repeated on this machine."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli import options

if TYPE_CHECKING:
    from vitkit.api.verify import Comparison, Verification

NAMED = 10
"""Pictures that depart, shown."""


def verify(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="A native folder, a Hub id[@revision] of one, or an export's file.")
    ],
    images: Annotated[
        list[str] | None,
        typer.Option(help="Real pictures for an export and its float32 model: a path, folder or glob pattern."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model an export was made of. [where it says it comes from]")
    ] = None,
    preset: options.PresetName = None,
    parity: options.Parity = None,
    revision: options.Revision = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read a torch program (.pt2), which can run code from it.")
    ] = False,
    as_json: options.Json = False,
) -> int:
    """Prove that a model answers here as before.

    Pixels, every block and the logits are compared with those it had where it was written; of an export also what it
    says. Exit code 1 names what departs.
    """
    from vitkit.api.verify import verify
    from vitkit.cli.inputs import open_pictures
    from vitkit.cli.output import complain

    pictures = None if images is None else open_pictures(images)
    result = verify(
        source,
        revision=revision,
        images=pictures,
        model=model,
        preset=preset,
        parity=parity,
        allow_pickle=allow_pickle,
    )
    typer.echo(_as_json(result) if as_json else _as_text(result))
    errors = result.comparison.errors if result.comparison else ()
    for error in errors:
        complain(error)
    return 0 if result.agrees and not errors else 1


def _as_text(result: Verification) -> str:
    departure = result.departure
    if departure is not None:
        verdict = (
            f"departs first at {departure.name}, by {departure.difference:.1e} (allowed {departure.tolerance:.0e})"
        )
    elif not result.stages:
        verdict = "its graph can't be run as its metadata say"
    elif result.faults:
        verdict = "its graph answers as its proof says, but"
    else:
        largest = max(result.stages, key=lambda stage: stage.difference / stage.tolerance)
        verdict = (
            f"proved, {len(result.stages)} stages agree; "
            f"the largest difference is {largest.difference:.1e} at {largest.name} (allowed {largest.tolerance:.0e})"
        )
    lines = [f"{result.source}: {verdict}", *(f"  {fault}" for fault in result.faults)]
    return "\n".join(lines + ([] if result.comparison is None else _compared(result.comparison)))


def _compared(comparison: Comparison) -> list[str]:
    shown = comparison.departed[:NAMED]
    same = "" if comparison.same_top1 is None else f"the same class for {comparison.same_top1}, "
    chances = comparison.probability_difference
    odds = "" if chances is None else f"; of probabilities {chances:.1e}"
    answers = f"{comparison.difference:.1e} of the largest answer (allowed {comparison.tolerance:.0e}){odds}"
    return [
        f"{comparison.pictures} pictures against {comparison.model}: {same}largest difference {answers}",
        *(f"  another class: {name}" for name in shown),
        *([f"  and {len(comparison.departed) - NAMED} more"] if len(comparison.departed) > NAMED else []),
    ]


def _as_json(result: Verification) -> str:
    stages = [
        {
            "name": stage.name,
            "difference": _finite(stage.difference),
            "tolerance": stage.tolerance,
            "agrees": stage.agrees,
        }
        for stage in result.stages
    ]
    content: dict[str, object] = {
        "model": result.source,
        "agrees": result.agrees,
        "stages": stages,
        "faults": result.faults,
    }
    if result.comparison is not None:
        images = {name: _finite(value) for name, value in vars(result.comparison).items()}
        content["images"] = {**images, "agrees": result.comparison.agrees}
    return json.dumps(content, allow_nan=False)


def _finite(value: object) -> object:
    """The value itself; None for what JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
