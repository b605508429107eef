"""learning_curve: how models compare the more pictures they learn from, on one's own pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitkit.api.compare import Comparison, compare
from vitkit.api.runs import RUN_FILE, RunSpec, read_run
from vitkit.api.train import TrainResult, train
from vitkit.config import flatten, to_dict
from vitkit.errors import ConfigError, list_faults
from vitkit.files import writing
from vitkit.report.drawing import import_figure
from vitkit.training.recipes import read_recipe
from vitkit.training.starts import SCRATCH_PHOTOS
from vitkit.training.state import Progress

__all__ = ["CONTENDERS", "FRACTIONS", "PAGE", "learning_curve"]

CONTENDERS = ("vit", "resnet")
FRACTIONS = (0.1, 0.3, 1.0)
PAGE = "compare.html"


def learning_curve(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    recipes: Sequence[str] = CONTENDERS,
    fractions: Sequence[float] = FRACTIONS,
    settings: Mapping[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    val_fraction: float | None = None,
    split_seed: int | None = None,
    device: str | None = None,
    workers: int = 0,
    on_read: Callable[[int, int], None] | None = None,
    on_start: Callable[[RunSpec, Path], None] | None = None,
    on_step: Callable[[Progress, dict[str, float]], None] | None = None,
    on_end: Callable[[TrainResult], None] | None = None,
) -> Comparison:
    """Trains each recipe's new model on growing parts of the training pictures, and compares all runs on one page.

    All runs hold out the same pictures, and a smaller part lies within a larger one. They are given equal work: as many
    steps as `epochs` take on all pictures, of which a smaller part makes more epochs; or, where `settings` have them,
    as many minutes. Runs lie in `output`, beside compare.html; those that are there and made from the same settings are
    kept, or gone on with. Raises ConfigError where they were made otherwise, and as `train` and `compare` do.
    """
    folder = Path(output)
    faults = [f"fraction {fraction} isn't above 0 and at most 1" for fraction in fractions if not 0 < fraction <= 1]
    if len(recipes) * len(fractions) < 2:
        faults.append(f"{len(recipes)} recipes on {len(fractions)} parts of the pictures are nothing to compare")
    if faults:
        raise ConfigError(list_faults(faults))
    import_figure()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    runs = []
    for fraction in sorted(fractions):
        for recipe in recipes:
            wanted = _equal_work(recipe, fraction, settings or {})
            run = folder / f"{Path(recipe).stem}-{100 * fraction:g}"
            runs.append(run)
            if (run / RUN_FILE).is_file():
                _check_same(run, wanted)
            if (run / "results.json").is_file():
                continue
            new = {"data": data, "recipe": recipe, "settings": wanted, "train_fraction": fraction, "output": run}
            again = {"resume": run}
            result = train(
                **(again if (run / RUN_FILE).is_file() else new),
                image_size=image_size,
                val_fraction=val_fraction,
                split_seed=split_seed,
                device=device,
                workers=workers,
                baseline=False,
                on_read=on_read,
                on_start=on_start,
                on_step=on_step,
            )
            if on_end is not None:
                on_end(result)
    return compare(runs, output=folder / PAGE)


def _equal_work(recipe: str, fraction: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with as many steps, and as rare evaluations, as all pictures get: few have defaults of their own."""
    told = {**to_dict(SCRATCH_PHOTOS), **read_recipe(recipe).settings, **settings}
    often = {name: round(told[name] / fraction) for name in ("epochs", "evaluate_every")}
    return {**settings, **often, "batch_size": told["batch_size"]}


def _check_same(run: Path, wanted: Mapping[str, Any]) -> None:
    made = flatten(to_dict(read_run(run).train))
    other = [
        f"{name} is {made.get(name)}, now {value}" for name, value in flatten(wanted).items() if made.get(name) != value
    ]
    if other:
        raise ConfigError(f"{run} was made otherwise: {list_faults(other)}; choose another output, or remove it")
