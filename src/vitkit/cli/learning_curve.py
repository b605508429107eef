"""vitkit learning-curve: a ViT against a ResNet, the more pictures they learn from."""

from __future__ import annotations

from typing import Annotated

import typer

from vitkit.cli import options


def learning_curve(
    data: Annotated[
        str,
        typer.Argument(help="A folder of class folders (or of train/ and val/), a CSV of path and label, or digits."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="A folder for the runs and the page about them.")],
    recipe: Annotated[
        list[str] | None, typer.Option("--recipe", help="A contender; repeat it for several. [vit and resnet]")
    ] = None,
    fraction: Annotated[
        list[float] | None,
        typer.Option("--fraction", help="Part of the training pictures; repeat it. [0.1, 0.3 and 1]"),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over all pictures; parts of them get as many steps.", min=1)
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Of every run, instead of equal steps.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Pictures per step.", min=1)] = None,
    image_size: options.ImageSize = None,
    seed: Annotated[int | None, typer.Option(help="Of initialisation, order, augmentation, dropout.", min=0)] = None,
    split_seed: Annotated[
        int | None, typer.Option("--split-seed", help="Of the held-out part and of the parts learnt from.", min=0)
    ] = None,
    val_fraction: Annotated[float | None, typer.Option("--val-fraction", help="Held-out part. [0.2]")] = None,
    device: options.Device = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode sets too large for memory.", min=0)] = None,
) -> int:
    """Compare a ViT with a ResNet on growing parts of your pictures.

    The same held-out pictures for all, the same work for each. A command that was stopped goes on where it stood.
    """
    from vitkit.api.learning_curve import CONTENDERS, FRACTIONS, PAGE, learning_curve
    from vitkit.cli.compare import as_text
    from vitkit.cli.train import StepProgress, tell_start

    flags = {"epochs": epochs, "minutes": minutes, "batch_size": batch_size, "seed": seed}
    with StepProgress() as progress:
        comparison = learning_curve(
            data,
            output,
            recipes=recipe or CONTENDERS,
            fractions=fraction or FRACTIONS,
            settings={name: value for name, value in flags.items() if value is not None},
            image_size=image_size,
            val_fraction=val_fraction,
            split_seed=split_seed,
            device=device,
            workers=workers or 0,
            on_read=progress.read,
            on_start=tell_start,
            on_step=progress.advance,
        )
    typer.echo(as_text(comparison))
    typer.echo(f"page: {output}/{PAGE}")
    return 0
