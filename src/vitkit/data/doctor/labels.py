"""Labels that look wrong: what learns from the other pictures would rather say another class.

Without training, linear heads judge each label out of sample: they never learnt it (confident learning: Northcutt,
Jiang, Chuang, 2021). Beside what is said of a label stands how it was learnt: the margin by which it leads, or trails,
over the epochs (area under the margin: Pleiss, Zhang, Elenberg, Weinberger, 2020). Either is a rank; their sum orders
the suspects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.data.doctor.findings import Finding
from vitkit.data.doctor.pictures import THUMBNAIL, Look
from vitkit.data.doctor.survey import Survey
from vitkit.data.keys import permutation, uniform
from vitkit.data.samples import Samples

__all__ = ["Answers", "LabelJudgement", "check_labels", "learn_heads", "margins_of"]

FOLDS, EPOCHS, BATCH = 5, 15, 256
LR, MOMENTUM, DECAY = 0.05, 0.9, 1e-2
LENGTH = 192**0.5
"""Of a standardised picture, whatever the number of its features: what LR was chosen for, on ViT-Ti's embeddings."""
TRUSTED = 0.65
"""Share of labels that must be agreed with before the others may be doubted."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What is said of n pictures by what learnt their labels."""

    logits: NDArray[np.float32]
    """[n, K]: of heads that didn't learn the picture, or of the fine-tuned model."""
    margins: NDArray[np.float32]
    """[n]: of the label over the best other class while it was learnt, the mean over the epochs."""


@dataclass(frozen=True)
class LabelJudgement:
    """The suspects, the worst first, and how they were found."""

    findings: tuple[Finding, ...]
    told: str


def check_labels(
    survey: Survey,
    seen: Look,
    features: NDArray[np.float32] | None = None,
    learn: Callable[[Samples], Answers] | None = None,
    *,
    limit: int = 100,
    seed: int = 0,
) -> LabelJudgement:
    """Suspected labels by `features` [n, D], rows of NaN left out; without any, by the pictures' colours and shapes.

    `learn` judges them instead, by a training on the pictures that it is given: all that can be read.
    """
    samples = survey.samples
    if samples.multi_label:
        return LabelJudgement((), "Labels weren't judged: that takes one label a picture.")
    rows = _plain_features(seen) if features is None else features
    at = _judged(samples, (seen.sizes[:, 0] > 0) & np.isfinite(rows).all(axis=1))
    classes, labels = np.unique(samples.labels[at], return_inverse=True)
    if len(classes) < 2:
        return LabelJudgement((), f"Labels weren't judged: that takes two classes of {FOLDS} pictures or more.")
    names = tuple(samples.class_names[each] for each in classes)
    if learn is None:
        words = np.array([int.from_bytes(seen.digests[row][:8], "little", signed=True) for row in at], np.int64)
        answers = learn_heads(rows[at], labels, words, len(names), seed=seed)
        by = "a model's embeddings" if features is not None else "the pictures' own colours and shapes"
        who = f"Linear heads on {by}, learnt without the pictures they judge, agree"
    else:
        answers = learn(replace(samples.subset(at, samples.name), labels=labels, class_names=names))
        who = "The model, fine-tuned on all of them, agrees"
    said = answers.logits.argmax(axis=1)
    agreed = float((said == labels).mean())
    told = f"{who} with {agreed:.1%} of the labels."
    if agreed < TRUSTED:
        more = "give a model (--model) whose embeddings do" if features is None else "give another model"
        return LabelJudgement((), f"{told} That doesn't tell the classes apart: no label was doubted; {more}.")
    order = np.argsort(_ranks(margins_of(answers.logits, labels)) + _ranks(answers.margins), kind="stable")
    suspects = order[said[order] != labels[order]][:limit]
    return LabelJudgement(tuple(_finding(samples, int(at[row]), names[said[row]]) for row in suspects), told)


def _judged(samples: Samples, readable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The places of readable pictures whose class has one for each fold."""
    counts = np.bincount(samples.labels[readable], minlength=samples.num_classes)
    return np.flatnonzero(readable & (counts[samples.labels] >= FOLDS))


def learn_heads(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    words: NDArray[np.int64],
    num_classes: int,
    *,
    seed: int = 0,
) -> Answers:
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
    return Answers(logits, margins)


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


def _finding(samples: Samples, at: int, rather: str) -> Finding:
    label = samples.class_names[samples.labels[at]]
    return Finding("label", f"{samples.describe(at)}: {label!r}, rather {rather!r}?", (at,), rather)
