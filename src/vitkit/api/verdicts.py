"""What the held-out pictures say of a finished run, and how pictures are shown that say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.data.loader import Loader
from vitkit.explain.explanation import visible
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel
from vitkit.report.html import Block, Figure, Figures
from vitkit.report.sheet import sheet_picture, tile_picture

__all__ = ["SHOWN", "WEIGHTS", "Held", "Verdict", "percent", "picture_of", "run_pictures", "show_pictures"]

SHOWN, COLUMNS = 24, 8
"""Pictures on a sheet, and in its rows."""

WEIGHTS = {"ema": "moving average of the weights", "raw": "weights"}


@dataclass(frozen=True, eq=False)
class Held:
    """What the final weights said about pictures, in their order."""

    logits: NDArray[np.float32]
    embeddings: NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """What the held-out pictures say of a run."""

    scores: dict[str, float]
    test_scores: dict[str, float]
    """Of the test pictures, where there are any."""
    summary: str
    blocks: list[Block]
    """Sections of the page that only this kind of run has."""


def run_pictures(module: ImageModel, loader: Loader) -> Held:
    """The module's answers to all pictures of a loader that doesn't shuffle."""
    logits: list[NDArray[np.float32]] = []
    embeddings: list[NDArray[np.float32]] = []
    hook = module.head.register_forward_pre_hook(lambda head, inputs: embeddings.append(inputs[0].numpy()))
    with torch.inference_mode():
        for batch in loader.batches(0, loader.steps_per_epoch):
            logits.append(module(batch.views[0].cpu()).numpy())
    hook.remove()
    return Held(np.concatenate(logits), np.concatenate(embeddings))


def picture_of(loader: Loader, index: int) -> Tensor:
    """Normalised pixels [C, H, W] of one picture of such a loader."""
    batch = loader.batch(index // loader.batch_size)
    return batch.views[0][index % loader.batch_size].cpu()


def show_pictures(pixels: Sequence[Tensor], captions: Sequence[str], preprocess: Preprocess, file: Path) -> Figures:
    """Normalised pictures [C, H, W] as a sheet in `file`, and as tiles for a page."""
    pictures = [visible(preprocess, each) for each in pixels]
    sheet_picture(pictures, captions, columns=COLUMNS, file=file)
    pairs = zip(pictures, captions, strict=True)
    return Figures([Figure(tile_picture(picture), f"A picture: {text}", text) for picture, text in pairs], width=100)


def percent(share: float, digits: int = 0) -> str:
    """A share for a page."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"
