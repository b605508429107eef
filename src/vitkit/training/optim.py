"""Optimisers over few parameter groups, fused where torch has it."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from vitkit.model.base import UNDECAYED
from vitkit.training.objective import Objective
from vitkit.training.spec import TrainSpec

__all__ = ["build_optimizer"]


class Grouped(Protocol):
    """A model that knows its layers."""

    def parameter_groups(self, lr: float, *, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]: ...


def build_optimizer(model: Grouped, objective: Objective, spec: TrainSpec) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, 2019) or Adam over the model's groups and the objective's own parameters.

    Each group keeps its peak rate as "peak_lr"; the loop sets "lr" from it at every step.
    """
    groups = model.parameter_groups(spec.lr, weight_decay=spec.weight_decay, layer_decay=spec.layer_decay)
    own = [(name, parameter) for name, parameter in objective.named_parameters() if parameter.requires_grad]
    held = [parameter for name, parameter in own if parameter.ndim > 1 and not name.endswith(UNDECAYED)]
    free = [parameter for name, parameter in own if parameter.ndim <= 1 or name.endswith(UNDECAYED)]
    for parameters, decay in ((held, spec.weight_decay), (free, 0.0)):
        if parameters:
            groups.append({"params": parameters, "lr": spec.lr, "weight_decay": decay})
    for group in groups:
        group["peak_lr"] = group["lr"]
    kind = torch.optim.AdamW if spec.optimizer == "adamw" else torch.optim.Adam
    if spec.optimizer == "adam":
        for group in groups:
            group["weight_decay"] = 0.0
    return kind(groups, lr=spec.lr, betas=(0.9, spec.beta2), fused=True)
