"""Optimisers against their papers' formulas and timm's, with the groups that layers and decay ask for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small import small_model
from vitkit import ResNet
from vitkit.errors import ConfigError
from vitkit.training.objective import Classification
from vitkit.training.optim import Lion, build_optimizer, suited_to
from vitkit.training.spec import TrainSpec
from vitkit.training.state import Progress, TrainState, restore, save_checkpoint

SETTINGS: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1, "layer_decay": 0.5, "beta2": 0.95}


def gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def plain(kind: str, p: Tensor, g: Tensor, memory: Tensor, *, lr: float, decay: float) -> tuple[Tensor, Tensor]:
    """One step as the papers write it: the new parameter and the new memory."""
    if kind == "sgd":  # Sutskever et al. 2013, in the form of PyTorch's documentation
        g = g + decay * p
        memory = 0.9 * memory + g
        return p - lr * (g + 0.9 * memory), memory
    direction = (0.9 * memory + 0.1 * g).sign()  # Chen et al. 2023, program 1
    return p - lr * (direction + decay * p), 0.95 * memory + 0.05 * g


@pytest.mark.parametrize("kind", ["sgd", "lion"])
def test_steps_are_the_papers_in_every_group(kind: Any) -> None:
    model = small_model().double()
    optimizer = build_optimizer(model, Classification(), TrainSpec(optimizer=kind, **SETTINGS))
    expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    memory = {name: torch.zeros_like(parameter) for name, parameter in expected.items()}
    parameters = dict(model.named_parameters())
    groups = model.parameter_groups(1e-2, weight_decay=0.1, layer_decay=0.5)
    rates = {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert len(set(rates.values())) > 4
    for step in range(3):
        gradients(list(parameters.values()), step)
        for name, parameter in parameters.items():
            lr, decay = rates[name]
            assert parameter.grad is not None
            expected[name], memory[name] = plain(kind, expected[name], parameter.grad, memory[name], lr=lr, decay=decay)
        optimizer.step()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.peer
def test_lion_is_timms() -> None:
    import timm.optim

    ours, theirs = ([nn.Parameter(torch.full((3, 4), 0.5)), nn.Parameter(torch.ones(5))] for _ in range(2))
    group = {"params": ours, "weight_decay": 0.3}
    pair = Lion([group], lr=0.02, betas=(0.9, 0.98)), timm.optim.Lion(theirs, 0.02, (0.9, 0.98), 0.3)
    for step in range(4):
        gradients(ours, step)
        gradients(theirs, step)
        for optimizer in pair:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_muon_turns_the_blocks_matrices_and_adamw_moves_the_rest() -> None:
    """Jordan 2024: the step has singular values near 1; Liu et al. 2025 scale it by 0.2 sqrt(longer side)."""
    model = small_model()
    optimizer = build_optimizer(model, Classification(), TrainSpec(optimizer="muon", **SETTINGS))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    gradients(list(model.parameters()), 0)
    groups = model.parameter_groups(1e-2, weight_decay=0.1, layer_decay=0.5)
    rates = {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}
    optimizer.step()
    turned = set()
    for name, parameter in model.named_parameters():
        lr, decay = rates[name]
        moved = (before[name] * (1 - lr * decay) - parameter.detach()) / lr
        if parameter.ndim == 2:
            values = torch.linalg.svdvals(moved / (0.2 * max(moved.shape) ** 0.5))
            if values.min() > 0.5 and values.max() < 1.3 and name.startswith("blocks."):
                turned.add(name)
                continue
        torch.testing.assert_close(moved, torch.sign(moved), rtol=1e-3, atol=1e-3)  # AdamW's first step
    matrices = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    assert turned == {f"blocks.{i}.{name}.weight" for i in range(2) for name in matrices}


@pytest.mark.peer
def test_muon_is_timms() -> None:
    import timm.optim

    model = small_model()
    twin = copy.deepcopy(model)
    optimizer = build_optimizer(model, Classification(), TrainSpec(optimizer="muon", lr=1e-2, weight_decay=0.1))
    names = ["blocks.0.attn.qkv.weight", "blocks.1.mlp.fc2.weight"]
    mine, others = (dict(each.named_parameters()) for each in (model, twin))
    theirs = timm.optim.Muon(
        [others[name] for name in names], lr=1e-2, weight_decay=0.1, momentum=0.95, nesterov=True,
        adjust_lr_fn="match_rms_adamw", algo="muon", ns_coefficients="original",
    )  # fmt: skip
    for step in range(3):
        for parameters in (mine, others):
            gradients(list(parameters.values()), step)
        optimizer.step()
        theirs.step()
    for name in names:
        # Five Newton-Schulz steps in bfloat16, whose products the two form in other orders.
        torch.testing.assert_close(mine[name], others[name], rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd", "lion", "muon"])
def test_a_saved_optimiser_goes_on_with_the_same_bits(kind: Any, tmp_path: Path) -> None:
    spec = TrainSpec(optimizer=kind, **SETTINGS)

    def fresh() -> TrainState:
        model = small_model()
        return TrainState(model, Classification(), build_optimizer(model, Classification(), spec), None, Progress())

    whole, resumed = fresh(), fresh()
    for step in range(6):
        gradients(list(whole.model.parameters()), step)
        whole.optimizer.step()
        if step == 2:
            restore(save_checkpoint(tmp_path, whole), resumed)
            resumed = copy.deepcopy(resumed)  # as a trial for --minutes is made
        if step > 2:
            gradients(list(resumed.model.parameters()), step)
            resumed.optimizer.step()
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_muon_needs_matrices_in_blocks() -> None:
    model = ResNet(image_size=32, depths=(1, 1), num_classes=3)
    with pytest.raises(ConfigError, match="'muon' is for the matrices of a Transformer's blocks.*allowed: adamw"):
        build_optimizer(model, Classification(), TrainSpec(optimizer="muon"))


def test_the_usual_rates_follow_the_optimiser() -> None:
    start = TrainSpec(lr=1e-3, weight_decay=0.05, beta2=0.999)
    lion, sgd, muon = (suited_to(kind, start) for kind in ("lion", "sgd", "muon"))
    assert lion == TrainSpec(optimizer="lion", lr=2e-4, weight_decay=0.25, beta2=0.99)
    assert lion.lr * lion.weight_decay == pytest.approx(start.lr * start.weight_decay)
    assert (sgd.lr, sgd.weight_decay) == (0.05, 1e-4)
    assert muon == TrainSpec(optimizer="muon")
