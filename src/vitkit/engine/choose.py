"""`engine="auto"`: the fastest engine of this machine whose answers agree with float32's, measured once.

A choice is remembered in the user's cache (Hugging Face's assets folder) under all it depends on: the weights and their
input, the machine, the versions of the libraries, and what was allowed.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import cached_assets_path
from numpy.typing import NDArray

from vitkit.checkpoint.card import Card
from vitkit.checkpoint.proof import pictures as proof_pictures
from vitkit.config import from_dict, read_json, to_dict
from vitkit.device import dtype_name, has_native_bfloat16, parse_dtype, pick_device, processor_name
from vitkit.engine.engines import AUTO, ENGINES, Setup, settle
from vitkit.engine.measure import take_turns
from vitkit.engine.pipeline import in_order
from vitkit.engine.predict import probabilities
from vitkit.engine.protocol import Engine, Outputs
from vitkit.errors import ConfigError, EngineError, ImageError
from vitkit.exports.graph import CropGraph
from vitkit.exports.metadata import fingerprint
from vitkit.files import replace_file
from vitkit.image.decode import Picture, decode
from vitkit.image.preprocess import Preprocess, fit
from vitkit.model.base import ImageModel

__all__ = ["AUTO", "PICTURES", "Choice", "Tried", "candidates", "choose"]

logger = logging.getLogger("vitkit")

PICTURES = 5
"""Of the caller's own that are looked at, beside the proof's."""
SECONDS = 0.5
"""That each candidate is timed for."""
FLOAT32_LIMIT = 1e-5
"""Difference of an engine in float32: of probabilities, and of outputs relative to the largest."""
REDUCED_LIMIT = 0.05
"""Difference in fewer bits: of probabilities, and of embeddings relative to the largest."""
CLEAR_MARGIN = 0.05
"""Probability by which float32's best class leads the next, from which on fewer bits must find the same class."""
LIBRARIES = ("vitkit", "torch", "onnx", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Tried:
    """One candidate: how fast it is, or why it can't be taken."""

    engine: str
    pictures_per_second: float | None = None
    fault: str | None = None

    def __str__(self) -> str:
        return f"{self.engine} {self.fault or f'{self.pictures_per_second:.0f}/s'}"


@dataclass(frozen=True)
class Choice:
    """What `auto` took, and all it tried."""

    engine: str
    """A key of ENGINES."""
    dtype: str
    tried: tuple[Tried, ...]
    """Best first, then those that can't be taken."""
    remembered: bool = False

    def __str__(self) -> str:
        others = "; ".join(map(str, self.tried[1:])) or "there is no other"
        known = ", as measured before" if self.remembered else ""
        return f"engine auto: {self.tried[0]}, the fastest that agrees with float32{known}; {others}"


def candidates(device: str | None, dtype: str | torch.dtype | None) -> list[Setup]:
    """The engines of this machine that may be taken: all but those that must be compiled first, for minutes.

    With a `dtype` those that compute in it. Raises ConfigError where there are none.
    """
    target = pick_device(device)
    wanted = [parse_dtype(dtype)] if dtype is not None else [torch.float32]
    if dtype is None and has_native_bfloat16(target):
        wanted.append(torch.bfloat16)
    found = [
        setup
        for name, kind in ENGINES.items()
        for precision in wanted
        if dtype_name(precision) in kind.dtypes and (setup := _available(name, device, precision))
    ]
    if not found:
        raise ConfigError(f"engine 'auto' has no candidate for dtype {dtype!r} on {target}; leave dtype out")
    return found


def _available(engine: str, device: str | None, dtype: torch.dtype) -> Setup | None:
    try:
        return settle(engine, device, dtype)
    except ConfigError as error:
        logger.info("engine auto: %s", error)
        return None


def choose(
    module: ImageModel, card: Card, setups: Sequence[Setup], pictures: Sequence[Picture], *, onnx: Callable[[], bytes]
) -> Choice:
    """The choice for a module in float32, remembered from before or measured now, and then said on stderr.

    The proof's pictures and the first of `pictures` that can be read are what is measured on; `onnx` gives the module
    as an ONNX model. Raises EngineError where no candidate agrees.
    """
    assert card.preprocess is not None
    depends = _depends(module, card.preprocess, setups)
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    file = cached_assets_path("vitkit", "engines") / f"{digest}.json"
    choice = _recall(file, setups)
    if choice is None:
        choice = _measure(module, card, setups, _crops(module, card.preprocess, pictures), onnx)
        _remember(file, choice)
        logger.warning("%s", choice)
    return choice


def _measure(
    module: ImageModel, card: Card, setups: Sequence[Setup], crops: NDArray[Any], onnx: Callable[[], bytes]
) -> Choice:
    assert card.preprocess is not None
    reference = Setup("torch", setups[0].device, torch.float32).make(copy.deepcopy(module), card.preprocess)
    expected = reference.run(crops)
    agreeing: dict[Setup, Engine] = {}
    refused = []
    for setup in setups:
        try:
            own = module if ENGINES[setup.engine].of_onnx else copy.deepcopy(module)
            engine = setup.make(own, card.preprocess, onnx=onnx)
            fault = _fault(engine, crops, expected, card.scores, reduced=setup.dtype != torch.float32)
        except (ConfigError, EngineError) as error:  # it can't be made of this model, or can't run it
            fault = str(error).removeprefix(f"{setup.name}: ")
        if fault is None:
            agreeing[setup] = engine
        else:
            refused.append(Tried(setup.name, fault=fault))
    if not agreeing:
        raise EngineError(f"engine 'auto': none agrees with float32: {'; '.join(map(str, refused))}")
    runs = {setup: partial(_run_many, engine, crops) for setup, engine in agreeing.items()}
    counts = {setup: run() for setup, run in runs.items()}
    timings = take_turns(runs, SECONDS)
    rates = {setup: counts[setup] / timings[setup].p50 for setup in runs}
    ranked = sorted(rates, key=lambda setup: -rates[setup])
    tried = [Tried(setup.name, rates[setup]) for setup in ranked]
    return Choice(ranked[0].engine, dtype_name(ranked[0].dtype), (*tried, *refused))


def _fault(engine: Engine, crops: NDArray[Any], expected: Outputs, scores: str, *, reduced: bool) -> str | None:
    """`fault_of` for one call and for calls side by side, which can be another program."""
    # In a thread of its own, whose share of the cores it sets.
    shared = in_order(engine.shared(torch.get_num_threads()).run, [crops], threads=1)
    faults = (fault_of(found, expected, scores, reduced=reduced) for found in (engine.run(crops), *shared))
    return next(filter(None, faults), None)


def _run_many(engine: Engine, crops: NDArray[Any]) -> int:
    """Runs batches as `Predictor.answers` does for many pictures, about as many as `crops` in all: how many exactly."""
    cores = torch.get_num_threads()
    shared = engine.shared(cores)
    batch = crops if shared is engine else crops[: max(1, len(crops) // cores)]
    batches = [batch] * (1 if shared is engine else cores)
    deque(in_order(shared.run, batches, threads=0 if shared is engine else cores), maxlen=0)
    return len(batch) * len(batches)


def fault_of(found: Outputs, expected: Outputs, scores: str, *, reduced: bool) -> str | None:
    """Why an engine's answers aren't float32's within the limits; None where they are."""
    limit = REDUCED_LIMIT if reduced else FLOAT32_LIMIT
    for name in ("embedding",) if reduced else expected:
        away, largest = (float(np.abs(values).max()) for values in (found[name] - expected[name], expected[name]))
        if not away <= limit * largest:  # not for NaN either; a new head's logits are all 0
            return f"differs by {away / max(largest, 1e-30):.1e} of the largest {name} value (at most {limit})"
    if "logits" not in expected:
        return None
    known, ours = (probabilities(outputs["logits"], scores) for outputs in (expected, found))
    away = float(np.abs(ours - known).max())
    if not away <= limit:
        return f"differs by {away:.1e} in a probability (at most {limit})"
    second, first = np.sort(known, axis=1)[:, -2:].T if known.shape[1] > 1 else (known[:, 0], known[:, 0])
    changed = int(np.sum((first - second >= CLEAR_MARGIN) & (ours.argmax(axis=1) != known.argmax(axis=1))))
    return f"has another best class for {changed} of {len(known)} pictures" if changed else None


def _crops(module: ImageModel, preprocess: Preprocess, pictures: Sequence[Picture]) -> NDArray[Any]:
    """The proof's pictures and the first of `pictures` as the engines take them; noise where none can be read."""
    made = proof_pictures(preprocess.channels, full_scale=preprocess.full_scale)
    crops = []
    for picture in [*made, *pictures[:PICTURES]]:
        try:
            rgb = decode(picture, channels=preprocess.channels, value_range=preprocess.value_range, allow_urls=False)
            crops.append(fit(preprocess, rgb))
        except ImageError:  # it is named when it is answered
            continue
    return np.stack(crops) if crops else CropGraph(module, preprocess).example(len(made))


def _depends(module: ImageModel, preprocess: Preprocess, setups: Sequence[Setup]) -> dict[str, Any]:
    """All that a choice depends on."""
    device = setups[0].device
    return {
        "weights": fingerprint(module),
        "preprocess": to_dict(preprocess),
        "candidates": [f"{setup.engine} {setup.dtype}" for setup in setups],
        "machine": [processor_name(device), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _recall(file: Path, setups: Sequence[Setup]) -> Choice | None:
    """What was remembered; None where nothing was, or what can't be read any more."""
    if not file.is_file():
        return None
    try:
        choice = replace(from_dict(Choice, read_json(file), origin=str(file)), remembered=True)
    except (OSError, ConfigError) as error:
        logger.info("engine auto: measured again: %s", error)
        return None
    known = any((choice.engine, choice.dtype) == (setup.engine, dtype_name(setup.dtype)) for setup in setups)
    return choice if known else None


def _remember(file: Path, choice: Choice) -> None:
    try:
        with replace_file(file) as part:
            part.write_text(json.dumps(to_dict(choice)), encoding="utf-8")
    except (OSError, ConfigError) as error:
        logger.warning("engine auto: the choice isn't remembered: %s", error)
