"""A training's folder: everything its run is made from, written before the first step and read on a resume."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path

import vitkit
from vitkit.config import from_dict, read_json, to_dict
from vitkit.errors import ConfigError
from vitkit.files import check_new_folder, new_folder, writing
from vitkit.image.preprocess import Preprocess
from vitkit.model.spec import ModelSpec
from vitkit.training.spec import TrainSpec

__all__ = ["RunSpec", "check_new_run", "new_run", "read_run"]

RUN_FILE = "run.json"


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything a run is made from, as its folder keeps it: what a resumed run is compared with."""

    data: str
    model: str | None
    """The checkpoint started from; None for a new model."""
    preset: str | None
    """What a bare weight file was, or whose shape a new model has."""
    revision: str | None
    val_fraction: float
    split_seed: int
    spec: ModelSpec
    preprocess: Preprocess
    class_names: tuple[str, ...]
    pictures: tuple[int, ...]
    """How many there are in train, val and, where there is one, test: pictures that came or went change a run."""
    train: TrainSpec
    chosen: str = ""
    """The defaults that were chosen for this start, and why, in one line; settings said otherwise are in `train`."""
    bad_files: str = "fail"
    """"fail", or "skip": pictures that can't be read are left out."""
    left_out: tuple[str, ...] = ()
    """Their names."""
    teacher: str | None = None
    """Digest of the teacher of a distillation: another one of the same name is a difference."""
    train_fraction: float | None = None
    """Of the pictures to learn from, which are used; None for all."""
    log_to: tuple[str, ...] = ()
    """Boards that show the log: the one thing here that a resume may change."""


def check_new_run(folder: Path) -> None:
    """Raises ConfigError before any work where `new_run` would after it."""
    if (folder / RUN_FILE).exists():
        raise ConfigError(f"the run {folder} exists; go on with --resume {folder}, or choose another folder")
    check_new_folder(folder)


def new_run(output: str | os.PathLike[str] | None, run: RunSpec) -> Path:
    """Makes the run's folder with its settings in it, whole or not at all."""
    if output is not None:
        folder = Path(output)
    else:
        stem = Path(run.data).stem or "run"
        numbered = (Path("runs") / f"{stem}-{number}" for number in itertools.count(1))
        folder = next(path for path in numbered if not path.exists())
    content = json.dumps({"vitkit": vitkit.__version__, "run": to_dict(run)}, indent=2)
    with writing(folder), new_folder(folder) as part:
        (part / RUN_FILE).write_text(content + "\n", encoding="utf-8")
    return folder


def read_run(folder: Path) -> RunSpec:
    file = folder / RUN_FILE
    if not file.is_file():
        raise ConfigError(f"{folder} is no run to resume: it has no {RUN_FILE}")
    return from_dict(RunSpec, read_json(file).get("run"), origin=str(file))
