"""vitkit convert: a checkpoint to another layout."""

from __future__ import annotations

from typing import Annotated

import typer

from vitkit.cli import options


def convert(
    source: Annotated[str, typer.Argument(help="Hub id[@revision], folder, or weight file with --preset.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The folder to write.")],
    to: Annotated[str | None, typer.Option("--to", help="native, hf (transformers) or timm. [native]")] = None,
    preset: options.PresetName = None,
    revision: options.Revision = None,
    image_size: options.ImageSize = None,
    patch_size: options.PatchSize = None,
    parity: options.Parity = None,
    num_classes: Annotated[
        int | None, typer.Option("--num-classes", help="A new head of so many outputs, zero at the start.", min=0)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
) -> int:
    """Write a checkpoint in another layout.

    Native folders carry their preprocessing and their proof; where timm has the same names, timm and transformers
    load them as they are.

    Pickled weights (.bin, .pth) are read here and nowhere else, as plain tensors only.
    """
    from vitkit.api.convert import convert
    from vitkit.api.show import describe_checkpoint

    done = convert(
        source,
        output,
        to=to or "native",
        preset=preset,
        revision=revision,
        image_size=image_size,
        patch_size=patch_size,
        parity=parity,
        num_classes=num_classes,
        overwrite=overwrite,
    )
    typer.echo(describe_checkpoint(done.checkpoint))
    typer.echo(f"written: {done.folder}")
    for note in done.notes:
        typer.echo(f"note: {note}")
    return 0
