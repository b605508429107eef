"""The text tower of CLIP and SigLIP: tokens, positions, the image encoder's blocks, one token read, projected.

Radford et al., 2021, arXiv:2103.00020, section 2.4; initialisation as OpenAI's clip/model.py. Zhai et al., 2023,
arXiv:2303.15343.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.model.block import Block
from vitkit.model.position import Places
from vitkit.model.spec import VitSpec
from vitkit.model.text_spec import TextSpec

__all__ = ["TextTransformer"]


class TextTransformer(nn.Module):
    """Token ids [B, N] to embeddings [B, output_dim]."""

    def __init__(self, spec: TextSpec, output_dim: int) -> None:
        super().__init__()
        self.spec = spec
        D = spec.embed_dim
        self.token_embedding = nn.Embedding(spec.vocab_size, D)
        self.pos_embed = nn.Parameter(torch.empty(1, spec.context_length, D).normal_(std=0.01))
        self.blocks = nn.ModuleList(Block(_as_image(spec), drop_path=0.0) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(D, eps=spec.norm_eps)
        self.projection = nn.Linear(D, output_dim, bias=spec.output_bias)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.projection.weight, std=D**-0.5)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Token ids, int64 [B, N] with N up to the context length, to embeddings [B, output_dim]."""
        x = self.features(token_ids)
        embedding: Tensor = self.projection(x[torch.arange(len(x), device=x.device), self.speakers(token_ids)])
        return embedding

    def features(self, token_ids: Tensor) -> Tensor:
        """Token ids [B, N] to tokens [B, N, D], after the final norm."""
        most = self.spec.context_length
        if token_ids.ndim != 2 or not 1 <= token_ids.shape[1] <= most:
            shape = list(token_ids.shape)
            raise ConfigError(f"token ids have the shape {shape}; allowed: [B, N] with N from 1 to {most}")
        N = token_ids.shape[1]
        x = self.token_embedding(token_ids) + self.pos_embed[:, :N]
        places = Places(bias=causal_bias(N).to(x)) if self.spec.causal else Places()
        for block in self.blocks:
            x = block(x, places)
        tokens: Tensor = self.norm(x)
        return tokens

    def speakers(self, token_ids: Tensor) -> Tensor:
        """The place [B] of the token that speaks for each text."""
        if self.spec.pool == "last":
            return torch.full_like(token_ids[:, 0], token_ids.shape[1] - 1)
        # Of equal values argmax takes the first, so that padding with the end token changes nothing.
        marked = token_ids if self.spec.pool == "highest" else (token_ids == self.spec.end_token).int()
        return marked.argmax(dim=1)


def causal_bias(length: int) -> Tensor:
    """[1, 1, N, N] added to attention: nothing of a token itself and of those before it, -inf of those after it."""
    return torch.full((1, 1, length, length), -math.inf).triu(1)


def _as_image(spec: TextSpec) -> VitSpec:
    """The image encoder's spec whose blocks are those of `spec`."""
    return VitSpec(
        position="none",
        embed_dim=spec.embed_dim,
        num_heads=spec.num_heads,
        mlp_dim=spec.mlp_dim,
        activation=spec.activation,
        norm_eps=spec.norm_eps,
        attention_dropout=spec.attention_dropout,
    )
