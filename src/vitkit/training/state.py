"""Checkpoints of a training: complete or invisible, verified before use, resumed to the bit.

A checkpoint is a folder `step-N` written beside its place and renamed into it, its manifest last: the digests of all
files, and its own. No random state is among them: every step seeds itself from (seed, step).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitkit.errors import CheckpointError, list_faults
from vitkit.files import new_folder, replace_file, sha256_of, why_unwritten
from vitkit.training.ema import Ema
from vitkit.training.objective import Objective, Step
from vitkit.training.processes import Processes
from vitkit.training.sharing import spread, whole

__all__ = ["Progress", "TrainState", "find_checkpoint", "restore", "save_checkpoint"]

logger = logging.getLogger("vitkit")

MANIFEST = "manifest.json"
NAME = re.compile(r"step-(\d+)")
KEPT = 2


@dataclass
class Progress:
    """Where a training stands: with the tensors, all there is to know."""

    step: int = 0
    """Steps done."""
    steps: int = 0
    """Steps planned, before the first one."""
    best_step: int = -1
    best_score: float = float("-inf")
    seconds: float = 0.0
    """Wall time of training so far, over all its processes."""


@dataclass
class TrainState:
    """The mutable heart of a training."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    progress: Progress
    processes: Processes = field(default_factory=Processes)
    undivided: Step | None = None
    """A copy of model and objective that is filled where the processes divide the weights, and they are asked for."""

    @property
    def kept(self) -> nn.Module:
        """What is evaluated, and the answer of the training: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def kept_name(self) -> str:
        """Either "raw" or "ema"."""
        return "raw" if self.ema is None else "ema"

    def whole(self) -> Step:
        """What is kept and the objective, as whole modules on every process. All take part."""
        if self.undivided is None:
            return Step(self.kept, self.objective)
        for mine, theirs in ((self.undivided.model, self.kept), (self.undivided.objective, self.objective)):
            mine.load_state_dict({name: whole(tensor) for name, tensor in theirs.state_dict().items()})
        return self.undivided


def save_checkpoint(folder: Path, state: TrainState) -> Path:
    """Writes `folder`/step-N, names the best in `folder`/best, removes what is neither that nor among the two last.

    Of several processes all take part, and the first one writes: the same checkpoint for any number of them. Raises
    CheckpointError where it can't be written; what was there before stays.
    """
    first = state.processes.first
    tensors = {"model": _whole(state.model.state_dict(), first)}
    if state.ema is not None:
        tensors["ema"] = _whole(state.ema.module.state_dict(), first)
    if objective := state.objective.state_dict():
        tensors["objective"] = _whole(objective, first)
    tensors["optimizer"] = _optimizer_tensors(state, first)
    return state.processes.on_first(lambda: _write(folder, tensors, state.progress))


def _write(folder: Path, tensors: dict[str, dict[str, Tensor]], progress: Progress) -> Path:
    target = folder / f"step-{progress.step}"
    try:
        shutil.rmtree(target, ignore_errors=True)
        with new_folder(target) as part:
            for name, content in tensors.items():
                save_file(content, part / f"{name}.safetensors")
            text = json.dumps({"format": 1, **vars(progress)}, indent=2)
            (part / "state.json").write_text(text + "\n", encoding="utf-8")
            digests = {file.name: sha256_of(file) for file in sorted(part.iterdir())}
            body = json.dumps(digests, indent=2)
            # The manifest's last line is its own digest: no bit of a checkpoint is unguarded.
            digest = hashlib.sha256(body.encode()).hexdigest()
            (part / MANIFEST).write_bytes(f"{body}\n{digest}\n".encode())
        _point_to_best(folder, progress.best_step)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{target}: can't be written ({why_unwritten(error)}); --resume goes on from the checkpoint before it"
        ) from error
    _prune(folder, keep_step=progress.best_step)
    return target


def _point_to_best(folder: Path, step: int) -> None:
    """Makes the file `best` say step-N: a name, never a copy."""
    pointer, name = folder / "best", f"step-{step}\n"
    if step > 0 and not (pointer.is_file() and pointer.read_text(encoding="utf-8") == name):
        with replace_file(pointer) as part:
            part.write_text(name, encoding="utf-8")


def find_checkpoint(folder: Path, *, before: float = math.inf) -> Path | None:
    """The highest step (below `before`) whose manifest verifies, or None; damaged ones are said and passed over."""
    if not folder.is_dir():
        return None
    for left in (*folder.glob(".part-*"), *folder.glob(".old-*")):  # a write that a kill cut off
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink()
    numbered = [(int(found[1]), path) for path in folder.iterdir() if (found := NAME.fullmatch(path.name))]
    for step, path in sorted(numbered, reverse=True):
        if step >= before:
            continue
        if _valid(path):
            return path
        logger.warning("%s is damaged and not used; the checkpoint before it is", path)
    return None


def restore(path: Path, state: TrainState) -> None:
    """Puts a verified checkpoint into `state`. Raises CheckpointError where it belongs to another training.

    Of several processes the first one reads, so that the others need not see the folder.
    """
    _fill(state.model, _read(path, "model", state.processes), path)
    if state.ema is not None:
        _fill(state.ema.module, _read(path, "ema", state.processes), path)
    if state.objective.state_dict():
        _fill(state.objective, _read(path, "objective", state.processes), path)
    _restore_optimizer(state, _read(path, "optimizer", state.processes), path)
    content = state.processes.on_first(lambda: _read_progress(path))
    if content.pop("format", None) != 1:
        raise CheckpointError(f"{path}: written by a newer vitkit; resume with that one")
    state.progress = Progress(**content)


def _read(path: Path, name: str, processes: Processes) -> dict[str, Tensor]:
    """What the first process reads, on all of them."""
    found: dict[str, Tensor] = {}

    def read() -> None:
        try:
            found.update(load_file(path / f"{name}.safetensors"))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: can't be resumed from ({error})") from error

    processes.on_first(read)
    return processes.from_first(found)


def _read_progress(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: can't be resumed from ({error})") from error
    return content


def _valid(path: Path) -> bool:
    try:
        body, _, digest = (path / MANIFEST).read_bytes().removesuffix(b"\n").rpartition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            return False
        digests: dict[str, str] = json.loads(body)
        present = {file.name for file in path.iterdir()} - {MANIFEST}
        return present == set(digests) and all(sha256_of(path / name) == value for name, value in digests.items())
    except (OSError, ValueError):
        return False


def _prune(folder: Path, *, keep_step: int) -> None:
    numbered = sorted((int(found[1]), path) for path in folder.iterdir() if (found := NAME.fullmatch(path.name)))
    for step, path in numbered[:-KEPT]:
        if step != keep_step:
            away = path.with_name(f".old-{path.name}")
            os.replace(path, away)  # invisible at once, also if the removal is cut off
            shutil.rmtree(away, ignore_errors=True)


def _whole(tensors: dict[str, Tensor], kept: bool) -> dict[str, Tensor]:
    """The tensors as they are written, put together by all processes and `kept` by one."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if kept:
            found[name] = full.cpu().contiguous()
    return found


