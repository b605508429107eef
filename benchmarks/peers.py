"""What every benchmark against timm or transformers needs: their import, random weights, interleaved timing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

# torchvision's compiled operators don't load beside a CPU build of torch: timm and transformers, which import its
# Python part, need the operators' names to exist. They are never called.
_operators = torch.library.Library("torchvision", "DEF")
for _schema in (
    "nms(Tensor boxes, Tensor scores, float threshold) -> Tensor",
    "qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor",
    "roi_align(Tensor x, Tensor rois, float scale, int height, int width, int ratio, bool aligned) -> Tensor",
):
    _operators.define(_schema)


def randomise(module: nn.Module, std: float = 0.02) -> nn.Module:
    """Draws every parameter from N(0, std), so that no work can be skipped, and puts the module in eval mode."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std)
    return module.eval()


def interleave(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of each contestant per round: all take turns, the order turning round by one each time."""
    names = list(contestants)
    for _ in range(warmup):
        for name in names:
            contestants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(base: list[float], ours: list[float]) -> tuple[float, float, float]:
    """Median of the pairwise ratios base/ours (above 1: ours is faster), and their quartiles."""
    pairs = sorted(b / o for b, o in zip(base, ours, strict=True))
    quarter = max(len(pairs) // 4, 0)
    return statistics.median(pairs), pairs[quarter], pairs[-1 - quarter]
