"""Gradient checkpointing changes memory and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small import SMALL, randomise
from vitkit import ResNet, SwinTransformer, VisionTransformer
from vitkit.training.recompute import recomputed

SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
RESNET = {"image_size": 32, "depths": (2, 1), "num_classes": 7, "drop_path": 0.5}
MODELS = {
    "vit": lambda: VisionTransformer(**SMALL, drop_path=0.5, dropout=0.3, attention_dropout=0.2, position="relative"),
    "swin": lambda: SwinTransformer(**SWIN, num_classes=7, drop_path=0.5, dropout=0.2),
    "batch norm": lambda: ResNet(**RESNET, block="basic"),
    "group norm": lambda: ResNet(**RESNET, block="preactivation"),
}  # fmt: skip


def step(model: nn.Module, *, on: bool) -> tuple[Tensor, list[Tensor], int]:
    """Loss, all gradients and buffers after a step; and the bytes kept for the way back."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    torch.manual_seed(1)
    pixels = torch.randn(4, 3, 32, 32)
    with recomputed(model, on), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = model.train()(pixels).square().sum()
        before_backward = kept
        loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return loss.detach(), [*gradients, *model.buffers()], before_backward


@pytest.mark.parametrize("name", MODELS)
def test_loss_gradients_and_buffers_are_the_same_bits_for_less_memory(name: str) -> None:
    plain: Any = randomise(MODELS[name]())
    twin = copy.deepcopy(plain)
    (loss, tensors, much), (same, twins, little) = step(plain, on=False), step(twin, on=True)
    assert torch.equal(loss, same) and len(tensors) == len(twins)
    assert all(torch.equal(a, b) for a, b in zip(tensors, twins, strict=True))
    assert little < 0.6 * much
    assert "forward" not in vars(twin.encoder_blocks[0])


@pytest.mark.parametrize("name", MODELS)
def test_the_blocks_are_those_that_features_numbers(name: str) -> None:
    model: Any = randomise(MODELS[name]())
    said: list[Tensor] = []
    for block in model.encoder_blocks:
        block.register_forward_hook(lambda block, inputs, output: said.append(output))
    count = model.spec.num_blocks
    layers = model.features(torch.randn(1, 3, 32, 32), range(count)).layers
    assert len(said) == len(model.encoder_blocks) == count
    for output, layer in zip(said, layers, strict=True):
        assert torch.equal(output.flatten().sort()[0], layer.flatten().sort()[0])
