"""Distillation: a student learns from labels and from a teacher's answers, through a token of its own where it has one.

"Training data-efficient image transformers & distillation through attention" (Touvron et al., 2021, arXiv:2012.12877),
section 4; a teacher that sees the student's own view, however it is cropped and mixed, is the consistent one of
"Knowledge distillation: a good teacher is patient and consistent" (Beyer et al., 2022, arXiv:2106.05237).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.data.batch import Batch
from vitkit.data.loader import Loader
from vitkit.data.samples import Samples
from vitkit.errors import ConfigError, list_faults
from vitkit.model.base import ImageModel
from vitkit.training.distill_spec import DistillSpec
from vitkit.training.objective import Classification, Loss, at_least_float32
from vitkit.training.spec import TrainSpec

__all__ = ["Distillation", "Teacher", "check_distilling"]


@dataclass(frozen=True, eq=False)
class Teacher:
    """A classifier that is shown the student's pictures in its own normalisation and size. It is nobody's submodule:
    it is neither trained nor saved, wrapped or put into training mode.
    """

    module: ImageModel
    outputs: Tensor
    """int64 [K]: which of its outputs are the student's classes."""
    scale: Tensor
    offset: Tensor
    """[C, 1, 1] each: from the student's normalisation to its own."""
    size: tuple[int, int]

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """Pictures as the student sees them [B, C, h, w] to logits [B, K]."""
        seen = pictures * self.scale + self.offset
        if seen.shape[2:] != self.size:
            seen = F.interpolate(seen, self.size, mode="bicubic", antialias=True)
        return at_least_float32(self.module(seen)).index_select(1, self.outputs)


class Distillation(Classification):
    """(1 - alpha) times the loss of the labels, on the class head, and alpha times that of the teacher's answers.

    These are for the distillation head where the student has one, else for the class head too. Hard answers are labels,
    the class of the highest output, of softmax and sigmoid alike, equation 3; soft ones are softmax probabilities at a
    temperature T, their loss T^2 KL(teacher | student), equation 2.
    """

    settings = DistillSpec()
    teacher: Teacher | None = None
    """Set before the first step."""

    @classmethod
    def make(cls, model: nn.Module, spec: TrainSpec, samples: Samples) -> Self:
        """The labels' part as in a classification, and the teacher's by `spec.distill`."""
        made = super().make(model, spec, samples)
        if made.per_class:
            raise ConfigError(
                f"a teacher's answers are of one class a picture: loss is {spec.loss!r}, and {samples.name} has "
                f"{'several labels' if samples.multi_label else 'one label'} a picture; choose softmax or focal for one"
            )
        made.settings = spec.distill
        return made

    def forward(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        """Both losses of a batch, whose targets hold the teacher's answers or else it is asked."""
        view, student = batch.views[0], cast(ImageModel, model)
        logits = [at_least_float32(each) for each in student.heads(student.embed(view))]
        answers = batch.targets.get("answers")
        of_labels = self.losses(logits[0], batch)
        of_teacher = self.distances(logits[-1], self.answers(view) if answers is None else answers)
        parts = {"label_loss": self.mean(of_labels, batch), "teacher_loss": self.mean(of_teacher, batch)}
        total = torch.lerp(parts["label_loss"], parts["teacher_loss"], self.settings.alpha)
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def answers(self, pictures: Tensor) -> Tensor:
        """What the teacher says of pictures [B, C, h, w]: [B, K], rows summing to 1."""
        assert self.teacher is not None
        logits = self.teacher(pictures)
        if self.settings.kind == "hard":
            return F.one_hot(logits.argmax(dim=-1), logits.shape[1]).to(logits)
        return (logits / self.settings.temperature).softmax(dim=-1)

    def distances(self, logits: Tensor, answers: Tensor) -> Tensor:
        """T^2 KL(answers | student) of logits [B, K] at the temperature T, [B]; hard, T is 1 and this cross-entropy."""
        temperature = self.settings.temperature if self.settings.kind == "soft" else 1.0
        log_p = (logits / temperature).log_softmax(dim=-1)
        return temperature**2 * F.kl_div(log_p, answers, reduction="none").sum(dim=-1)

    def all_answers(self, loader: Loader, on_read: Callable[[int, int], None] | None) -> Tensor:
        """What the teacher says of every picture as it is evaluated, [n, K] on the CPU."""
        assert self.teacher is not None
        answers = torch.empty(len(loader), len(self.teacher.outputs))
        done = 0
        with loader.plain() as plain:
            for batch in plain.batches(0, plain.steps_per_epoch):
                answers[batch.index.cpu()] = self.answers(batch.views[0]).cpu()
                done += len(batch)
                if on_read is not None:
                    on_read(done, len(loader))
        return answers


def check_distilling(spec: TrainSpec) -> None:
    """Raises ConfigError where a teacher is missing, not listened to, or speaks to a token that can't learn."""
    faults, distills = [], spec.objective == "distillation"
    if distills and spec.distill.teacher is None:
        faults.append("objective 'distillation' needs distill.teacher (--teacher), a trained classifier")
    if spec.distill != DistillSpec() and not distills:
        faults.append(f"distill is set, but objective is {spec.objective!r}; name a --teacher, or set 'distillation'")
    if distills and spec.distill.token and spec.tune != "full":
        faults.append(f"distill.token adds a token, which tune {spec.tune!r} freezes; set distill.token to false")
    if faults:
        raise ConfigError(list_faults(faults))
