"""Whether an export answers as torch does: on the proof's pictures, and on noise in several batches and sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.checkpoint.proof import LOGIT_SAMPLES, SIZES, STAGE_TOLERANCE, Stage, sample
from vitkit.exports.artifact import Run
from vitkit.exports.graph import CropGraph
from vitkit.image.preprocess import Preprocess, fit

__all__ = ["BATCHES", "TOLERANCE", "against_proof", "against_torch"]

TOLERANCE = 1e-5
"""Largest difference of an output in float32, relative to its largest value, from torch on the same machine."""
BATCHES = (1, 2, 5)


def against_torch(run: Run, graph: CropGraph) -> list[Stage]:
    """Every output of noise, run by `run` and by torch: in several batches and, where they are free, in other sizes."""
    stages = []
    for count, size in _shapes(graph):
        pixels = graph.example(count, size, seed=count)
        with torch.inference_mode():
            expected = {name: values.numpy() for name, values in graph(torch.from_numpy(pixels)).items()}
        found = run(pixels)
        height, width = pixels.shape[1:3]
        for name, values in expected.items():
            difference = _relative(found.get(name), values)
            stages.append(Stage(f"{name} of {count} at {height}x{width}", difference, TOLERANCE))
    return stages


def against_proof(run: Run, preprocess: Preprocess, proof: Mapping[str, Tensor]) -> Stage:
    """The last stage of the proof, run by `run` on its pictures, prepared as `preprocess` says."""
    pictures = [proof[f"picture.{number}"].numpy() for number in range(len(SIZES))]
    outputs = run(np.stack([fit(preprocess, picture) for picture in pictures]))
    found = outputs.get("logits", outputs.get("embedding"))
    expected = proof["stage.logits"].numpy()
    found = None if found is None else sample(torch.from_numpy(found), LOGIT_SAMPLES).numpy()
    return Stage("logits", _relative(found, expected), STAGE_TOLERANCE)


def _shapes(graph: CropGraph) -> Iterator[tuple[int, tuple[int, int]]]:
    """Batches and sizes (height, width): the model's own and, where others are allowed, two more."""
    height, width = graph.preprocess.size
    yield from ((count, (height, width)) for count in BATCHES)
    step = graph.size_step
    if step is not None:
        yield 2, (height + 2 * step, width)
        yield 2, (max(height - 2 * step, step), width + 3 * step)


def _relative(found: NDArray[np.float32] | None, expected: NDArray[np.float32]) -> float:
    """The largest difference in shares of the largest expected value; infinite where the shapes differ, or for NaN."""
    if found is None or found.shape != expected.shape:
        return float("inf")
    difference = np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30)
    return float(difference) if np.isfinite(difference) else float("inf")
