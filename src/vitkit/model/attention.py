"""Multi-head self-attention (Vaswani et al., 2017; Dosovitskiy et al., 2021, appendix A)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.model.position import NOWHERE, Places, RelativeBias, rotate
from vitkit.model.products import attend_by_products, products_are_faster

__all__ = ["Attend", "Attention"]


class Attend(nn.Module):
    """softmax(q k^T / sqrt(head width) + bias) v: the tap. Everything that shapes the softmax passes through here.

    Explanations hook this module and see q, k, v and bias; the fastest way to compute it stays on.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, q_BAND: Tensor, k_BAND: Tensor, v_BAND: Tensor, bias: Tensor | None = None) -> Tensor:
        """Queries, keys and values [B, A, N, D/A], additive bias [., ., N, N] or None; returns [B, A, N, D/A]."""
        dropout = self.dropout if self.training else 0.0
        if not dropout and products_are_faster(q_BAND):
            return attend_by_products(q_BAND, k_BAND, v_BAND, bias)
        return F.scaled_dot_product_attention(q_BAND, k_BAND, v_BAND, attn_mask=bias, dropout_p=dropout)


class Attention(nn.Module):
    """Queries, keys and values from one projection (its rows in that order), heads attended apart, then mixed."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        qkv_bias: str,
        dropout: float,
        attention_dropout: float,
        relative_bias: RelativeBias | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias == "qkv")
        # Keys without a bias: it isn't masked out of a fused one, whose gradient would not be zero under rotation.
        self.q_bias = nn.Parameter(torch.zeros(embed_dim)) if qkv_bias == "qv" else None
        self.v_bias = nn.Parameter(torch.zeros(embed_dim)) if qkv_bias == "qv" else None
        self.relative_bias = relative_bias
        self.attend = Attend(attention_dropout)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(dropout)
        for linear in (self.qkv, self.proj):
            # vit_jax: xavier_uniform for every attention kernel. The three kernels are initialised apart there.
            for start in range(0, linear.out_features, embed_dim):
                nn.init.xavier_uniform_(linear.weight.data[start : start + embed_dim])
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, places: Places = NOWHERE) -> Tensor:
        """Tokens [B, N, D] to tokens [B, N, D]; `places` says what the attention is told of where they are."""
        q_BAND, k_BAND, v_BAND = self.heads(x)
        if places.rotation is not None:
            q_BAND, k_BAND = rotate(q_BAND, places.rotation), rotate(k_BAND, places.rotation)
        bias = places.bias if self.relative_bias is None else self.relative_bias(places)
        mixed = self.attend(q_BAND, k_BAND, v_BAND, bias)
        out: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return out

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, A, N, D/A], of tokens [B, N, D]."""
        B, N, D = x.shape
        qkv_3BAND = self._project(x).reshape(B, N, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)
        q_BAND, k_BAND, v_BAND = qkv_3BAND.unbind(0)
        return q_BAND, k_BAND, v_BAND

    def _project(self, x: Tensor) -> Tensor:
        """[B, N, D] to [B, N, 3D]."""
        if self.q_bias is None or self.v_bias is None:
            projected: Tensor = self.qkv(x)
            return projected
        return F.linear(x, self.qkv.weight, torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]))
