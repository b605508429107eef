"""A contestant as plain data: built here to be raced, and in a process of its own, which shows its memory and start."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitkit.api.load import load
from vitkit.device import parse_dtype, peak_memory, pick_device
from vitkit.engine.predict import BATCH_SIZE, Predictor
from vitkit.errors import CheckpointError, EngineError
from vitkit.evaluation.bench import Contestant
from vitkit.evaluation.contestants import PEERS, Shown, made_pictures, of_predictor

__all__ = ["Alone", "Entry", "build", "run_alone"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is raced."""

    runner: str
    """An engine, or a library of PEERS."""
    dtype: str
    source: str
    """What vitkit loads; of a peer the folder in its layout."""
    device: str
    loading: Mapping[str, Any]
    """Other keywords of `load`; empty for a peer."""
    note: str | None = None
    """What isn't the same as in the others."""

    @property
    def name(self) -> str:
        """As it is listed."""
        return f"{self.runner} {self.dtype}"

    def load(self) -> Predictor:
        """An engine's Predictor; raises as `vitkit.load`."""
        return load(self.source, engine=self.runner, dtype=self.dtype, device=self.device, **self.loading)


@dataclass(frozen=True)
class Alone:
    """What a process came to that did nothing else."""

    memory_bytes: int | None
    """The most it held, everything in it; None where the system doesn't tell."""
    ready_s: float
    """From its start to its first answer."""


def build(entry: Entry, shown: Shown, vit: Predictor | None = None) -> Contestant:
    """The contestant, of `vit` where it is loaded already; raises as `load`, EngineError where a peer isn't there."""
    if entry.runner in PEERS:
        device, dtype = pick_device(entry.device), parse_dtype(entry.dtype)
        try:
            return PEERS[entry.runner](entry.source, shown, device=device, dtype=dtype)
        except CheckpointError as error:  # the folder is ours: the library is at fault
            raise EngineError(str(error)) from error
    return of_predictor(vit or entry.load(), shown)


def run_alone(entry: Entry) -> Alone:
    """Starts a process that answers one picture and two batches. EngineError, with its last words, if it fails."""
    plain = json.dumps({**vars(entry), "loading": dict(entry.loading)})
    command = [sys.executable, "-c", f"from {__name__} import _main; _main()", plain, str(time.perf_counter())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(f"not run in a process of its own: {words[-1]}")
    return Alone(**json.loads(done.stdout.splitlines()[-1]))


def _main() -> None:
    """In the process: prints what became of it. Its clock is that of the process which started it."""
    entry = Entry(**json.loads(sys.argv[1]))
    loaded = None if entry.runner in PEERS else entry.load()
    pictures = made_pictures(1, None if loaded is None else loaded.card.preprocess)
    contestant = build(entry, Shown(pictures, (BATCH_SIZE,), 2 * BATCH_SIZE), loaded)
    contestant.one()
    ready_s = time.perf_counter() - float(sys.argv[2])
    contestant.many.run()  # more than a batch: laid out for batches side by side, which can hold more
    print(json.dumps(vars(Alone(peak_memory(), ready_s))))  # noqa: T201
