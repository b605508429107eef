"""vitkit train: one's own pictures to a classifier."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitkit.cli import options

if TYPE_CHECKING:
    from pathlib import Path

    from vitkit.api.train import RunSpec
    from vitkit.training.state import Progress

PLAIN_EVERY_S = 10.0


def train(
    data: Annotated[
        str | None,
        typer.Argument(help="A folder of class folders (or of train/ and val/), a CSV of path and label, or digits."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Checkpoint to start from; without one a new small model is made."),
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="The run's folder. [runs/NAME-N]")] = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Go on with this run's folder.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Settings in TOML; flags go over them.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training pictures.", min=1)] = None,
    minutes: Annotated[float | None, typer.Option(help="Plan the schedule to end after so many minutes.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Pictures per step.", min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    image_size: options.ImageSize = None,
    seed: Annotated[int | None, typer.Option(help="Of initialisation, order, augmentation, dropout.", min=0)] = None,
    split_seed: Annotated[int | None, typer.Option("--split-seed", help="Of the held-out part.", min=0)] = None,
    val_fraction: Annotated[float | None, typer.Option("--val-fraction", help="Held-out part. [0.2]")] = None,
    preset: options.PresetName = None,
    revision: options.Revision = None,
    device: options.Device = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16. [auto]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode sets too large for memory.")] = None,
    compile_step: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile the step.")] = None,
) -> int:
    """Train on your own pictures, from scratch or from a checkpoint.

    The run's folder holds its settings, log, curves, checkpoints and the trained model. Ctrl-C saves and exits;
    --resume goes on exactly where it stopped.
    """
    from vitkit.api.train import train
    from vitkit.cli.output import complain
    from vitkit.training.loop import Interrupted

    flags = {
        "epochs": epochs,
        "minutes": minutes,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "dtype": dtype,
        "compile": compile_step,
    }
    with StepProgress() as progress:
        try:
            result = train(
                data,
                model=model,
                preset=preset,
                revision=revision,
                image_size=options.parse_size(image_size),
                output=output,
                resume=resume,
                recipe=recipe,
                settings={name: value for name, value in flags.items() if value is not None},
                val_fraction=val_fraction,
                split_seed=split_seed,
                device=device,
                workers=workers or 0,
                on_start=tell_start,
                on_step=progress.advance,
            )
        except Interrupted as stopped:
            complain(str(stopped))
            return 128 + stopped.signum if stopped.signum != signal.SIGINT else 130
    scores = ", ".join(f"{name} {value:.2%}" for name, value in result.scores.items())
    typer.echo(f"held-out {scores} (last step, {result.weights} weights, {result.seconds:.0f} s of training)")
    typer.echo(f"model: {result.model}")
    typer.echo(f"report: {result.folder / 'report.html'}")
    return 0


def tell_start(run: RunSpec, folder: Path) -> None:
    """The resolved settings, before anything long happens."""
    from vitkit.config import to_dict

    settings: dict[str, Any] = to_dict(run.train)
    print(f"run {folder}: {len(run.class_names)} classes of {run.data}", file=sys.stderr)  # noqa: T201
    print(json.dumps(settings), file=sys.stderr)  # noqa: T201


class StepProgress:
    """Steps on stderr: a moving line on a terminal, a plain one every ten seconds elsewhere."""

    def __init__(self) -> None:
        import time

        self._clock = time.monotonic
        self._said = self._clock()
        self._bar: Any = None

    def __enter__(self) -> StepProgress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[values]}"))
            self._bar = Progress("training", *columns, console=Console(stderr=True), redirect_stdout=False)
            self._task = self._bar.add_task("training", total=None, values="")
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, progress: Progress, row: dict[str, float]) -> None:
        """One more step."""
        text = f"loss {row['loss']:.3f} lr {row['lr']:.1e} {row.get('images_per_s', 0):.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, total=progress.steps, completed=progress.step, values=text)
        elif self._clock() - self._said > PLAIN_EVERY_S or progress.step == progress.steps:
            self._said = self._clock()
            left = progress.seconds / progress.step * (progress.steps - progress.step)
            print(f"step {progress.step:,} of {progress.steps:,}, {text}, {left:.0f} s left", file=sys.stderr)  # noqa: T201
