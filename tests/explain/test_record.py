"""What the tap tells equals attention computed another way, and recording leaves nothing behind."""

import gc
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small import randomise, relative, small_model
from vitkit import ConfigError
from vitkit.checkpoint.read import read
from vitkit.explain.record import record
from vitkit.model.attention import Attend


class ExplicitAttend(nn.Module):
    """The tap's attention written out, its weights kept in the graph."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        self.weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1)
        self.weights.retain_grad()
        return self.weights @ v


@pytest.mark.parametrize("changes", [{}, {"class_token": False, "pool": "mean", "depth": 3}])
@pytest.mark.parametrize("frozen", [False, True])
def test_weights_and_their_gradients_equal_autograd_through_explicit_softmax(
    changes: dict[str, Any], frozen: bool
) -> None:
    model = small_model(**changes).double().requires_grad_(not frozen)
    pixels = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with record(model, gradients=True) as seen:
        logits = model(pixels)
    gradients = seen.attention_gradients(logits[:, 2])
    assert all(parameter.grad is None for parameter in model.parameters())

    explicit = small_model(**changes).double()
    for block in explicit.blocks:
        block.attn.attend = ExplicitAttend()
    explicit(pixels)[:, 2].sum().backward()
    for block, weights, gradient in zip(explicit.blocks, seen.attention(), gradients, strict=True):
        assert relative(weights, block.attn.attend.weights) < 1e-6  # float32
        assert relative(gradient, block.attn.attend.weights.grad) < 1e-6


@pytest.mark.peer
def test_weights_equal_those_of_transformers_eager_attention(tmp_path: Path) -> None:
    import transformers

    config = transformers.ViTConfig(
        image_size=48, hidden_size=40, num_hidden_layers=3, num_attention_heads=5, intermediate_size=96, num_labels=4
    )
    config._attn_implementation = "eager"
    theirs = randomise(transformers.ViTForImageClassification(config))
    theirs.save_pretrained(tmp_path / "m")
    pixels = torch.randn(2, 3, 48, 48)
    module = read(tmp_path / "m").module()
    with torch.no_grad(), record(module) as seen:
        module(pixels)
        expected = theirs(pixels, output_attentions=True).attentions
    assert len(expected) == 3
    for ours, other in zip(seen.attention(), expected, strict=True):
        assert relative(ours, other) < 1e-5


def attend(bias: Tensor) -> Tensor:
    q, k, v = torch.randn(3, 1, 2, 4, 8).unbind(0)
    with record(nn.ModuleList([tap := Attend(0.0)])) as seen:
        out = tap(q, k, v, bias)
    (weights,) = seen.attention()
    torch.testing.assert_close(weights @ v, out)
    return weights


def test_masks_of_both_kinds_shape_the_weights_and_a_row_that_sees_nothing_is_zero() -> None:
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[:, 3] = False
    allowed[1] = False
    torch.manual_seed(1)
    boolean = attend(allowed)
    torch.manual_seed(1)
    additive = attend(torch.zeros(4, 4).masked_fill(~allowed, -math.inf))
    torch.testing.assert_close(boolean, additive)
    assert (boolean[..., 3] == 0).all() and (boolean[:, :, 1] == 0).all()
    torch.testing.assert_close(boolean[:, :, 0].sum(-1), torch.ones(1, 2))


def test_the_answer_is_the_same_while_recorded_and_hooks_are_gone_after_errors() -> None:
    model = small_model()
    pixels = torch.randn(2, 3, 32, 32)
    alone = model(pixels)
    with pytest.raises(RuntimeError, match="stop"), record(model, gradients=True):
        assert torch.equal(model(pixels), alone)
        raise RuntimeError("stop")
    assert not any(part._forward_hooks for part in model.modules())


def test_what_was_recorded_is_freed_at_once_when_dropped() -> None:
    model = small_model()
    gc.disable()  # a reference cycle would wait for the collector
    try:
        with record(model, gradients=True) as seen:
            logits = model(torch.randn(1, 3, 32, 32))
        seen.attention_gradients(logits[:, 0])
        held = weakref.ref(seen._tapped[0].out)
        del seen, logits
        assert held() is None
    finally:
        gc.enable()


def test_only_the_layers_asked_for_are_recorded() -> None:
    model = small_model(depth=3)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad(), record(model) as every, record(model, [-1]) as last:
        model(pixels)
    assert last.layers == (2,)
    assert torch.equal(last.attention()[0], every.attention()[2])


def test_what_cannot_be_recorded_is_said() -> None:
    with pytest.raises(ConfigError, match="Linear has no attention"), record(nn.Linear(1, 1)):
        pass
    with pytest.raises(ConfigError, match="layer 2 .* 0 to 1"), record(small_model(), [2]):
        pass
    with record(small_model()) as seen, pytest.raises(ConfigError, match="nothing is recorded"):
        seen.attention()
