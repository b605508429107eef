"""vitkit verify: a checkpoint's proof, repeated on this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vitkit.cli import options


def verify(
    model: Annotated[str, typer.Argument(help="A native folder, or a Hub id[@revision] of one.")],
    revision: options.Revision = None,
    as_json: options.Json = False,
) -> int:
    """Prove that a model answers here as before.

    Pixels, every block and the logits are compared with those it had where it was written; exit code 1 names the
    first stage that departs.
    """
    from vitkit.api.verify import verify

    result = verify(model, revision=revision)
    departure = result.departure
    if as_json:
        stages = [
            {"name": s.name, "difference": s.difference, "tolerance": s.tolerance, "agrees": s.agrees}
            for s in result.stages
        ]
        typer.echo(json.dumps({"model": result.source, "agrees": result.agrees, "stages": stages}))
    elif departure is None:
        largest = max(result.stages, key=lambda stage: stage.difference / stage.tolerance)
        typer.echo(
            f"{result.source}: proved, {len(result.stages)} stages agree; "
            f"the largest difference is {largest.difference:.1e} at {largest.name} (allowed {largest.tolerance:.0e})"
        )
    else:
        typer.echo(
            f"{result.source}: departs first at {departure.name}, "
            f"by {departure.difference:.1e} (allowed {departure.tolerance:.0e})"
        )
    return 0 if departure is None else 1
