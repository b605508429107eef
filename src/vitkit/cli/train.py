"""vitkit train: one's own pictures to a classifier."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitkit.cli import options
from vitkit.cli.output import PLAIN_EVERY_S, is_first_process

if TYPE_CHECKING:
    from pathlib import Path

    from vitkit.api.baseline import Baseline
    from vitkit.api.runs import RunSpec
    from vitkit.api.train import TrainResult
    from vitkit.training.memory import MemoryPlan
    from vitkit.training.state import Progress

PERCENT = ("accuracy", "mAP", "f1", "exact_match")
"""How the names of scores end that are shares."""
PARTS = ("pictures to learn from", "held out", "for the test at the end")


def train(
    data: Annotated[
        str | None,
        typer.Argument(help="A folder of class folders (or train/ and val/), a table, arrays, an archive, or digits."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Checkpoint to start from; without one a new small model is made."),
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="The run's folder. [runs/NAME-N]")] = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Go on with this run's folder.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="Settings in TOML, a file or a name such as cifar10; flags go over."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training pictures.", min=1)] = None,
    minutes: Annotated[float | None, typer.Option(help="Plan the schedule to end after so many minutes.")] = None,
    batch_size: Annotated[
        str | None, typer.Option("--batch-size", help="Pictures per step; auto: as many as fit into memory.")
    ] = None,
    accumulate: Annotated[int | None, typer.Option(help="Compute a step in so many slices. [1]", min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    augment: Annotated[
        str | None,
        typer.Option(help="none, photos, figures, randaugment, trivialaugment or three_augment. [by the pictures]"),
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw, adam, sgd, lion or muon. [adamw]")] = None,
    tune: Annotated[str | None, typer.Option(help="What of a checkpoint learns: full, head or lora. [full]")] = None,
    lora_rank: Annotated[int | None, typer.Option("--lora-rank", help="Of LoRA's products. [8]", min=1)] = None,
    loss: Annotated[str | None, typer.Option(help="softmax, bce or focal. [softmax; of several labels bce]")] = None,
    class_weights: Annotated[
        str | None, typer.Option("--class-weights", help="balanced: rare classes count more in the loss.")
    ] = None,
    sampling: Annotated[str | None, typer.Option(help="all, or balanced: every class comes equally often.")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Distil from this classifier: as --model takes it, or a run's folder.")
    ] = None,
    distill: Annotated[str | None, typer.Option(help="From a teacher: hard or soft answers. [hard]")] = None,
    distill_token: Annotated[
        bool | None, typer.Option("--distill-token/--no-distill-token", help="Through a token of its own. [yes]")
    ] = None,
    cache_teacher: Annotated[
        bool | None,
        typer.Option("--cache-teacher/--no-cache-teacher", help="Ask it once a picture, not for each view. [no]"),
    ] = None,
    image_size: options.ImageSize = None,
    patch_size: options.PatchSize = None,
    bad_files: Annotated[
        str | None, typer.Option("--bad-files", help="fail, or skip: leave unreadable pictures out. [fail]")
    ] = None,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option("--value-range", help="LOW HIGH of deep pictures (16 bits, floats). [all they hold]"),
    ] = None,
    early_size: Annotated[
        int | None, typer.Option("--early-size", help="Side of training pictures until the last 15 % of steps.", min=1)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of initialisation, order, augmentation, dropout.", min=0)] = None,
    split_seed: Annotated[int | None, typer.Option("--split-seed", help="Of the held-out part.", min=0)] = None,
    val_fraction: Annotated[float | None, typer.Option("--val-fraction", help="Held-out part. [0.2]")] = None,
    train_fraction: Annotated[
        float | None, typer.Option("--train-fraction", help="Learn from this part of the training pictures. [1]")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="What a bare weight file is, or the shape of a new model.")
    ] = None,
    revision: options.Revision = None,
    device: options.Device = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16. [auto]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode sets too large for memory.", min=0)] = None,
    shard: Annotated[bool, typer.Option("--shard", help="Divide the weights among torchrun's processes.")] = False,
    baseline: Annotated[
        bool | None, typer.Option("--baseline/--no-baseline", help="First score the start's features. [--baseline]")
    ] = None,
    log_to: Annotated[
        str | None, typer.Option("--log-to", help="Show the log in tensorboard, trackio, or both with a comma.")
    ] = None,
    compile_step: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile the step.")] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="Less memory for a third more time."),
    ] = None,
) -> int:
    """Train on your own pictures, from scratch or from a checkpoint.

    The run's folder holds its settings, log, curves, checkpoints and the trained model. Ctrl-C saves and exits;
    --resume goes on exactly where it stopped. Several processes: torchrun --nproc-per-node N -m vitkit train ...
    """
    from vitkit.api.train import train

    flags = {
        "epochs": epochs,
        "minutes": minutes,
        "batch_size": whole(batch_size),
        "accumulate": accumulate,
        "lr": lr,
        "loss": loss,
        "class_weights": class_weights,
        "sampling": sampling,
        "augment": augment,
        "optimizer": optimizer,
        "seed": seed,
        "dtype": dtype,
        "early_size": early_size,
        "compile": compile_step,
        "gradient_checkpointing": gradient_checkpointing,
        "tune": tune,
        "objective": None if teacher is None else "distillation",
        "distill": given(teacher=teacher, kind=distill, token=distill_token, cache=cache_teacher),
        "lora": given(rank=lora_rank),
    }
    with StepProgress() as progress:
        result = train(
            data,
            model=model,
            preset=preset,
            revision=revision,
            image_size=image_size,
            patch_size=patch_size,
            value_range=value_range,
            bad_files=bad_files,
            output=output,
            resume=resume,
            recipe=recipe,
            settings=given(**flags),
            train_fraction=train_fraction,
            val_fraction=val_fraction,
            split_seed=split_seed,
            device=device,
            workers=workers or 0,
            shard=shard,
            on_read=progress.read,
            baseline=baseline is not False,
            log_to=None if log_to is None else [name.strip() for name in log_to.split(",")],
            on_memory_plan=tell_memory_plan,
            on_start=tell_start,
            on_baseline=tell_baseline,
            on_step=progress.advance,
        )
    if not is_first_process():
        return 0
    typer.echo(f"{tell_scores(result)} (last step, {result.weights} weights, {result.seconds:.0f} s of training)")
    typer.echo(f"model: {result.model}")
    typer.echo(f"report: {result.folder / 'report.html'}")
    return 0


def given(**settings: Any) -> dict[str, Any] | None:
    """Those that were said; None where none was."""
    return {name: value for name, value in settings.items() if value is not None} or None


def whole(text: str | None) -> int | str | None:
    """A number where it is one; what other words are allowed is the settings' affair."""
    return int(text) if text is not None and text.lstrip("-").isdecimal() else text


