"""bench: how fast this machine answers with a model: engines and precisions side by side, and its peers."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch

from vitkit.api.bench_entry import Alone, Entry, build, run_alone
from vitkit.api.bench_page import check_bench_output, write_bench
from vitkit.api.save import save
from vitkit.checkpoint.presets import DEFAULT_MODEL
from vitkit.device import has_native_bfloat16, parse_dtype, pick_device, processor_name
from vitkit.engine.engines import ENGINES
from vitkit.engine.measure import matrix_peak
from vitkit.engine.predict import Predictor
from vitkit.errors import CheckpointError, ConfigError, EngineError, VitkitError, list_faults
from vitkit.evaluation.bench import Contestant, Speed, core_seconds, forecast, race
from vitkit.evaluation.contestants import HEIGHT, WIDTH, Shown, core_seconds_of_stages, made_pictures
from vitkit.image.listing import list_pictures
from vitkit.model.build import build as build_model
from vitkit.model.build import model_spec

__all__ = ["SECONDS", "Bench", "Machine", "Row", "bench"]

SECONDS = 40.0
PEAK_S = 1.0
STAGES_S = 2.0
CORE_S = 0.5
MADE, MOST_PICTURES = 32, 200
SIZES = {"cpu": (1, 8, 32), "cuda": (1, 16, 64, 256)}
MANY = (16, 64)
"""Fewest and most pictures of a call from files to answers."""
CALL_S = 4.0
"""No call is of more pictures than the first contestant answers in so many seconds, but of the fewest."""
ALONE_S = 5.0
"""Guessed, for a process to start, load, answer and end."""
PACKAGES = {"onnx": "onnxruntime"}
"""Of engines that have another name than theirs."""
LAYOUTS = {"transformers": "hf", "timm": "timm"}
TIMM_EPS = 1e-6
"""Of its LayerNorm."""

T = TypeVar("T")
Faults: TypeAlias = dict[str, VitkitError]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine, or another library, in one precision. What couldn't be measured is None, and `note` says why."""

    runner: str
    dtype: str
    speed: Speed | None = None
    peak_share: float | None = None
    """Of what the machine's matrix products reach in this precision, at the best batch size."""
    core_s: float | None = None
    """Seconds of a core that the model alone takes for a picture, at the best batch size."""
    alone: Alone | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it was measured."""

    processor: str
    threads: int
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Plain data, JSON-able through vitkit.config.to_dict; seconds, bytes and shares of 1."""

    model: str
    title: str
    parameters: int
    macs: int
    """Multiply-accumulates for one picture."""
    image_size: tuple[int, int]
    pictures: str
    """What was shown."""
    machine: Machine
    peaks: Mapping[str, float]
    """Operations a second of matrix products, by precision."""
    stages: Mapping[str, float]
    """Seconds of a core that a picture takes around the engine."""
    rows: tuple[Row, ...]


def bench(
    source: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    engines: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    pictures: str | os.PathLike[str] | None = None,
    peers: bool = False,
    seconds: float = SECONDS,
    output: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    revision: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    parity: str | None = None,
    device: str | None = "auto",
    exact: bool = False,
    on_start: Callable[[Sequence[str], float], None] | None = None,
) -> Bench:
    """Measures latency, throughput and memory of a model by engine and precision, all of them in turns.

    What isn't named here is as in `vitkit.load`. `engines` are all of them unless said, `dtypes` float32 and, where the
    hardware has it, bfloat16. Up to 200 `pictures` of a folder or pattern are shown, read into memory beforehand,
    else generated ones. `peers` adds transformers and timm, with the same weights. Racing takes about `seconds`, longer
    where single calls do; `on_start` is told the contestants, and how long all will take. `output` is a plot
    (.png) or a page (.html). An engine that isn't installed, or doesn't know a precision, is a row that says so; where
    none is left, the first one's error is raised. Raises as `load`, ConfigError for what was asked, DataError and
    ImageError for pictures.
    """
    target = pick_device(device)
    runners = tuple(ENGINES) if engines is None else engines
    kinds = dtypes or (("float32", "bfloat16") if has_native_bfloat16(target) else ("float32",))
    _check(runners, kinds, seconds, output)
    loading = {"preset": preset, "revision": revision, "image_size": image_size, "parity": parity, "exact": exact}
    entries = [
        Entry(runner=engine, dtype=dtype, source=os.fspath(source), device=str(target), loading=loading)
        for engine, dtype in itertools.product(runners, kinds)
        if dtypes or dtype in ENGINES[engine].dtypes  # what was asked for is answered, and be it by why it can't be
    ]
    faults: Faults = {}
    loaded = _each(entries, Entry.load, faults)
    if not loaded:
        raise next(iter(faults.values()))
    first = next(iter(loaded.values()))
    shown, described = _shown(pictures, first, target)
    with tempfile.TemporaryDirectory(prefix="vitkit-bench-") as place:
        entries += _peers(first, kinds, str(target), Path(place), faults) if peers else []
        contestants = _each(entries, lambda entry: build(entry, shown, loaded.get(entry.name)), faults)
        racing = [entry for entry in entries if entry.name in contestants]
        if on_start is not None:
            on_start([entry.name for entry in racing], _forecast(contestants, kinds, seconds))
        alone = _each(racing, run_alone, faults)
        before = _peaks(target, kinds)
        speeds = race(contestants, seconds)
        peaks = {kind: max(peak, before[kind]) for kind, peak in _peaks(target, kinds).items()}

    rows = []
    for entry in entries:
        name, fault = entry.name, faults.get(entry.name)
        row = Row(runner=entry.runner, dtype=entry.dtype, note=entry.note if fault is None else str(fault))
        if name in speeds:
            best = speeds[name].best
            row = dataclasses.replace(
                row,
                speed=speeds[name],
                peak_share=2 * first.spec.macs() * best.images_per_s / peaks[entry.dtype],
                core_s=core_seconds(contestants[name].of_size(best.images), CORE_S),
                alone=alone.get(name),
            )
        rows.append(row)
    found = Bench(
        model=first.report.source,
        title=first.spec.title,
        parameters=first.spec.num_parameters(),
        macs=first.spec.macs(),
        image_size=first.spec.image_size,
        pictures=described,
        machine=_machine(target, [entry.runner for entry in racing]),
        peaks=peaks,
        stages=core_seconds_of_stages(first, shown.pictures[:MADE], STAGES_S),
        rows=tuple(rows),
    )
    if output is not None:
        write_bench(output, found)
    return found


