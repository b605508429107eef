"""What features say of classes without training the model that made them: nearest neighbours and a linear probe.

The k-NN vote is that of Wu et al. (2018, arXiv:1805.01978), with the neighbours and temperature of DINO (Caron et al.,
2021, arXiv:2104.14294); the probe is multinomial logistic regression on standardised features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Probe", "fit_probe", "knn_votes"]

NEIGHBOURS, TEMPERATURE = 20, 0.07
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Weights of the squared norm of the probe's kernel, beside the mean cross-entropy; the best one is chosen."""
CHOICE_FRACTION = 0.2
"""Of the features, held out while the penalty is chosen."""
QUERY_ROWS = 1024
"""Queries compared with all features at once: bounds the memory."""


def knn_votes(
    features: Tensor,
    labels: Tensor,
    queries: Tensor,
    num_classes: int,
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Votes [m, K] for `queries` [m, D]: each of the nearest `features` [n, D] by cosine adds exp(cosine / temperature)
    to its class, `labels` [n] in 0..K-1. Of several labels, float32 [n, K] of 0 and 1, it is the share of that, 0..1.
    """
    known, asked = F.normalize(features.float(), dim=1), F.normalize(queries.float(), dim=1)
    votes = torch.zeros(len(asked), num_classes)
    for start in range(0, len(asked), QUERY_ROWS):
        cosines, nearest = (asked[start : start + QUERY_ROWS] @ known.T).topk(min(neighbours, len(known)), dim=1)
        weights = ((cosines - 1) / temperature).exp()  # without the constant factor exp(1 / temperature)
        if labels.ndim == 1:
            votes[start : start + QUERY_ROWS].scatter_add_(1, labels[nearest], weights)
        else:
            shares = weights / weights.sum(dim=1, keepdim=True)
            votes[start : start + QUERY_ROWS] = (shares[:, None] @ labels[nearest])[:, 0]
    return votes


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier of standardised features."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    """[K, D]"""
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """[n, D] to [n, K]."""
        return F.linear((features.float() - self.mean) / self.std, self.weight, self.bias)


def fit_probe(features: Tensor, labels: Tensor, num_classes: int, *, penalty: float | None = None) -> Probe:
    """Multinomial logistic regression of `labels` [n] on `features` [n, D], minimised by L-BFGS.

    The loss is the mean cross-entropy plus `penalty` times half the kernel's squared norm; of several labels, float32
    [n, K] of 0 and 1, that of each class for itself, and their sum. Without a penalty the one of
    PENALTIES that answers best for a fifth of the features, held out, is taken for all of them.
    """
    if penalty is None:
        shuffled = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
        held = max(1, round(CHOICE_FRACTION * len(features)))
        rest, judged = shuffled[held:], shuffled[:held]
        tried = [fit_probe(features[rest], labels[rest], num_classes, penalty=each) for each in PENALTIES]
        losses = [float(_loss(probe.logits(features[judged]), labels[judged])) for probe in tried]
        penalty = PENALTIES[losses.index(min(losses))]
    features = features.float()
    mean, std = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    standard = (features - mean) / std
    weight = torch.zeros(num_classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = _loss(F.linear(standard, weight, bias), labels) + penalty / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Probe(mean, std, weight.detach(), bias.detach())


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(labels)
