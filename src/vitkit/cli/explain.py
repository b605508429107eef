"""vitkit explain: which parts of a picture the answer rests on, drawn over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli import options

if TYPE_CHECKING:
    from vitkit.explain.explanation import Explanation


def explain(
    pictures: options.Pictures,
    output: options.PngOutput,
    model: options.Model = None,
    target: Annotated[
        str | None, typer.Option("--class", help="The class to explain, by name or index. [the predicted one]")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="auto, attention, rollout or gradient (differs between classes). [auto]")
    ] = None,
    as_json: options.Json = False,
    *,
    loading: options.Loading,
) -> int:
    """Show which parts of pictures the answers rest on: a PNG each, with the map laid over the picture."""
    from vitkit.api.explain import explain
    from vitkit.api.load import load
    from vitkit.checkpoint.presets import DEFAULT_MODEL
    from vitkit.cli.drawings import Drawings
    from vitkit.explain.maps import check_method

    method = method or "auto"
    check_method(method, target)
    drawings = Drawings(pictures, output, ending="why")
    vit = load(DEFAULT_MODEL if model is None else model, **loading)
    return drawings.make(
        vit, lambda picture: explain(vit, picture, target=target, method=method), _facts, as_json=as_json
    )


def _facts(found: Explanation) -> dict[str, object]:
    return {
        "method": found.method,
        "class_name": found.class_name,
        "index": found.index,
        "probability": found.probability,
    }
