"""The proof a checkpoint carries: three small pictures, samples of their pixels and named intermediates, their logits.

`check` repeats the computation, on another machine or in another year, and names the first stage that departs. The
pictures are stored, not only described, so that an export can be proved where vitkit isn't installed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vitkit.errors import CheckpointError
from vitkit.image.preprocess import Preprocess, apply

__all__ = [
    "FILE",
    "SIZES",
    "STAGE_TOLERANCE",
    "Stage",
    "check",
    "check_answers",
    "check_pixels",
    "first_departure",
    "make",
    "pictures",
    "read_proof",
    "relative",
    "said_by_proof",
    "shown",
    "write_proof",
]

FILE = "proof.safetensors"
LIMIT_BYTES = 200_000

SIZES = ((48, 64), (80, 56), (61, 97))
"""(height, width) of the pictures: wide, tall, and odd, so that a crop's rounding shows."""
PIXEL_SAMPLES, STAGE_SAMPLES, LOGIT_SAMPLES = 256, 32, 4096

PIXEL_TOLERANCE = 1e-5
"""Largest absolute difference of normalised pixels: float32 rounding of values within about +-3."""
STAGE_TOLERANCE = 1e-4
"""Largest difference of a stage in float32, relative to its largest value: another processor or thread count adds up
in another order, which moves logits by a few 1e-6 of the largest."""


@dataclass(frozen=True)
class Stage:
    """One named step of the computation, compared."""

    name: str
    difference: float
    """Largest absolute difference, for every stage but "pixels" relative to the stage's largest value."""
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance; never so for NaN."""
        return self.difference <= self.tolerance


def pictures(
    channels: int, sizes: Sequence[tuple[int, int]] = SIZES, *, full_scale: int = 255
) -> list[NDArray[np.uint8 | np.uint16]]:
    """The three pictures, uint8 [H, W, C]: smooth slopes, edges and noise from whole-number arithmetic alone.

    Or up to seven of other `sizes`, (height, width); uint16 where `full_scale` is 65,535.
    """
    made: list[NDArray[np.uint8 | np.uint16]] = []
    for number, (height, width) in enumerate(sizes):
        y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
        slope = (x * (3 + number) + y * (2 + c)) % 256
        edges = ((x // (5 + c)) + (y // (7 - number))) % 2 * 90
        noise = (x * 7919 + y * 104729 + c * 1299709 + number * 15485863) % 61
        levels = (slope + edges + noise) % 256
        made.append(levels.astype(np.uint8) if full_scale == 255 else (levels * 257).astype(np.uint16))
    return made


def make(module: nn.Module, preprocess: Preprocess) -> dict[str, Tensor]:
    """The proof of `module` in float32 on the CPU: named tensors, to be kept beside its weights."""
    proof: dict[str, Tensor] = {}
    made = pictures(preprocess.channels, _small_sizes(preprocess), full_scale=preprocess.full_scale)
    pixels = torch.from_numpy(np.stack([apply(preprocess, picture) for picture in made]))
    for number, picture in enumerate(made):
        proof[f"picture.{number}"] = torch.from_numpy(picture)
    proof["pixels"] = _sample(pixels, PIXEL_SAMPLES)
    for name, value in _stages(module, pixels).items():
        proof[f"stage.{name}"] = value
    return proof


def _small_sizes(preprocess: Preprocess) -> list[tuple[int, int]]:
    """SIZES, made smaller where many or deep channels would fill the proof."""
    pixel_bytes = preprocess.channels * preprocess.pixel_type.itemsize
    area = sum(height * width for height, width in SIZES)
    shrink = max(1, math.ceil(math.sqrt(area * pixel_bytes / (LIMIT_BYTES / 2))))
    return [(max(height // shrink, 1), max(width // shrink, 1)) for height, width in SIZES]


def check(module: nn.Module, preprocess: Preprocess, proof: Mapping[str, Tensor]) -> list[Stage]:
    """Every stage of `proof`, repeated with `module` and compared, in the order of the computation."""
    pixels = torch.from_numpy(np.stack([apply(preprocess, picture) for picture in shown(proof)]))
    stages = [check_pixels(preprocess, proof)]
    now = _stages(module, pixels)
    then = {name.removeprefix("stage."): value for name, value in proof.items() if name.startswith("stage.")}
    nothing = torch.empty(0)
    return stages + [
        _compared(name, now.get(name, nothing), then.get(name, nothing))
        for name in [*now, *(name for name in then if name not in now)]
    ]


def shown(proof: Mapping[str, Tensor]) -> list[NDArray[np.uint8 | np.uint16]]:
    """The pictures that a proof holds, [H, W, C]."""
    return [proof[f"picture.{number}"].numpy() for number in range(len(SIZES))]


def check_pixels(preprocess: Preprocess, proof: Mapping[str, Tensor]) -> Stage:
    """The pixels of the pictures, made again."""
    pixels = torch.from_numpy(np.stack([apply(preprocess, picture) for picture in shown(proof)]))
    return Stage("pixels", _distance(_sample(pixels, PIXEL_SAMPLES), proof["pixels"]), PIXEL_TOLERANCE)


def check_answers(answers: Tensor, proof: Mapping[str, Tensor]) -> Stage:
    """The model's outputs [3, K] for the pictures, however they were computed, against the proof's "logits"."""
    return _compared("logits", _sample(answers, LOGIT_SAMPLES), proof["stage.logits"])


def _compared(name: str, now: Tensor, then: Tensor) -> Stage:
    """Not alike where one is missing, which an empty tensor says."""
    return Stage(name, relative(now, then), STAGE_TOLERANCE)


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference in shares of the largest expected value, which may be 0 as a new head's answers are.

    Infinite where the shapes differ, where nothing is expected, and for NaN.
    """
    if not expected.numel() or found.shape != expected.shape:
        return math.inf
    difference = _distance(found, expected) / max(float(expected.abs().max()), 1e-30)
    return difference if math.isfinite(difference) else math.inf