def _names(state: TrainState) -> list[str]:
    """A name for each of the optimiser's parameters, in its own order."""
    names = {id(parameter): f"model.{name}" for name, parameter in state.model.named_parameters()}
    names |= {id(parameter): f"objective.{name}" for name, parameter in state.objective.named_parameters()}
    return [names[id(parameter)] for group in state.optimizer.param_groups for parameter in group["params"]]


def _optimizer_tensors(state: TrainState, kept: bool) -> dict[str, Tensor]:
    moments: dict[int, dict[str, Tensor]] = state.optimizer.state_dict()["state"]
    names = _names(state)
    tensors = {
        f"{kind}/{names[number]}": tensor for number, entries in moments.items() for kind, tensor in entries.items()
    }
    return _whole(tensors, kept)


def _restore_optimizer(state: TrainState, tensors: dict[str, Tensor], path: Path) -> None:
    numbers = {name: number for number, name in enumerate(_names(state))}
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        if name not in numbers:
            raise CheckpointError(f"{path}: the optimiser holds {name}, which this training doesn't have")
        moments.setdefault(numbers[name], {})[kind] = spread(tensor, parameters[numbers[name]])
    content = state.optimizer.state_dict()
    state.optimizer.load_state_dict({**content, "state": moments})


def _fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    own = module.state_dict()
    expected = {name: tensor.shape for name, tensor in own.items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if expected != found:
        other = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointError(f"{path}: belongs to another model: {list_faults(other)}")
    module.load_state_dict({name: spread(tensor, own[name]) for name, tensor in tensors.items()})
