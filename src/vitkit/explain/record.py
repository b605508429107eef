"""What attention layers did in a forward pass, or what it pooled, read from outside by hooks on taps.

The fused kernel of attention stays on.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.model.attention import Attend
from vitkit.model.head import MeanPool

__all__ = ["Record", "record", "record_pooled"]


@dataclass(frozen=True, eq=False)
class _Tapped:
    """One layer's softmax: what went in and came out, [B, A, N, D/A] each."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    out: Tensor
    """Part of the autograd graph where gradients are recorded, else detached."""


class Record:
    """The last forward pass of a recorded module, layer by layer; lets go of its memory when it is dropped."""

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)
        """Numbers of the recorded layers, from 0, in the order of the forward pass."""
        self._tapped: dict[int, _Tapped] = {}

    def attention(self) -> list[Tensor]:
        """Attention weights per recorded layer, float32 [B, A, N, N], before dropout; each row sums to 1.

        softmax(q k^T / sqrt(D/A) + bias), computed anew from what the layer read. A row whose mask hides everything is
        zero, as the fused kernel has it.
        """
        return [_attention(tapped) for tapped in self._passed()]

    def attention_gradients(self, score: Tensor) -> list[Tensor]:
        """The derivative of `score` (summed) by each layer's attention weights, float32 [B, A, N, N].

        dA = grad_out v^T, with the gradient at the tap's output: exact, and no parameter's `.grad` is touched. `score`
        comes from the forward pass that was recorded with `gradients=True`; its graph is used up.
        """
        tapped = self._passed()
        outputs = [layer.out for layer in tapped]
        grads = torch.autograd.grad(score.sum(), outputs, allow_unused=True, materialize_grads=True)
        return [grad.float() @ layer.v.float().transpose(-2, -1) for grad, layer in zip(grads, tapped, strict=True)]

    def _passed(self) -> list[_Tapped]:
        if len(self._tapped) < len(self.layers):
            raise ConfigError("nothing is recorded yet: run the module inside `with record(module)` first")
        return [self._tapped[layer] for layer in self.layers]


@contextlib.contextmanager
def record(module: nn.Module, layers: Sequence[int] | None = None, *, gradients: bool = False) -> Iterator[Record]:
    """Records the attention of `module` inside the block, for all layers or those numbered in `layers` (-1 the last).

    The module computes as before. With `gradients` the outputs of the attention layers join the autograd graph even
    where no parameter asks for it, so frozen models work; not inside `torch.inference_mode`. The hooks are gone when
    the block ends, however it ends. Raises ConfigError for a module without attention or for layers it doesn't have.
    """
    taps = [part for part in module.modules() if isinstance(part, Attend)]
    if not taps:
        raise ConfigError(f"{type(module).__name__} has no attention layers to record")
    chosen = range(len(taps)) if layers is None else layers
    for layer in chosen:
        if not -len(taps) <= layer < len(taps):
            raise ConfigError(f"layer {layer} is asked for; this model has the attention layers 0 to {len(taps) - 1}")
    recorded = Record(sorted({layer % len(taps) for layer in chosen}))
    with contextlib.ExitStack() as hooks:
        for layer in recorded.layers:
            handle = taps[layer].register_forward_hook(_hook(recorded, layer, gradients), with_kwargs=True)
            hooks.callback(handle.remove)
        yield recorded


@contextlib.contextmanager
def record_pooled(module: nn.Module) -> Iterator[list[Tensor]]:
    """Records the tokens [B, N, D] that `module` takes the mean of inside the block, each time it is called.

    They are leaves of the autograd graph: nothing below them needs one. Raises ConfigError for a module without.
    """
    pool = next((part for part in module.modules() if isinstance(part, MeanPool)), None)
    if pool is None:
        raise ConfigError(f"maps need attention over the whole picture; {type(module).__name__} has none")
    pooled: list[Tensor] = []

    def keep(tap: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        pooled.append(inputs[0].detach().requires_grad_())
        return (pooled[-1],)

    handle = pool.register_forward_pre_hook(keep)
    try:
        yield pooled
    finally:
        handle.remove()


def _hook(recorded: Record, layer: int, gradients: bool) -> Any:
    def keep(tap: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], out_BAND: Tensor) -> Tensor:
        q_BAND, k_BAND, v_BAND, bias = _arguments(*inputs, **named)
        if gradients and not out_BAND.requires_grad:
            out_BAND = out_BAND.detach().requires_grad_()  # a leaf: nothing below the first tap needs a graph
        recorded._tapped[layer] = _Tapped(
            q_BAND.detach(),
            k_BAND.detach(),
            v_BAND.detach(),
            None if bias is None else bias.detach(),
            out_BAND if gradients else out_BAND.detach(),
        )
        return out_BAND

    return keep


def _arguments(
    q_BAND: Tensor, k_BAND: Tensor, v_BAND: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The tap's own signature, so that its arguments are found however they are passed."""
    return q_BAND, k_BAND, v_BAND, bias


def _attention(tapped: _Tapped) -> Tensor:
    q_BAND, k_BAND, bias = tapped.q.float(), tapped.k.float(), tapped.bias
    logits = q_BAND @ k_BAND.transpose(-2, -1) / math.sqrt(q_BAND.shape[-1])
    if bias is not None:
        # A boolean mask is True where a query may look.
        logits = logits.masked_fill(~bias, -math.inf) if bias.dtype == torch.bool else logits + bias.float()
    return logits.softmax(dim=-1).masked_fill(logits.isneginf().all(dim=-1, keepdim=True), 0)
