"""Labels that look wrong: linear heads, learnt on the other pictures, would rather say another class.

A picture's label is judged out of sample, by heads that never learnt it (confident learning: Northcutt, Jiang, Chuang,
2021), and by how it was learnt: the margin by which its label leads, or trails, over the epochs in which it was among
the others (area under the margin: Pleiss, Zhang, Elenberg, Weinberger, 2020). Either is a rank; their sum orders the
suspects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.data.doctor.findings import Finding
from vitkit.data.doctor.pictures import THUMBNAIL, Look
from vitkit.data.doctor.survey import Survey
from vitkit.data.keys import permutation, uniform

__all__ = ["Heads", "LabelJudgement", "check_labels", "learn_heads"]

FOLDS, EPOCHS, BATCH = 5, 15, 256
LR, MOMENTUM, DECAY = 0.05, 0.9, 1e-2
LENGTH = 192**0.5
"""Of a standardised picture, whatever the number of its features: what LR was chosen for, on ViT-Ti's embeddings."""
TRUSTED = 0.65
"""Share of labels that heads must agree with, out of sample, before they may doubt the others."""


@dataclass(frozen=True, eq=False)
class Heads:
    """What cross-validated heads say of n pictures."""

    logits: NDArray[np.float32]
    """[n, K], each row of heads that didn't learn the picture."""
    margins: NDArray[np.float32]
    """[n]: of the label over the best other class, the mean over the epochs of the heads that learnt it."""


@dataclass(frozen=True)
class LabelJudgement:
    """The suspects, the worst first, and how they were found."""

    findings: tuple[Finding, ...]
    told: str


def check_labels(
    survey: Survey, seen: Look, features: NDArray[np.float32] | None = None, *, limit: int = 100, seed: int = 0
) -> LabelJudgement:
    """Suspected labels by `features` [n, D], rows of NaN left out; without any, by the pictures' colours and shapes."""
    samples = survey.samples
    if samples.multi_label:
        return LabelJudgement((), "Labels weren't judged: that takes one label a picture.")
    by = "a model's embeddings" if features is not None else "the pictures' own colours and shapes"
    rows = _plain_features(seen) if features is None else features
    at = np.flatnonzero((seen.sizes[:, 0] > 0) & np.isfinite(rows).all(axis=1))
    labels = samples.labels[at]
    counts = np.bincount(labels, minlength=samples.num_classes)
    judged = np.isin(labels, np.flatnonzero(counts >= FOLDS))
    at, labels = at[judged], labels[judged]
    if len(np.unique(labels)) < 2:
        return LabelJudgement((), f"Labels weren't judged: that takes two classes of {FOLDS} pictures or more.")
    words = np.array([int.from_bytes(seen.digests[row][:8], "little", signed=True) for row in at], np.int64)
    heads = learn_heads(rows[at], labels, words, samples.num_classes, seed=seed)
    said = heads.logits.argmax(axis=1)
    agreed = float((said == labels).mean())
    told = f"Linear heads on {by}, learnt without the pictures they judge, agree with {agreed:.1%} of the labels."
    if agreed < TRUSTED:
        more = "give a model (--model) whose embeddings do" if features is None else "give another model"
        return LabelJudgement((), f"{told} That doesn't tell the classes apart: no label was doubted; {more}.")
    margins = margins_of(heads.logits, labels)
    order = np.argsort(_ranks(margins) + _ranks(heads.margins), kind="stable")
    suspects = order[said[order] != labels[order]][:limit]
    findings = [_finding(survey, int(at[row]), samples.class_names[said[row]]) for row in suspects]
    return LabelJudgement(tuple(findings), told)


def learn_heads(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    words: NDArray[np.int64],
    num_classes: int,
    *,
    seed: int = 0,
) -> Heads:
    """FOLDS heads on standardised features [n, D], each learnt without its part of the pictures.

    `words` [n] stand for the pictures: equal ones share a part, so that none vouches for its copy.
    """
    part = (uniform(seed, 0, words, "fold") * FOLDS).astype(np.int64)
    spread = features.std(axis=0, dtype=np.float64)
    standard = (features - features.mean(axis=0, dtype=np.float64)) / np.where(spread > 0, spread, 1)
    inputs = torch.from_numpy((standard * (LENGTH / features.shape[1] ** 0.5)).astype(np.float32))
    targets = torch.from_numpy(labels)
    logits = np.zeros((len(labels), num_classes), np.float32)
    margins = np.zeros(len(labels), np.float32)
    for fold in range(FOLDS):
        learnt = np.flatnonzero(part != fold)
        head = torch.zeros(features.shape[1] + 1, num_classes)
        speed = torch.zeros_like(head)
        for epoch in range(EPOCHS):
            _epoch(head, speed, inputs, targets, learnt[permutation(seed, epoch, len(learnt))], 1 - epoch / EPOCHS)
            answers = (inputs @ head[1:] + head[0]).numpy()
            margins[learnt] += margins_of(answers[learnt], labels[learnt]) / (EPOCHS * (FOLDS - 1))
        logits[part == fold] = answers[part == fold]
    return Heads(logits, margins)


def margins_of(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """By how much each label's logit leads the best of the others, [n]; negative where it trails."""
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    return np.asarray(logits[rows, labels] - others.max(axis=1))


def _epoch(head: Tensor, speed: Tensor, inputs: Tensor, targets: Tensor, order: NDArray[np.int64], rate: float) -> None:
    """One pass of softmax regression by gradient descent with momentum, in place; bias in the first row of `head`."""
    for start in range(0, len(order), BATCH):
        at = torch.from_numpy(order[start : start + BATCH])
        batch = inputs[at]
        wrong = torch.softmax(batch @ head[1:] + head[0], dim=1)
        wrong[torch.arange(len(at)), targets[at]] -= 1
        gradient = torch.cat([wrong.sum(0, keepdim=True), batch.T @ wrong]) / len(at) + DECAY * head
        speed.mul_(MOMENTUM).add_(gradient)
        head.sub_(LR * rate * speed)


def _ranks(values: NDArray[np.float32]) -> NDArray[np.int64]:
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def _plain_features(seen: Look) -> NDArray[np.float32]:
    """What needs no model: the picture in 16 x 16 grey spots and 8 x 8 coloured ones, [n, 448]."""
    grey = seen.thumbnails.reshape(-1, 16, THUMBNAIL // 16, 16, THUMBNAIL // 16).mean(axis=(2, 4))
    return np.concatenate([grey.reshape(len(grey), -1), seen.colours.reshape(len(grey), -1)], axis=1, dtype=np.float32)


def _finding(survey: Survey, at: int, rather: str) -> Finding:
    samples = survey.samples
    label = samples.class_names[samples.labels[at]]
    return Finding("label", f"{samples.describe(at)}: {label!r}, rather {rather!r}?", (at,), rather)