def first_departure(stages: list[Stage]) -> Stage | None:
    """The first stage that departs, None where all agree."""
    return next((stage for stage in stages if not stage.agrees), None)


def write_proof(file: Path, proof: Mapping[str, Tensor], said: Mapping[str, str] = {}) -> None:
    """Writes a proof, with what else is `said` in its header; it is less than 200 kB by construction."""
    content = save(dict(proof), metadata={"format": "vitkit-proof-1", **said})
    assert len(content) < LIMIT_BYTES, f"a proof of {len(content)} bytes"
    file.write_bytes(content)


def read_proof(file: Path) -> dict[str, Tensor]:
    """Reads a proof; CheckpointError where there is none or it is damaged."""
    if not file.is_file():
        raise CheckpointError(f"{file}: this checkpoint carries no proof; vitkit convert writes one")
    try:
        proof = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: the proof is damaged ({error})") from error
    wanted = {"pixels", "stage.logits", *(f"picture.{number}" for number in range(len(SIZES)))}
    if not wanted <= proof.keys():
        raise CheckpointError(f"{file}: the proof lacks {', '.join(sorted(wanted - proof.keys()))}")
    return proof


def said_by_proof(file: Path) -> dict[str, str]:
    """What else than tensors a proof's header holds; the proof has been read before."""
    with safe_open(file, framework="pt") as content:
        return dict(content.metadata() or {})


def _stages(module: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    """Samples of what the parts of the model give, observed from outside, in the order they finish; logits last."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> object:
        def hook(part: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            seen[name] = _sample(output if isinstance(output, Tensor) else output[0], STAGE_SAMPLES)

        return hook

    with _float32_eval(module) as plain, torch.inference_mode():
        hooks = [part.register_forward_hook(watch(name)) for name, part in _parts(plain)]  # type: ignore[arg-type]
        try:
            logits: Tensor = plain(pixels)
        finally:
            for hook in hooks:
                hook.remove()
    seen["logits"] = _sample(logits, LOGIT_SAMPLES)
    return seen


def _parts(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The parts that a model calls one after the other: its children, or their own where these hold lists."""
    for name, part in module.named_children():
        if isinstance(part, nn.ModuleList) or any(isinstance(inner, nn.ModuleList) for inner in part.children()):
            yield from _parts(part, f"{path}{name}.")
        else:
            yield f"{path}{name}", part


@contextmanager
def _float32_eval(module: nn.Module) -> Iterator[nn.Module]:
    """The module itself in eval mode where it is float32 on the CPU, else a copy that is; modes are restored."""
    training = {part: part.training for part in module.modules()}
    try:
        module.eval()
        plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in module.parameters())
        if plain:
            yield module
        else:
            import copy

            yield copy.deepcopy(module).float().cpu()
    finally:
        for part, mode in training.items():
            part.training = mode


def _sample(value: Tensor, count: int) -> Tensor:
    """At most `count` values of each picture [B, ...], evenly spread, as float32 [B, count]."""
    rows = value.detach().float().flatten(1)
    if rows.shape[1] > count:
        rows = rows[:, torch.linspace(0, rows.shape[1] - 1, count, dtype=torch.float64).long()]
    return rows.contiguous().clone()


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max().item())
