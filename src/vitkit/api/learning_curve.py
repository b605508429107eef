"""learning_curve: how models compare the more pictures they learn from, on one's own pictures."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitkit.api.compare import Comparison, compare
from vitkit.api.plan import Asked, settle
from vitkit.api.runs import RUN_FILE, RunSpec, read_run
from vitkit.api.train import TrainResult, train
from vitkit.data.split import thin
from vitkit.errors import ConfigError, list_faults
from vitkit.files import writing
from vitkit.report.drawing import import_figure
from vitkit.training.processes import Processes
from vitkit.training.recipes import read_recipe, resolve
from vitkit.training.spec import differences
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
    steps as `epochs` take on all pictures, rounded to whole epochs of a smaller part, which makes more of them; or,
    where `settings` have them, as many minutes. Runs lie in `output`, beside compare.html; those that are there and
    made from the same data, parts and settings are kept, or gone on with. Raises ConfigError where they were made
    otherwise, and as `train` and `compare` do.
    """
    folder, settings = Path(output), settings or {}
    contenders = [(recipe, fraction) for fraction in sorted(fractions) for recipe in recipes]
    runs = [folder / f"{Path(recipe).stem}-{100 * fraction:g}" for recipe, fraction in contenders]
    faults = [f"fraction {fraction} isn't above 0 and at most 1" for fraction in fractions if not 0 < fraction <= 1]
    if len(runs) < 2:
        faults.append(f"{len(recipes)} recipes on {len(fractions)} parts of the pictures are nothing to compare")
    shared = sorted({run.name for run in runs if runs.count(run) > 1})
    faults += [f"several runs would be called {name}; say each recipe's name and each fraction once" for name in shared]
    if faults:
        raise ConfigError(list_faults(faults))
    import_figure()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    asked = Asked(data=data, image_size=image_size, val_fraction=val_fraction, split_seed=split_seed, device=device)
    whole = settle(dataclasses.replace(asked, recipe=recipes[0], settings=settings), Processes(), None)
    counts = {part: len(thin(whole.splits.train, part, seed=whole.run.split_seed)) for part in (*fractions, 1.0)}
    for (recipe, fraction), run in zip(contenders, runs, strict=True):
        equal = _equal_work(recipe, settings, counts[fraction], counts[1.0])
        made = (run / RUN_FILE).is_file()
        if made:
            _check_same(run, dataclasses.replace(asked, recipe=recipe, settings=equal, train_fraction=fraction))
        if (run / "results.json").is_file():
            continue
        result = train(
            data,
            recipe=recipe,
            settings=equal,
            train_fraction=fraction,
            output=None if made else run,
            resume=run if made else None,
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


def _equal_work(recipe: str, settings: Mapping[str, Any], pictures: int, all_pictures: int) -> dict[str, Any]:
    """The settings with as many steps, and as rare evaluations, on a part as on all pictures.

    An epoch has as many steps as whole batches, at least one; few pictures' own defaults would be other ones.
    """
    told = read_recipe(recipe)
    spec = resolve(SCRATCH_PHOTOS, [(told.origin, told.settings), ("settings", settings)])
    longer = max(all_pictures // spec.batch_size, 1) / max(pictures // spec.batch_size, 1)
    often = {"epochs": round(spec.epochs * longer), "evaluate_every": round(spec.evaluate_every * longer)}
    return {**settings, **often, "batch_size": spec.batch_size}


def _check_same(run: Path, asked: Asked) -> None:
    """Raises ConfigError where `run` isn't what would be made now, but for what it is called and where it is shown."""
    made, now = read_run(run), settle(asked, Processes(), None).run
    if other := differences(dataclasses.replace(made, chosen=now.chosen, log_to=now.log_to), now):
        raise ConfigError(f"{run} was made otherwise: {list_faults(other)}; choose another output, or remove it")
