"""Attention as plain matrix products, a few pictures at a time: what is fastest in bfloat16 on a CPU.

torch's fused kernel has no bfloat16 products there: measured, ViT-Ti/16 at 128 pixels spends half of a training step in
it. Chunks keep the [N, N] scores in the cache, and as in FlashAttention (Dao et al., 2022, algorithm 4) the gradient
computes them again, so that none are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["attend_by_products", "products_are_faster"]

CHUNK_BYTES = 2**21
"""Of the scores held at a time: about the cache of two cores."""


def products_are_faster(q_BAND: Tensor) -> bool:
    """Whether these queries would be attended to in bfloat16 on a CPU, also by autocast; not in a graph's export."""
    if q_BAND.device.type != "cpu" or torch.compiler.is_exporting():
        return False
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return q_BAND.dtype == torch.bfloat16 or (autocast and q_BAND.dtype == torch.float32)


def attend_by_products(q_BAND: Tensor, k_BAND: Tensor, v_BAND: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(head width) + bias) v, [B, A, N, D], of heads rounded to bfloat16."""
    return _Products.apply(q_BAND.bfloat16(), k_BAND.bfloat16(), v_BAND.bfloat16(), bias)  # type: ignore[no-any-return, no-untyped-call]


class _Products(torch.autograd.Function):
    """softmax(q k^T / sqrt(head width) + bias) v of bfloat16, with its gradients."""

    @staticmethod
    def forward(ctx: Any, q_BAND: Tensor, k_BAND: Tensor, v_BAND: Tensor, bias: Tensor | None) -> Tensor:
        """As `Attend.forward`, without dropout; scores are rounded to bfloat16 before the softmax."""
        ctx.save_for_backward(q_BAND, k_BAND, v_BAND, bias)
        B, A, N, D = q_BAND.shape
        out = q_BAND.new_empty(B, N, A, D).transpose(1, 2)  # what follows puts the heads side by side
        for part in _chunks(q_BAND, k_BAND):
            q, k, v = (each[part].flatten(0, 1) for each in (q_BAND, k_BAND, v_BAND))  # [bA, N, D]
            out[part] = torch.bmm(_weights(q, k, bias, part), v).view_as(out[part])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and the bias: those of the products, and dS = P (dP - sum(P dP)) for the softmax."""
        q_BAND, k_BAND, v_BAND, bias = ctx.saved_tensors
        grad_q, grad_k, grad_v = (torch.empty_like(each) for each in (q_BAND, k_BAND, v_BAND))
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if ctx.needs_input_grad[3] else None
        for part in _chunks(q_BAND, k_BAND):
            q, k, v, grad = (each[part].flatten(0, 1) for each in (q_BAND, k_BAND, v_BAND, grad_out))
            weights = _weights(q, k, bias, part)
            grad_v[part] = torch.bmm(weights.transpose(1, 2), grad).view_as(grad_v[part])
            grad_weights = torch.bmm(grad, v.transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            if grad_bias is not None:
                own = grad_bias if len(bias) == 1 else grad_bias[part]
                own += grad_scores.float().view(-1, *bias.shape[1:]).sum_to_size(own.shape)
            grad_scores *= q.shape[-1] ** -0.5
            grad_q[part] = torch.bmm(grad_scores, k).view_as(grad_q[part])
            grad_k[part] = torch.bmm(grad_scores.transpose(1, 2), q).view_as(grad_k[part])
        return grad_q, grad_k, grad_v, None if grad_bias is None else grad_bias.to(bias.dtype)


def _chunks(q_BAND: Tensor, k_BAND: Tensor) -> Iterator[slice]:
    """Rows of the batch whose scores fit into CHUNK_BYTES; at least one at a time."""
    B, A, N, _ = q_BAND.shape
    rows = max(1, CHUNK_BYTES // (A * N * k_BAND.shape[2] * q_BAND.element_size()))
    return (slice(start, start + rows) for start in range(0, B, rows))


def _weights(q: Tensor, k: Tensor, bias: Tensor | None, part: slice) -> Tensor:
    """The attention of a few pictures, [bA, N, N], of q and k [bA, N, D]: rows sum to one."""
    scores = torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2))
    if bias is not None:
        own = bias if len(bias) == 1 else bias[part]
        scores.view(-1, *bias.shape[1:]).add_(own)
    return scores.softmax(dim=-1)
