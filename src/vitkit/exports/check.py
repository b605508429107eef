"""Whether an export answers as torch does, on noise in several batches and sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from vitkit.checkpoint.proof import Stage, relative
from vitkit.exports.artifact import Run
from vitkit.exports.graph import CropGraph

__all__ = ["BATCHES", "TOLERANCE", "against_torch"]

TOLERANCE = 1e-5
"""Largest difference of an output in float32, relative to its largest value, from torch on the same machine."""
BATCHES = (1, 2, 5)


def against_torch(run: Run, graph: CropGraph) -> list[Stage]:
    """Every output of noise, run by `run` and by torch: in several batches and, where they are free, in other sizes."""
    stages = []
    for count, size in _shapes(graph):
        pixels = graph.example(count, size, seed=count)
        with torch.inference_mode():
            expected = graph(torch.from_numpy(pixels))
        found = run(pixels)
        height, width = pixels.shape[1:3]
        for name, values in expected.items():
            difference = relative(torch.from_numpy(found[name]), values) if name in found else math.inf
            stages.append(Stage(f"{name} of {count} at {height}x{width}", difference, TOLERANCE))
    return stages


def _shapes(graph: CropGraph) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """Batches and sizes (height, width): the graph's own, None, and, where a model takes other crops, two more."""
    yield from ((count, None) for count in BATCHES)
    height, width = graph.preprocess.size
    step = graph.size_step
    if step is not None and graph.form == "crops":
        yield 2, (height + 2 * step, width)
        yield 2, (max(height - 2 * step, step * graph.least_steps), width + 3 * step)
