"""A small training that must not depend on how its batches are cut: mixing, drop path, clipping, an uneven batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitkit import Preprocess, VisionTransformer
from vitkit.data.augment import AUGMENTS, Augmentation
from vitkit.data.batch import Batch
from vitkit.data.loader import Loader
from vitkit.data.mix import MixSpec
from vitkit.data.slices import Slices
from vitkit.data.store import MemoryStore
from vitkit.training.log import read_log
from vitkit.training.loop import Fitted, fit
from vitkit.training.objective import Classification
from vitkit.training.spec import TrainSpec

SPEC = TrainSpec(epochs=10, batch_size=10, lr=3e-3, clip_norm=0.5, evaluate_every=5, seed=1)


class Double:
    """A loader whose pictures are float64."""

    def __init__(self, loader: Loader) -> None:
        self.steps_per_epoch = loader.steps_per_epoch
        self._loader = loader

    def batches(self, start: int, stop: int, stride: int = 1, **early: Any) -> Iterator[Batch]:
        for batch in self._loader.batches(start, stop, stride, **early):
            yield replace(batch, views=tuple(view.double() for view in batch.views), weight=batch.weight.double())


def loader(*, training: bool, slices: Slices, augment: str = "photos") -> Loader:
    """47 pictures: five batches an epoch, the last of them of seven."""
    rng = np.random.default_rng(0)
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(size=(8, 8), resize="none", crop="none", interpolation="bicubic", mean=half, std=half)
    pixels, labels = rng.integers(0, 256, (47, 8, 8, 3), dtype=np.uint8), rng.integers(0, 3, 47)
    return Loader(
        MemoryStore(pixels),
        labels,
        3,
        preprocess,
        batch_size=SPEC.batch_size,
        seed=1,
        shuffle=training,
        augment=[Augmentation(AUGMENTS[augment], (8, 8), (8, 8))] if training else (),
        mix=MixSpec(mixup=0.4, cutmix=1.0, label_smoothing=0.1) if training else None,
        slices=slices,
    )


def train(folder: Path, *, slices: Slices, dtype: torch.dtype, **options: Any) -> Fitted:
    """Fifty steps."""
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=8, patch_size=4, num_classes=3, embed_dim=16, depth=2, num_heads=2, mlp_dim=32, drop_path=0.3
    )
    training, held_out = loader(training=True, slices=slices), loader(training=False, slices=Slices())
    return fit(
        model.to(dtype),
        Classification(),
        Double(training) if dtype == torch.float64 else training,
        Double(held_out) if dtype == torch.float64 else held_out,
        replace(SPEC, accumulate=slices.accumulate),
        folder,
        device=torch.device("cpu"),
        dtype=torch.float32,  # no autocast
        **options,
    )


def numbers(folder: Path, name: str) -> list[float]:
    """What the log says of `name` at every step, and at every evaluation."""
    return [row[name] for row in read_log(folder / "log.jsonl") if name in row]
