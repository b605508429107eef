"""Losses of a classifier, and how much each class counts in them.

Labels are probabilities [B, K] (`data.mix.soften_labels`), so that smoothing and mixing fit every loss. A softmax loss
is of one class among K; a sigmoid loss asks K questions of yes or no and is their mean, as torch's and timm's are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.data.samples import Samples
from vitkit.errors import ConfigError, list_faults, nearest
from vitkit.training.spec import TrainSpec

__all__ = ["class_weights", "sigmoid_loss", "softmax_loss"]


def softmax_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None, gamma: float = 0.0) -> Tensor:
    """Cross-entropy of each picture [B], classes weighted by `weights` [K]; with `gamma` focal (Lin et al., 2017)."""
    log_p = logits.log_softmax(dim=-1)
    if gamma:
        # The slope of a power below 1 is infinite where a class is certain; there it counts for nothing.
        log_p = log_p * (1 - log_p.exp()).clamp_min(torch.finfo(log_p.dtype).eps) ** gamma
    return -(labels * log_p * (1 if weights is None else weights)).sum(dim=-1)


def sigmoid_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None, gamma: float = 0.0) -> Tensor:
    """Mean binary cross-entropy of each picture [B], a yes weighted by `weights` [K] (torch's pos_weight).

    With `gamma` focal: the factor (1 - p)^gamma of RetinaNet's, without its alpha, which `weights` stand for.
    """
    log_yes, log_no = F.logsigmoid(logits), F.logsigmoid(-logits)
    yes = labels * log_yes * (1 if weights is None else weights)
    no = (1 - labels) * log_no
    if gamma:
        yes, no = yes * (gamma * log_no).exp(), no * (gamma * log_yes).exp()
    return -(yes + no).mean(dim=-1)


def class_weights(spec: TrainSpec, samples: Samples) -> Tensor | None:
    """The setting `class_weights` as float32 [K] for the training pictures; ConfigError for names that aren't classes.

    "balanced" is n / (K n_k), as scikit-learn's: the mean over the pictures is 1. Of several labels it is what weighs
    the yes of a class against its no: (n - n_k) / n_k.
    """
    if spec.class_weights is None:
        return None
    if spec.class_weights == "balanced":
        counts = torch.from_numpy(samples.counts()).double()
        n = len(samples)
        balanced = (n - counts).clamp_min(1) / counts if samples.multi_label else n / (len(counts) * counts)
        return balanced.float()
    names = samples.class_names
    strange = [f"{name!r}{nearest(name, names)}" for name in spec.class_weights if name not in names]
    if strange:
        raise ConfigError(f"class_weights names classes that {samples.name} doesn't have: {list_faults(strange)}")
    return torch.tensor([spec.class_weights.get(name, 1.0) for name in names])
