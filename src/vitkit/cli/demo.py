"""vitkit demo: the whole main job in a minute, on pictures that come along."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    output: Annotated[str | None, typer.Option("--output", "-o", help="The run's folder. [runs/digits-N]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of initialisation, order and augmentation.", min=0)] = None,
    split_seed: Annotated[int | None, typer.Option("--split-seed", help="Of the held-out fifth.", min=0)] = None,
) -> int:
    """Train on real handwritten digits, from scratch, and explain the result.

    scikit-learn's 1,797 digits: four fifths train, the held-out fifth is read once, after the last step.
    """
    from vitkit.api.train import train
    from vitkit.cli.train import StepProgress, tell_scores, tell_start

    with StepProgress() as progress:
        result = train(
            "digits",
            output=output,
            settings={"evaluate_every": 0} | ({} if seed is None else {"seed": seed}),
            split_seed=split_seed or 0,
            on_read=progress.read,
            on_start=tell_start,
            on_step=progress.advance,
        )
    typer.echo(f"{tell_scores(result)} after {result.seconds:.0f} s of training")
    typer.echo(f"open {result.folder / 'report.html'}: curves, mistakes, maps, embeddings, positions")
    typer.echo("try next:")
    typer.echo(f"  vitkit verify {result.model}")
    typer.echo(f"  vitkit classify PICTURE -m {result.model}")
    typer.echo("  vitkit train FOLDER_OF_CLASS_FOLDERS --minutes 10")
    return 0
