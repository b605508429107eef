"""Attention as plain products: torch's own attention in float64 is the judge."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.model import attention, products
from vitkit.model.attention import Attend
from vitkit.model.products import attend_by_products, products_are_faster

B, A, N, D = 6, 3, 17, 16


def heads(seed: int) -> Tensor:
    """Rounded to bfloat16, in the layout that the projection gives: [B, A, N, D], heads side by side in memory."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, N, A, D, generator=generator).bfloat16().transpose(1, 2).requires_grad_()


def exact(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, grad: Tensor) -> list[Tensor]:
    """The output and the gradients of q, k, v and the bias, in float64."""
    inputs = [each.detach().double().requires_grad_() for each in (q, k, v, bias) if each is not None]
    out = F.scaled_dot_product_attention(*inputs[:3], attn_mask=inputs[3] if bias is not None else None)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad.double())]


@pytest.mark.parametrize("rows", [0, 1, B])
@pytest.mark.parametrize("chunk_bytes", [1, 4 * A * N * N * 2, 2**21])
def test_outputs_and_gradients_are_those_of_attention(
    rows: int, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "CHUNK_BYTES", chunk_bytes)
    q, k, v = heads(0), heads(1), heads(2)
    bias = torch.randn(rows, A, N, N, generator=torch.Generator().manual_seed(3)).requires_grad_() if rows else None
    grad = torch.randn(B, A, N, D, generator=torch.Generator().manual_seed(4)).bfloat16()
    out = attend_by_products(q, k, v, bias)
    inputs = [q, k, v] + ([bias] if bias is not None else [])
    for mine, theirs in zip([out, *torch.autograd.grad(out, inputs, grad)], exact(q, k, v, bias, grad), strict=True):
        assert mine.shape == theirs.shape
        error = float((mine.detach().double() - theirs).norm() / theirs.norm())
        assert error < 0.01  # bfloat16 keeps 8 bits: 2^-9 a rounding


def test_a_bias_of_one_head_serves_all() -> None:
    q, k, v = heads(0), heads(1), heads(2)
    bias = torch.randn(1, 1, N, N, generator=torch.Generator().manual_seed(3)).requires_grad_()
    grad = torch.randn(B, A, N, D, generator=torch.Generator().manual_seed(4)).bfloat16()
    out = attend_by_products(q, k, v, bias)
    (mine,), theirs = torch.autograd.grad(out, [bias], grad), exact(q, k, v, bias, grad)[4]
    assert mine.shape == theirs.shape
    assert float((mine.double() - theirs).norm() / theirs.norm()) < 0.01


def test_one_query_may_ask_many_keys() -> None:
    q, k, v = heads(0)[:, :, :1], heads(1), heads(2)
    grad = torch.ones(B, A, 1, D, dtype=torch.bfloat16)
    out = attend_by_products(q, k, v, None)
    for mine, theirs in zip([out, *torch.autograd.grad(out, [q, k, v], grad)], exact(q, k, v, None, grad), strict=True):
        assert float((mine.detach().double() - theirs).norm() / theirs.norm()) < 0.01


def test_only_bfloat16_takes_them_also_by_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(attention, "attend_by_products", lambda *args: taken.append(args) or attend_by_products(*args))
    q, k, v = heads(0), heads(1), heads(2)
    attend = Attend(dropout=0.5)
    attend.eval()(q.float(), k.float(), v.float())
    attend.train()(q, k, v)  # dropout is the fused kernel's
    assert not taken
    attend.eval()(q, k, v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(q.float(), k.float(), v.float())
    assert len(taken) == 2
    assert out.dtype == torch.bfloat16
    assert not products_are_faster(torch.empty(1, 1, 1, 1, dtype=torch.bfloat16, device="meta"))
