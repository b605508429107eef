"""vitkit models: what vitkit knows by name, and what a checkpoint is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vitkit.cli import options
from vitkit.errors import ConfigError


def models(
    pattern: Annotated[str | None, typer.Argument(help="Shell pattern of preset names, such as 'vit_base*'.")] = None,
    show: Annotated[
        str | None, typer.Option("--show", help="Say all about one preset, folder, weight file or Hub id.")
    ] = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="With --show: the tensors that the file calls otherwise.")
    ] = False,
    code: Annotated[
        str | None, typer.Option("--code", help="Print one preset, folder, weight file or Hub id as one PyTorch file.")
    ] = None,
    preset: options.PresetName = None,
    revision: options.Revision = None,
    parity: options.Parity = None,
    as_json: options.Json = False,
) -> int:
    """List published models, or show a checkpoint.

    --show says what one checkpoint is, and which of its files said so. --code prints a model's whole code, which needs
    torch alone and takes the tensors of a native checkpoint by their names.
    """
    if code is not None:
        if pattern is not None or show is not None or parity is not None or tensors or as_json:
            raise ConfigError("--code goes with a name, --preset and --revision alone")
        from vitkit.api.code import code as written

        typer.echo(written(code, revision=revision, preset=preset), nl=False)
        return 0
    if show is not None:
        if pattern is not None:
            raise ConfigError("give a pattern or --show, not both")
        typer.echo(_show(show, preset, revision, parity, tensors=tensors, as_json=as_json))
        return 0
    if tensors or parity is not None:
        raise ConfigError("--tensors and --parity are for what --show names")
    from vitkit.api.models import list_models

    rows = list_models(pattern or "*")
    if not rows:
        raise ConfigError(f"no preset matches {pattern!r}; list all: vitkit models")
    if as_json:
        from vitkit.config import to_dict

        typer.echo(json.dumps(to_dict(rows)))
        return 0
    width = max(24, *(len(row.name) + 2 for row in rows))
    typer.echo(
        f"{'name':<{width}}{'parameters':>13}{'GMACs':>8}{'size':>6}{'tokens':>8}{'top-1':>8}  weights on the Hub"
    )
    for row in rows:
        top1 = "-" if row.top1 is None else f"{row.top1:.2f}"
        typer.echo(
            f"{row.name:<{width}}{row.parameters:>13,}{row.gmacs:>8.2f}{row.image_size[0]:>6}{row.tokens:>8}{top1:>8}"
            f"  {row.hub_id or '-'}"
        )
    return 0


def _show(
    source: str, preset: str | None, revision: str | None, parity: str | None, *, tensors: bool, as_json: bool
) -> str:
    from vitkit.api.show import describe_checkpoint, describe_preset, show, show_data
    from vitkit.checkpoint.presets import PRESETS
    from vitkit.config import to_dict

    if source in PRESETS and not Path(source).exists():
        return json.dumps({"preset": source, **to_dict(PRESETS[source])}) if as_json else describe_preset(source)
    checkpoint = show(source, preset=preset, revision=revision, parity=parity)
    return json.dumps(show_data(checkpoint)) if as_json else describe_checkpoint(checkpoint, tensors=tensors)
