"""Pooling, and what stands between the pooled token and the logits.

The paper's section 3.1: an MLP head in pre-training, a linear one after.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.model.attention import Attend
from vitkit.model.block import Mlp
from vitkit.model.spec import VitSpec

__all__ = ["AttentionPool", "MeanPool", "PreLogits", "UnitLinear", "zeros_head"]


class AttentionPool(nn.Module):
    """A learned query attends to all tokens, then an MLP with a residual (MAP head, Zhai et al., 2022)."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        D = spec.embed_dim
        self.num_heads = spec.num_heads
        self.latent = nn.Parameter(torch.empty(1, 1, D).normal_(std=D**-0.5))
        self.q = nn.Linear(D, D)
        self.kv = nn.Linear(D, 2 * D)
        self.attend = Attend(spec.attention_dropout)
        self.proj = nn.Linear(D, D)
        self.norm = nn.LayerNorm(D, eps=spec.norm_eps)
        self.mlp = Mlp(D, spec.mlp_dim, activation=spec.activation, dropout=spec.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] to [B, D]."""
        B, N, D = x.shape
        A = self.num_heads
        q_BA1D = self.q(self.latent.expand(B, -1, -1)).view(B, 1, A, D // A).transpose(1, 2)
        k_BAND, v_BAND = self.kv(x).view(B, N, 2, A, D // A).permute(2, 0, 3, 1, 4).unbind(0)
        pooled = self.proj(self.attend(q_BA1D, k_BAND, v_BAND).transpose(1, 2).reshape(B, D))
        out: Tensor = pooled + self.mlp(self.norm(pooled))
        return out


class MeanPool(nn.Module):
    """The mean of all positions: a module of its own, so that explanations see what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] to [B, D]."""
        return x.mean(dim=1)


class PreLogits(nn.Module):
    """The hidden layer of the paper's pre-training head: linear, then tanh. transformers calls it the pooler."""

    def __init__(self, embed_dim: int, pre_logits_dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(embed_dim, pre_logits_dim)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] to [B, pre_logits_dim], within (-1, 1)."""
        return torch.tanh(self.fc(x))


class UnitLinear(nn.Linear):
    """A linear layer on inputs scaled to length 1: where classes are texts, its logits are their similarities."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] to [B, K]."""
        return super().forward(F.normalize(x, dim=-1))


def zeros_head(feature_dim: int, num_classes: int, *, kind: type[nn.Linear] = nn.Linear) -> nn.Module:
    """A linear head that starts at zero (vit_jax/models_vit.py, `head`), or nn.Identity for `num_classes` 0."""
    if not num_classes:
        return nn.Identity()
    head = kind(feature_dim, num_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