def _check(engines: Sequence[str], kinds: Sequence[str], seconds: float, output: str | os.PathLike[str] | None) -> None:
    faults = [f"engine {name!r} is unknown; allowed: {', '.join(ENGINES)}" for name in engines if name not in ENGINES]
    if not engines:
        faults.append(f"no engine is named; allowed: {', '.join(ENGINES)}")
    if not 0 < seconds < math.inf:
        faults.append(f"seconds is {seconds:g}; it must be larger than 0")
    if faults:
        raise ConfigError(list_faults(faults))
    for kind in kinds:
        parse_dtype(kind)
    if output is not None:
        check_bench_output(output)


def _each(entries: Sequence[Entry], make: Callable[[Entry], T], faults: Faults) -> dict[str, T]:
    """What is made of each that has no fault yet, by name; a fault is noted, and the others go on."""
    made = {}
    for entry in entries:
        if entry.name not in faults:
            try:
                made[entry.name] = make(entry)
            except (ConfigError, EngineError) as error:
                faults[entry.name] = error
    return made


def _shown(pictures: str | os.PathLike[str] | None, vit: Predictor, device: torch.device) -> tuple[Shown, str]:
    """What is shown, as much of it as the first contestant has time for, and what it is called."""
    wanted = vit.card.preprocess
    if pictures is None:
        several = made_pictures(MADE, wanted)
        called = f"{MADE} generated pictures of {WIDTH}x{HEIGHT}"
    else:
        files = list(itertools.islice(list_pictures([os.fspath(pictures)]), MOST_PICTURES))
        for _ in vit.embed(files):  # raises for one that can't be read
            pass
        several = [Path(file).read_bytes() for file in files]
        called = f"{len(files):,} pictures of {os.fspath(pictures)}"
    vit.embed(several[0])
    one_s = _seconds(lambda: vit.embed(several[0]))
    sizes = [size for size in SIZES.get(device.type, SIZES["cuda"]) if size == 1 or size * one_s <= CALL_S]
    fewest, most = MANY
    return Shown(several, sizes, min(max(int(CALL_S / one_s), fewest), most)), called


def _peers(vit: Predictor, kinds: Sequence[str], device: str, place: Path, faults: Faults) -> list[Entry]:
    """Entries of the other libraries, whose folders are written with this model's weights."""
    made = []
    for library, layout in LAYOUTS.items():
        folder = place / library
        note = None
        entries = [Entry(runner=library, dtype=kind, source=str(folder), device=device, loading={}) for kind in kinds]
        try:
            note = _write_for(layout, vit, folder)
        except VitkitError as error:
            faults |= {entry.name: error for entry in entries}
        made += [dataclasses.replace(entry, note=note) for entry in entries]
    return made


def _write_for(layout: str, vit: Predictor, folder: Path) -> str | None:
    """Writes the model's weights for another library; returns what isn't the same there."""
    wanted = vit.card.preprocess
    if wanted is not None and (wanted.channels != 3 or wanted.value_range is not None):
        raise CheckpointError("colour pictures of 8 bits are all that it is shown")
    spec: Any = vit.spec
    other = getattr(spec, "norm_eps", TIMM_EPS) != TIMM_EPS and layout == "timm"
    module = vit.module
    if other:  # timm has no other; it changes no speed
        module = build_model(model_spec(dataclasses.replace(spec, norm_eps=TIMM_EPS)))
        module.load_state_dict(vit.module.state_dict())
    save(module, folder, preprocess=wanted, layout=layout)
    return f"LayerNorm with eps {TIMM_EPS:g}, not {spec.norm_eps:g}" if other else None


def _forecast(contestants: Mapping[str, Contestant], kinds: Sequence[str], seconds: float) -> float:
    one_s = {name: _seconds(each.one) for name, each in contestants.items()}
    around = len(contestants) * (ALONE_S + CORE_S) + 2 * len(kinds) * PEAK_S + STAGES_S
    return forecast(contestants, one_s, seconds) + around


def _seconds(run: Callable[[], object]) -> float:
    """Of the second call."""
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _peaks(device: torch.device, kinds: Sequence[str]) -> dict[str, float]:
    return {kind: matrix_peak(device, parse_dtype(kind), PEAK_S) for kind in kinds}


def _machine(device: torch.device, runners: Sequence[str]) -> Machine:
    packages = ["vitkit", "torch", *(PACKAGES.get(runner, runner) for runner in runners)]
    return Machine(
        processor=processor_name(device),
        threads=torch.get_num_threads(),
        versions={name: importlib.metadata.version(name) for name in dict.fromkeys(packages)},
    )
