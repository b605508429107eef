"""The baseline of a training: what the start's features say already, by nearest neighbours and a linear probe."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.config import from_dict, read_json, to_dict
from vitkit.data.batch import Batch
from vitkit.data.loader import Loader
from vitkit.evaluation.probe import fit_probe, knn_votes
from vitkit.files import replace_file
from vitkit.model.base import ImageModel
from vitkit.training.loop import autocast_of
from vitkit.training.scores import score_labels
from vitkit.training.spec import TrainSpec

__all__ = ["Baseline", "keep_baseline", "measure_baseline", "read_baseline"]

FILE = "baseline.json"
LIMIT_S, SHARE_OF_MINUTES = 60.0, 0.05
"""Seconds it may take, and its share of a training planned in minutes."""

PIXEL_GRID = 16
"""A new model has no features yet: pictures shrunk to 16x16 stand in for them."""


@dataclass(frozen=True)
class Baseline:
    """Accuracy on the held-out pictures, or of several labels mean average precision, before any training."""

    features: Literal["model", "pixels"]
    """What was compared: the start's embeddings, or pixels shrunk to 16x16 where there is no start."""
    knn: float
    probe: float
    learnt: int
    """Training pictures that were used, drawn at random where `limit_s` didn't allow all."""
    judged: int
    """Held-out pictures that were used."""
    seconds: float
    score: Literal["accuracy", "mAP"] = "accuracy"

    def __str__(self) -> str:
        """One line for people."""
        of = {"model": "the start's features as they are", "pixels": "plain pixels"}[self.features]
        cost = f"{self.learnt:,} pictures, {self.seconds:.0f} s"
        name = "" if self.score == "accuracy" else f"{self.score} "
        return f"{name}k-NN {self.knn:.2%}, linear probe {self.probe:.2%} (of {of}, {cost})"


def keep_baseline(
    folder: Path,
    model: ImageModel | None,
    training: Loader,
    evaluation: Loader,
    num_classes: int,
    spec: TrainSpec,
    device: torch.device,
    dtype: torch.dtype,
) -> Baseline:
    """The baseline of the run in `folder`: as measured at its first start, which its baseline.json keeps."""
    if (kept := read_baseline(folder)) is not None:
        return kept
    limit_s = LIMIT_S if spec.minutes is None else min(LIMIT_S, spec.minutes * 60 * SHARE_OF_MINUTES)
    found = measure_baseline(model, training, evaluation, num_classes, device=device, dtype=dtype, limit_s=limit_s)
    with replace_file(folder / FILE) as part:
        part.write_text(json.dumps(to_dict(found), indent=2) + "\n", encoding="utf-8")
    return found


def read_baseline(folder: Path) -> Baseline | None:
    """That of the run in `folder`, None where none was measured. ConfigError where its file isn't one."""
    file = folder / FILE
    if not file.is_file():
        return None
    return from_dict(Baseline, read_json(file), origin=str(file))


def measure_baseline(
    model: ImageModel | None,
    training: Loader,
    evaluation: Loader,
    num_classes: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
    limit_s: float,
) -> Baseline:
    """Scores `model`'s embeddings, or pixels without one, in about `limit_s` seconds at most."""
    start = time.perf_counter()
    plain = training.plain()
    seen, labels = _features(model, plain, device, dtype, limit_s * 0.7)
    asked, right = _features(model, evaluation, device, dtype, limit_s * 0.2)
    votes = knn_votes(seen, labels, asked, num_classes)
    logits = fit_probe(seen, labels, num_classes).logits(asked)
    knn, probe = (_score(answer, right) for answer in (votes, logits))
    return Baseline(
        features="pixels" if model is None else "model",
        knn=knn,
        probe=probe,
        learnt=len(labels),
        judged=len(right),
        seconds=time.perf_counter() - start,
        score="accuracy" if right.ndim == 1 else "mAP",
    )


def _score(answers: Tensor, right: Tensor) -> float:
    if right.ndim == 1:
        return float((answers.argmax(dim=1) == right).float().mean())
    return score_labels(right.numpy() > 0, answers.numpy()).mean_average_precision


def _features(
    model: ImageModel | None, loader: Loader, device: torch.device, dtype: torch.dtype, limit_s: float
) -> tuple[Tensor, Tensor]:
    """Features [n, D] of the loader's pictures, of as many batches as the time allows, at least one; and their labels.

    Labels are [n], or of several [n, K].
    """
    rows, labels = [], []
    end = time.perf_counter() + limit_s
    with torch.inference_mode(), autocast_of(device, dtype):
        for batch in loader.batches(0, loader.steps_per_epoch):
            rows.append(_embed(model, batch.to(device)).float().cpu())
            labels.append(batch.targets["label" if "label" in batch.targets else "labels"].cpu())
            if time.perf_counter() > end:
                break
    return torch.cat(rows), torch.cat(labels)


def _embed(model: ImageModel | None, batch: Batch) -> Tensor:
    if model is not None:
        embedding: Tensor = model.to(batch.index.device).eval().embed(batch.views[0])
        return embedding
    height, width = batch.views[0].shape[2:]
    return F.adaptive_avg_pool2d(batch.views[0], (min(PIXEL_GRID, height), min(PIXEL_GRID, width))).flatten(1)
