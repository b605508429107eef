"""Graphs as torch programs: traced once by torch.export, which the other formats are made of; and their file, .pt2."""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

from vitkit.errors import CheckpointError
from vitkit.exports.graph import CropGraph
from vitkit.exports.metadata import KEY
from vitkit.image.limits import DEFAULT_LIMITS

__all__ = ["constants", "read_text", "runner", "trace", "without_warnings", "write"]

SMALL = 64
"""Numbers in an array that may be a normalisation's."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """Inside, what torch's exporters warn of in their own code, and what they log, stays out of the user's way."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def trace(graph: CropGraph) -> ExportedProgram:
    """The graph of any batch and of all sizes that `graph.size_step` allows."""
    step = graph.size_step
    shape: dict[int, Any] = {0: Dim("batch", min=1)}
    size = None
    if step is not None:
        height, width = graph.preprocess.size
        # An example of the model's own size, or a square one, would be taken for the rule.
        size = (height + step, width + 2 * step)
        most = DEFAULT_LIMITS.max_side // step
        rows, columns = (Dim(name, min=graph.least_steps, max=most) for name in ("rows", "columns"))
        shape |= {1: step * rows, 2: step * columns}
    crops = torch.from_numpy(graph.example(2, size))
    with torch.no_grad(), without_warnings():
        return torch.export.export(graph, (crops,), dynamic_shapes=(shape,), strict=False)


def write(graph: CropGraph, file: Path, text: str) -> None:
    """Writes the program to `file`, with the metadata `text`."""
    with without_warnings():
        torch.export.save(trace(graph), file, extra_files={KEY: text})


def read_text(file: Path) -> str | None:
    """The metadata's text, None where there is none; CheckpointError where the file is damaged."""
    try:
        with zipfile.ZipFile(file) as content:
            names = [name for name in content.namelist() if name.endswith(f"/extra/{KEY}")]
            return content.read(names[0]).decode() if names else None
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{file}: can't be read, it is damaged ({error})") from None


def constants(file: Path) -> list[NDArray[Any]]:
    """The small arrays in the graph."""
    kept = torch.export.load(file).constants.values()
    return [one.numpy() for one in kept if isinstance(one, torch.Tensor) and one.numel() <= SMALL]


def runner(file: Path) -> Any:
    """A function from what the graph takes, [B, H, W, C], to outputs, by torch in float32 on the CPU."""
    program = torch.export.load(file).module()

    def run(pixels: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            return {name: values.numpy() for name, values in program(torch.from_numpy(pixels)).items()}

    return run
