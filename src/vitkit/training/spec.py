"""What a training does, as data: one schema for Python, the command's flags and recipes in TOML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from vitkit.data.augment import AugmentSpec
from vitkit.data.mix import MixSpec
from vitkit.errors import ConfigError, list_faults
from vitkit.model.lora import LoraSpec
from vitkit.training.distill_spec import DistillSpec

__all__ = ["OptimizerName", "TrainSpec", "differences"]


OptimizerName: TypeAlias = Literal["adamw", "adam", "sgd", "lion", "muon"]


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Everything that decides the weights a training ends with, and its budget. ConfigError lists all faults."""

    objective: str = field(default="classification", metadata=_help("what is minimised: a name in api/objectives.py"))
    epochs: int = field(default=20, metadata=_help("passes over the training pictures"))
    minutes: float | None = field(default=None, metadata=_help("plan the schedule to end after so many minutes"))
    batch_size: int = field(default=64, metadata=_help("pictures per step, in all processes and slices together"))
    lr: float = field(default=1e-3, metadata=_help("peak learning rate"))
    weight_decay: float = field(default=0.05, metadata=_help("on weights; not on biases, norms, tokens, positions"))
    optimizer: OptimizerName = field(
        default="adamw",
        metadata=_help(
            "adam is adamw without decay; sgd with Nesterov momentum; muon on the blocks' matrices, adamw on the rest. "
            "The usual lr, weight_decay and beta2 follow: sgd 50 lr, 1e-4; lion lr / 5, 5 weight_decay, 0.99"
        ),
    )
    beta2: float = field(default=0.999, metadata=_help("the second factor of adamw, adam and lion; the first is 0.9"))
    momentum: float = field(default=0.9, metadata=_help("of sgd; 0 = none"))
    layer_decay: float = field(default=1.0, metadata=_help("rate of a layer relative to the one above it"))
    warmup: float = field(default=0.1, metadata=_help("share of the steps in which the rate rises"))
    final_lr: float = field(default=0.01, metadata=_help("share of the peak rate that the cosine ends at"))
    clip_norm: float | None = field(default=1.0, metadata=_help("largest norm of the gradient; none = no clipping"))
    loss: Literal["softmax", "bce", "focal"] = field(
        default="softmax",
        metadata=_help("cross-entropy of one class of all; bce = each class for itself; focal = hard pictures more"),
    )
    focal_gamma: float = field(default=2.0, metadata=_help("how much less focal minds easy pictures"))
    class_weights: Literal["balanced"] | Mapping[str, float] | None = field(
        default=None, metadata=_help("of classes in the loss: balanced = the rare ones more; a table by name")
    )
    sampling: Literal["all", "balanced"] = field(
        default="all", metadata=_help("each picture once an epoch; balanced = every class equally often")
    )
    label_smoothing: float = field(default=0.1, metadata=_help("probability given to all classes alike"))
    ema_decay: float = field(default=0.998, metadata=_help("of the weights' moving average; 0 = none"))
    drop_path: float | None = field(default=None, metadata=_help("stochastic depth; none = the model's own"))
    tune: Literal["full", "head", "lora"] = field(
        default="full", metadata=_help("what of a checkpoint learns: all, its head, or LoRA's products and its head")
    )
    lora: LoraSpec = field(default_factory=LoraSpec, metadata=_help("size and places of LoRA's products"))
    distill: DistillSpec = field(
        default_factory=DistillSpec, metadata=_help("the teacher of the objective distillation")
    )
    augment: AugmentSpec = field(default_factory=AugmentSpec, metadata=_help("how training pictures vary"))
    repeats: int = field(default=1, metadata=_help("times a picture comes in a row, each time varied anew"))
    early_size: int | None = field(
        default=None, metadata=_help("side of the training pictures before the `late` steps; none = the model's own")
    )
    late: float = field(default=0.15, metadata=_help("share of the steps, the last ones, that early_size leaves"))
    mix: MixSpec = field(default_factory=MixSpec, metadata=_help("MixUp and CutMix"))
    seed: int = field(default=0, metadata=_help("of the initialisation, order, augmentation, dropout"))
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto", metadata=_help("of the matrix products; auto = bfloat16 where the hardware has it")
    )
    compile: bool = field(default=False, metadata=_help("torch.compile the step"))
    accumulate: int = field(default=1, metadata=_help("slices a process computes a step's pictures in, to save memory"))
    gradient_checkpointing: bool = field(
        default=False, metadata=_help("compute blocks again on the way back instead of keeping them: less memory")
    )
    evaluate_every: int = field(
        default=1, metadata=_help("epochs between evaluations; 0 = none: held-out pictures are read once, at the end")
    )
    save_every_s: float = field(default=120.0, metadata=_help("seconds between checkpoints, besides those at epochs"))

    def __post_init__(self) -> None:
        """Checks the ranges."""
        faults = []
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("accumulate", 1),
            ("repeats", 1),
            ("evaluate_every", 0),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                faults.append(f"{name} is {getattr(self, name)}; at least {least}")
        for name in ("lr", "save_every_s"):
            if not getattr(self, name) > 0:
                faults.append(f"{name} is {getattr(self, name)}; it must be larger than 0")
        for name in ("weight_decay", "layer_decay", "focal_gamma"):
            if not getattr(self, name) >= 0:
                faults.append(f"{name} is {getattr(self, name)}; at least 0")
        for name in ("warmup", "final_lr", "label_smoothing", "ema_decay", "beta2", "momentum", "drop_path", "late"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                faults.append(f"{name} is {value}; allowed: from 0 to below 1")
        for name in ("minutes", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                faults.append(f"{name} is {value}; it must be larger than 0")
        if self.early_size is not None and self.early_size < 1:
            faults.append(f"early_size is {self.early_size}; at least 1")
        if self.accumulate > max(self.batch_size // 2, 1):
            faults.append(f"accumulate is {self.accumulate}; at most batch_size / 2, {max(self.batch_size // 2, 1)}")
        if isinstance(self.class_weights, Mapping):
            faults += [
                f"class_weights.{name} is {weight}; a finite number, at least 0"
                for name, weight in self.class_weights.items()
                if not 0 <= weight < math.inf
            ]
        if faults:
            raise ConfigError(list_faults(faults))


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Each field in which two specs differ, as "name: old, now new"."""
    found = []
    for entry in dataclasses.fields(old):
        a, b = getattr(old, entry.name), getattr(new, entry.name)
        name = f"{where}{entry.name}"
        if dataclasses.is_dataclass(a) and type(a) is type(b):
            found += differences(a, b, f"{name}.")
        elif a != b:
            found.append(f"{name}: {a}, now {b}")
    return found
