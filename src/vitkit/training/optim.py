"""Optimisers over few parameter groups: torch's own where it has them, fused where it can."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from vitkit.errors import ConfigError
from vitkit.model.base import UNDECAYED, ImageModel
from vitkit.training.objective import Objective
from vitkit.training.spec import OptimizerName, TrainSpec

__all__ = ["Lion", "MuonWithAdamW", "build_optimizer", "suited_to", "takes_muon"]

Group: TypeAlias = dict[str, Any]


class Grouped(Protocol):
    """A model that knows its layers."""

    @property
    def num_layers(self) -> int: ...

    def parameter_groups(self, lr: float, *, weight_decay: float, layer_decay: float) -> list[Group]: ...

    def layer_of(self, name: str) -> int: ...


def suited_to(optimizer: OptimizerName, spec: TrainSpec) -> TrainSpec:
    """`spec`, whose rates are meant for AdamW, with those of `optimizer`: a default, which what a user says goes over.

    Lion steps by signs: a fifth of the rate with five times the decay, which is as strong as before, and 0.99 for the
    second factor (Chen et al., 2023, section 5). Muon's steps are as long as AdamW's (`MuonWithAdamW`). SGD's decay
    is part of the gradient, and as strong as ResNets'.
    """
    if optimizer == "lion":
        spec = dataclasses.replace(spec, lr=spec.lr / 5, weight_decay=spec.weight_decay * 5, beta2=0.99)
    elif optimizer == "sgd":
        spec = dataclasses.replace(spec, lr=spec.lr * SGD_RATE, weight_decay=1e-4)
    return dataclasses.replace(spec, optimizer=optimizer)


SGD_RATE = 50
"""SGD's rate for each of AdamW's."""


def build_optimizer(model: Grouped, objective: Objective, spec: TrainSpec) -> torch.optim.Optimizer:
    """The optimiser that `spec` names, over the model's groups and the objective's own parameters.

    Each group keeps its peak rate as "peak_lr"; the loop sets "lr" from it at every step. Raises ConfigError for Muon
    where there is no hidden matrix, or no Muon in this torch.
    """
    groups = model.parameter_groups(spec.lr, weight_decay=spec.weight_decay, layer_decay=spec.layer_decay)
    hidden: list[Group] = []
    if spec.optimizer == "muon":
        hidden, groups = _part_hidden(model, groups)
    own = [(name, parameter) for name, parameter in objective.named_parameters() if parameter.requires_grad]
    held = [parameter for name, parameter in own if parameter.ndim > 1 and not name.endswith(UNDECAYED)]
    free = [parameter for name, parameter in own if parameter.ndim <= 1 or name.endswith(UNDECAYED)]
    for parameters, decay in ((held, spec.weight_decay), (free, 0.0)):
        if parameters:
            groups.append({"params": parameters, "lr": spec.lr, "weight_decay": decay})
    for group in (*hidden, *groups):
        group["peak_lr"] = group["lr"]
    betas = (0.9, spec.beta2)
    if spec.optimizer == "muon":
        return MuonWithAdamW(hidden, groups, lr=spec.lr, betas=betas)
    if spec.optimizer == "lion":
        return Lion(groups, lr=spec.lr, betas=betas)
    if spec.optimizer == "sgd":
        nesterov = spec.momentum > 0
        fused = not hasattr(groups[0]["params"][0], "full_tensor")  # torch has no fused SGD for divided weights
        return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, nesterov=nesterov, fused=fused)
    if spec.optimizer == "adam":
        for group in groups:
            group["weight_decay"] = 0.0
        return torch.optim.Adam(groups, lr=spec.lr, betas=betas, fused=True)
    return torch.optim.AdamW(groups, lr=spec.lr, betas=betas, fused=True)


def takes_muon(model: ImageModel) -> bool:
    """Whether Muon can be had: in this torch, and with matrices of blocks that learn."""
    learning = ((name, each) for name, each in model.named_parameters() if each.requires_grad)
    return hasattr(torch.optim, "Muon") and any(_is_hidden(model, name, each) for name, each in learning)


def _is_hidden(model: Grouped, name: str, parameter: nn.Parameter) -> bool:
    inside = 0 < model.layer_of(name) < model.num_layers
    return inside and parameter.ndim == 2 and not name.endswith(UNDECAYED)


def _part_hidden(model: Grouped, groups: list[Group]) -> tuple[list[Group], list[Group]]:
    """The groups with the matrices of the blocks alone, and with all the rest: embedding, head, norms, biases."""
    parted: dict[bool, list[Group]] = {True: [], False: []}
    for group in groups:
        named = list(zip(group["names"], group["params"], strict=True))
        inside = {name for name, parameter in named if _is_hidden(model, name, parameter)}
        for hidden, found in parted.items():
            if kept := [(name, parameter) for name, parameter in named if (name in inside) == hidden]:
                names, parameters = zip(*kept, strict=True)
                found.append({**group, "names": list(names), "params": list(parameters)})
    if not parted[True]:
        raise ConfigError(
            "optimizer 'muon' is for the matrices of a Transformer's blocks, and this model has none that learns; "
            "allowed: adamw, adam, sgd, lion"
        )
    return parted[True], parted[False]


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (Jordan, 2024) for the `hidden` groups of matrices, AdamW for the others, as one optimiser.

    Both are torch's own. Muon's step is 0.2 sqrt(longer side) times an orthogonal matrix, as long as AdamW's usual one,
    so that one rate and one decay serve both (Liu et al., 2025, arXiv:2502.16982, section 2.2).
    """

    def __init__(self, hidden: list[Group], others: list[Group], *, lr: float, betas: tuple[float, float]) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError(f"optimizer 'muon' needs torch 2.9 or newer, this is {torch.__version__}")
        muon = torch.optim.Muon(hidden, lr=lr, adjust_lr_fn="match_rms_adamw")
        self._parts: list[torch.optim.Optimizer] = [muon]
        if others:
            self._parts.append(torch.optim.AdamW(others, lr=lr, betas=betas, fused=True))
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of both."""
        groups = iter(self.param_groups)
        for part in self._parts:  # which hold no state of their own: load_state_dict replaces groups and state here
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state
            part.step()

    def __getstate__(self) -> dict[str, Any]:
        """With the two parts, which the base class would leave out of a copy."""
        return {**super().__getstate__(), "_parts": self._parts}


class Lion(torch.optim.Optimizer):
    """Steps along the sign of a gradient that leans on its average; decoupled decay (Chen et al., 2023, program 1)."""

    def __init__(self, groups: list[Group], *, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters: list[nn.Parameter] = [each for each in group["params"] if each.grad is not None]
            if not parameters:
                continue
            gradients = [each.grad for each in parameters]
            for each in parameters:
                if "exp_avg" not in self.state[each]:
                    self.state[each]["exp_avg"] = torch.zeros_like(each)
            averages = [self.state[each]["exp_avg"] for each in parameters]
            beta1, beta2 = group["betas"]
            direction = torch._foreach_lerp(averages, gradients, 1 - beta1)  # type: ignore[arg-type]
            torch._foreach_sign_(direction)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])  # type: ignore[arg-type]
            torch._foreach_add_(parameters, direction, alpha=-group["lr"])  # type: ignore[arg-type]
            torch._foreach_lerp_(averages, gradients, 1 - beta2)  # type: ignore[arg-type]