def tell_memory_plan(plan: MemoryPlan) -> None:
    """What a batch size of "auto" came to."""
    took, free = plan.step_bytes / 2**30, plan.free_bytes / 2**30
    _say(f"batch size: {plan.batch_size} pictures at once, a step of which takes {took:.2f} of {free:.2f} GiB free")


def tell_start(run: RunSpec, folder: Path) -> None:
    """The resolved settings, before the first step; without the tables that are as usual."""
    from vitkit.config import to_dict
    from vitkit.training.spec import TrainSpec

    counts = ", ".join(f"{count:,} {part}" for count, part in zip(run.pictures, PARTS, strict=False))
    _say(f"run {folder}: {run.data}, {len(run.class_names)} classes, {counts}")
    _say(f"  defaults: {run.chosen}")
    usual = to_dict(TrainSpec())
    told = {
        name: value
        for name, value in to_dict(run.train).items()
        if not (isinstance(value, dict) and value == usual[name])
    }
    for line in (*_lines("model", to_dict(run.spec.spec)), *_lines("training", told)):
        _say(line)


def tell_baseline(baseline: Baseline) -> None:
    """What the training has to beat, before its first step."""
    _say(f"  to beat, held-out: {baseline}")


def tell_scores(result: TrainResult) -> str:
    """What held-out and test pictures say of the weights to use."""
    parts = {"held-out": result.scores, "test": result.test_scores}
    told = (_spell_score(f"{part} {name}", each[name]) for part, each in parts.items() for name in each)
    return ", ".join(told) or "no scores"


class StepProgress:
    """Steps on stderr: a moving line on a terminal, a plain one every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> StepProgress:
        if sys.stderr.isatty() and is_first_process():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            text = TextColumn("{task.fields[values]}")
            columns = (BarColumn(10), MofNCompleteColumn(), TimeRemainingColumn(), text)  # in 80 columns
            self._bar = Progress(*columns, console=Console(stderr=True), redirect_stdout=False)
            self._task = self._bar.add_task("training", total=None, values="")
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def read(self, done: int, total: int) -> None:
        """So many pictures were read, of one part of the data."""
        if self._bar is not None:
            self._bar.update(self._task, total=total, completed=done, values="pictures read")
        elif time.monotonic() - self._said > PLAIN_EVERY_S:
            self._said = time.monotonic()
            _say(f"{done:,} of {total:,} pictures read")

    def advance(self, progress: Progress, row: dict[str, float]) -> None:
        """One more step."""
        held_out = {name: _spell_score(name, value) for name, value in row.items() if name.startswith("held-out ")}
        speed, loss = f"{row['images_per_s']:.0f} images/s", f"loss {row['loss']:.3f}"
        if self._bar is not None:
            short = [text.removeprefix("held-out ") for name, text in held_out.items() if name != "held-out loss"]
            values = ", ".join((speed, loss, *short))
            self._bar.update(self._task, total=progress.steps, completed=progress.step, values=values)
        elif time.monotonic() - self._said > PLAIN_EVERY_S or progress.step == progress.steps:
            self._said = time.monotonic()
            left = progress.seconds / progress.step * (progress.steps - progress.step)
            values = ", ".join((loss, *held_out.values(), f"lr {row['lr']:.1e}"))
            _say(f"step {progress.step:,} of {progress.steps:,}, {speed}, {left:.0f} s left, {values}")


def _lines(name: str, table: dict[str, Any]) -> Iterator[str]:
    """The plain entries of `table`, then those of each table in it."""
    # A no-break space keeps a name and its value on one line.
    plain = [f"{key}\xa0{_spell(value)}" for key, value in table.items() if not isinstance(value, dict)]
    text = f"{name}: {', '.join(plain)}"
    yield textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="    ").replace("\xa0", " ")
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _lines(f"{name}.{key}", value)


def _spell(value: object) -> str:
    if isinstance(value, list):
        return "\xa0".join(map(_spell, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _spell_score(name: str, value: float) -> str:
    return f"{name} {value:.2%}" if name.endswith(PERCENT) else f"{name} {value:.4g}"


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201
