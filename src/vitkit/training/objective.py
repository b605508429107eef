"""What a training step computes: objectives own whatever training needs beyond the model (decoders, teachers, ...)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.data.augment import Augmentation, AugmentSpec
from vitkit.data.batch import Batch
from vitkit.data.mix import MixSpec
from vitkit.training.spec import TrainSpec

__all__ = ["Classification", "Loss", "Objective", "Step"]


@dataclass(frozen=True)
class Loss:
    """What is minimised, and its named parts for the log (detached scalars)."""

    total: Tensor
    parts: dict[str, Tensor]


class Objective(nn.Module):
    """Base of every objective. Its parameters train beside the model's; they, its buffers and teachers are saved.

    A parameter that doesn't require a gradient, such as a teacher's, is saved and moved but not trained. Whatever is
    drawn in `forward` comes from torch's global generator, which every step seeds.
    """

    classifies: ClassVar[bool] = False
    """Whether the model's head learns the classes. Without, the model has no head: what is trained is an encoder."""
    score: ClassVar[str | None] = None
    """The entry of `validate` by which the best checkpoint is chosen, higher being better."""

    @classmethod
    def defaults(cls, start: TrainSpec) -> TrainSpec:
        """The settings that suit it, made from those that suit the start; a user's go on top."""
        return start if cls.classifies else dataclasses.replace(start, label_smoothing=0.0, mix=MixSpec())

    @classmethod
    def make(cls, model: nn.Module, spec: TrainSpec) -> Self:
        """The objective for training `model`; ConfigError where it can't be. A teacher starts as a copy of `model`."""
        return cls()

    def views(self, augment: AugmentSpec, held: tuple[int, int], size: tuple[int, int]) -> Sequence[Augmentation]:
        """How `Batch.views` are made from pictures of size `held` for a model of `size`. One view by default."""
        return [Augmentation(augment, held, size)]

    def forward(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        """The loss of one batch. It changes nothing that is saved: a step whose loss isn't finite never was."""
        raise TypeError(f"{type(self).__name__} says no loss: an objective overrides forward")

    def after_step(self, model: nn.Module, step: int, steps: int) -> None:
        """After the optimiser's step, number `step` of `steps` planned: a teacher's moving average and the like."""

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Named scores on held-out batches, the model and itself in eval mode. None by default."""
        return {}


class Step(nn.Module):
    """The one module whose forward returns the loss: what DDP and FSDP2 wrap, and torch.compile compiles."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch, step: int) -> Loss:
        """The objective's loss of `batch` at `step`."""
        loss: Loss = self.objective(self.model, batch, step)
        return loss


def at_least_float32(logits: Tensor) -> Tensor:
    """`logits` for a softmax: bfloat16 is too coarse for one, float64 stays."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Classification(Objective):
    """Cross-entropy on labels, smoothed (Szegedy et al., 2016), or on the soft labels that MixUp and CutMix give."""

    classifies = True
    score = "accuracy"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    @classmethod
    def make(cls, model: nn.Module, spec: TrainSpec) -> Self:
        """With the label smoothing of `spec`."""
        return cls(spec.label_smoothing)

    def forward(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        """Mean cross-entropy over the batch, pictures weighted by `batch.weight`."""
        logits = at_least_float32(model(batch.views[0]))
        if "label_weights" in batch.targets:
            losses = -(batch.targets["label_weights"] * logits.log_softmax(dim=-1)).sum(dim=-1)
        else:
            losses = F.cross_entropy(
                logits, batch.targets["label"], label_smoothing=self.label_smoothing, reduction="none"
            )
        total = (losses * batch.weight).sum() / batch.weight.sum()
        return Loss(total, {})

    @torch.inference_mode()
    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Accuracy (share of right first answers) and mean cross-entropy."""
        right = count = 0
        loss = 0.0
        for batch in batches:
            logits, labels = at_least_float32(model(batch.views[0])), batch.targets["label"]
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(dim=-1) == labels).sum())
            count += len(labels)
        return {"accuracy": right / count, "loss": loss / count}
