"""What a training step computes: objectives own whatever training needs beyond the model (decoders, teachers, ...)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vitkit.data.augment import Augmentation, AugmentSpec
from vitkit.data.batch import Batch
from vitkit.data.mix import MixSpec, soften_labels
from vitkit.data.samples import Samples
from vitkit.errors import ConfigError
from vitkit.training.losses import class_weights, sigmoid_loss, softmax_loss
from vitkit.training.scores import score_labels, summary
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
    per_class: bool = False
    """Whether each class is a question of its own: answers are sigmoids rather than a softmax."""
    score: str | None = None
    """The entry of `validate` by which the best checkpoint is chosen, higher being better."""
    scores_are_means: bool = False
    """Whether each entry of `validate` is a mean over pictures: then processes divide the held-out ones among them."""

    @classmethod
    def defaults(cls, start: TrainSpec, samples: Samples) -> TrainSpec:
        """The settings that suit it, made from those that suit the start, for `samples`; a user's go on top."""
        return start if cls.classifies else dataclasses.replace(start, label_smoothing=0.0, mix=MixSpec())

    @classmethod
    def make(cls, model: nn.Module, spec: TrainSpec, samples: Samples) -> Self:
        """The objective for training `model` on `samples`; ConfigError where it can't be.

        A teacher starts as a copy of `model`.
        """
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
    """The loss of labels, one or several a picture, smoothed (Szegedy et al., 2016) or mixed (MixUp, CutMix)."""

    classifies = True

    def __init__(
        self,
        *,
        multi_label: bool = False,
        loss: str = "softmax",
        gamma: float = 0.0,
        weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.score = "mAP" if multi_label else "accuracy"
        self.scores_are_means = not multi_label
        self.multi_label = multi_label
        self.per_class = loss == "bce" or multi_label
        self.gamma = gamma if loss == "focal" else 0.0
        self.label_smoothing = label_smoothing
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)

    @classmethod
    def defaults(cls, start: TrainSpec, samples: Samples) -> TrainSpec:
        """Of several labels each is a question of its own, and not smoothed: rare ones would drown in the rest."""
        return dataclasses.replace(start, loss="bce", label_smoothing=0.0) if samples.multi_label else start

    @classmethod
    def make(cls, model: nn.Module, spec: TrainSpec, samples: Samples) -> Self:
        """The loss and class weights of `spec`, label smoothing and what else it says of labels."""
        if samples.multi_label and spec.loss == "softmax":
            raise ConfigError(
                f"loss is softmax, of one class a picture; {samples.name} has several: choose bce or focal"
            )
        return cls(
            multi_label=samples.multi_label,
            loss=spec.loss,
            gamma=spec.focal_gamma,
            weights=class_weights(spec, samples),
            label_smoothing=spec.label_smoothing,
        )

    def forward(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        """Mean loss over the batch, pictures weighted by `batch.weight`."""
        logits = at_least_float32(model(batch.views[0]))
        return Loss(self.mean(self.losses(logits, batch), batch), {})

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss of each picture, [B], of logits [B, K]."""
        labels = batch.targets.get("label_weights")
        if labels is None:
            labels = soften_labels(self._labels(batch), logits.shape[1], self.label_smoothing)
        return self._losses(logits, labels, self.weights)

    def mean(self, losses: Tensor, batch: Batch) -> Tensor:
        """Of losses [B], pictures weighted by `batch.weight`."""
        return (losses * batch.weight).sum() / batch.weight.sum()

    @torch.inference_mode()
    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Accuracy (share of right first answers), or of several labels their summary; and the mean loss.

        The loss is neither smoothed nor weighted by classes.
        """
        said, right = [], []
        for batch in batches:
            said.append(at_least_float32(model(batch.views[0])))
            right.append(self._labels(batch))
        logits, labels = torch.cat(said), torch.cat(right)
        loss = float(self._losses(logits, soften_labels(labels, logits.shape[1], 0.0)).mean())
        if self.multi_label:
            return {**summary(score_labels(labels.cpu().numpy() > 0, logits.cpu().numpy())), "loss": loss}
        return {"accuracy": int((logits.argmax(dim=-1) == labels).sum()) / len(labels), "loss": loss}

    def _labels(self, batch: Batch) -> Tensor:
        return batch.targets["labels" if self.multi_label else "label"]

    def _losses(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        loss = sigmoid_loss if self.per_class else softmax_loss
        return loss(logits, labels, weights, self.gamma)
