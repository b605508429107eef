"""What stands between the pooled token and the logits (paper, section 3.1: MLP head in pre-training, linear after)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["PreLogits", "zeros_head"]


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


def zeros_head(feature_dim: int, num_classes: int) -> nn.Module:
    """A linear head that starts at zero (vit_jax/models_vit.py, `head`), or nn.Identity for `num_classes` 0."""
    if not num_classes:
        return nn.Identity()
    head = nn.Linear(feature_dim, num_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
