"""The Vision Transformer: patches, prefix tokens, positions, encoder, pooling, head.

"An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale" (Dosovitskiy et al., 2021,
arXiv:2010.11929), section 3.1; initialisation as the authors' vit_jax/models_vit.py. Parameter names are timm's.
What its descendants changed (DeiT, BEiT, DINO, CLIP, ...) are submodules chosen by the spec; the way through is one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self, Unpack

import torch
from torch import Tensor, nn

from vitkit.model.base import Card, Features, ImageModel
from vitkit.model.block import Block
from vitkit.model.embed import PatchEmbed, zeros_token
from vitkit.model.fields import from_keywords
from vitkit.model.head import AttentionPool, PreLogits, zeros_head
from vitkit.model.position import (
    Places,
    RelativeBias,
    relative_pairs,
    resample_positions,
    resample_relative,
    rotation,
    sincos_positions,
)
from vitkit.model.spec import VitFields, VitSpec

__all__ = ["Card", "Features", "VisionTransformer"]


class VisionTransformer(ImageModel):
    """A Vision Transformer classifier: pixels [B, C, H, W] to logits [B, num_classes], or embeddings without a head.

    The keywords are the fields of `VitSpec`, whose defaults are ViT-B/16; the spec stays readable as `.spec`. H and W
    are any multiples of the patch size, per batch: positions follow by `spec.position_resample`.
    """

    spec: VitSpec

    def __init__(self, **fields: Unpack[VitFields]) -> None:
        super().__init__()
        spec = from_keywords(VitSpec, fields, owner="VisionTransformer")
        self.spec = spec
        D, K = spec.embed_dim, spec.num_classes
        self.patch_embed = PatchEmbed(
            spec.patch_size,
            spec.in_channels,
            D,
            bias=not spec.pre_norm,
            ragged_edges=spec.ragged_edges,
            stem_depths=spec.stem_depths,
            stem_channels=spec.stem_channels,
        )
        self.cls_token = zeros_token(D) if spec.class_token else None
        self.dist_token = zeros_token(D) if spec.distillation_token else None
        self.reg_token = zeros_token(D, spec.num_registers) if spec.num_registers else None
        learned = spec.position == "learned"
        self.pos_embed = nn.Parameter(torch.empty(1, spec.num_positions, D).normal_(std=0.02)) if learned else None
        shared = spec.position == "relative_shared"
        self.relative_bias = RelativeBias(spec.grid, spec.num_heads, spec.position_resample) if shared else None
        self.pos_drop = nn.Dropout(spec.dropout)
        self.norm_pre = nn.LayerNorm(D, eps=spec.norm_eps) if spec.pre_norm else nn.Identity()
        rates = [spec.drop_path * i / max(spec.depth - 1, 1) for i in range(spec.depth)]
        self.blocks = nn.ModuleList(Block(spec, drop_path=rate) for rate in rates)
        norm = nn.LayerNorm(D, eps=spec.norm_eps)
        self.norm = norm if spec.final_norm == "tokens" else nn.Identity()
        self.attn_pool = AttentionPool(spec) if spec.pool == "attention" else None
        self.fc_norm = norm if spec.final_norm == "pooled" else nn.Identity()
        pooled_dim = 2 * D if spec.pool == "cls_mean" else D
        self.pre_logits = PreLogits(pooled_dim, spec.pre_logits_dim) if spec.pre_logits_dim else nn.Identity()
        self.head = zeros_head(D if spec.distillation_token else spec.feature_dim, K)
        self.head_dist = zeros_head(D, K) if spec.distillation_token else None

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, C, H, W] to logits [B, num_classes], or embeddings [B, feature_dim] without a head.

        A distilled model's logits are the mean of its two heads'.
        """
        return self.logits(self.embed(pixels))

    def embed(self, pixels: Tensor) -> Tensor:
        """What the last linear layer reads, [B, feature_dim]: pooled tokens, normed, through the pre-logits if any.

        Of a distilled model, class and distillation token side by side.
        """
        embedding: Tensor = self.pre_logits(self.fc_norm(self.pooled(self.features(pixels))))
        return embedding

    def features(self, pixels: Tensor, layers: Sequence[int] = ()) -> Features:
        """Tokens of the encoder; and the outputs of the blocks numbered in `layers`, from 0 (-1 is the last)."""
        asked = [self.block_number(layer) for layer in layers]
        patches, grid = self.patch_embed(pixels)
        x = self.norm_pre(self.pos_drop(self.add_positions(patches, grid)))
        places = self.places(grid, x)
        taken: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks):
            x = block(x, places)
            if number in asked:
                taken[number] = x
        x = self.norm(x)
        P = self.spec.num_prefix_tokens
        return Features(x[:, :P], x[:, P:], grid, tuple(taken[number] for number in asked))

    def pooled(self, features: Features) -> Tensor:
        """One vector per picture, [B, D], or two side by side, [B, 2D]."""
        prefix, patches = features.prefix_tokens, features.patch_tokens
        if self.attn_pool is not None:
            return self.attn_pool(patches)  # type: ignore[no-any-return]
        if self.spec.pool == "mean":
            return patches.mean(dim=1)
        if self.spec.pool == "cls_mean":
            return torch.cat([prefix[:, 0], patches.mean(dim=1)], dim=1)
        return prefix[:, : 1 + self.spec.distillation_token].flatten(1)

    def heads(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, K] of each head: one, or the class token's and the distillation token's."""
        if self.head_dist is None or not self.spec.num_classes:
            return super().heads(embedding)
        of_class, of_distillation = embedding.chunk(2, dim=1)
        return self.head(of_class), self.head_dist(of_distillation)

    def prefix(self) -> list[Tensor]:
        """The learned prefix tokens, each [1, count, D], in their order."""
        return [token for token in (self.cls_token, self.dist_token, self.reg_token) if token is not None]

    def add_positions(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch tokens [B, h*w, D] of the grid (h, w) to [B, P + h*w, D]: prefix tokens first, positions added."""
        spec, P = self.spec, self.spec.num_prefix_tokens
        prefix = torch.cat(self.prefix(), dim=1) if P else patches.new_empty(1, 0, spec.embed_dim)
        if self.pos_embed is not None:
            own = P if spec.prefix_positions else 0
            table = resample_positions(self.pos_embed, spec.grid, grid, spec.position_resample, num_prefix=own)
            prefix = prefix + table[:, :P] if own else prefix
            patches = patches + table[:, own:]
        elif spec.position == "sincos":
            patches = patches + sincos_positions(grid, spec.embed_dim, device=patches.device).to(patches.dtype)
        return torch.cat([prefix.expand(patches.shape[0], -1, -1), patches], dim=1) if P else patches

    def places(self, grid: tuple[int, int], x: Tensor) -> Places:
        """What the blocks' attention is told of a grid; `x` gives the device."""
        spec = self.spec
        if spec.position == "rope":
            width, P = spec.embed_dim // spec.num_heads, spec.num_prefix_tokens
            return Places(rotation=rotation(grid, width, num_prefix=P, device=x.device))
        if not spec.position.startswith("relative"):
            return Places()
        places = Places(pairs=relative_pairs(grid, device=x.device), grid=grid)
        return places if self.relative_bias is None else Places(bias=self.relative_bias(places))

    def reset_head(self, num_classes: int) -> Self:
        """Replaces the head, or both, by new ones of `num_classes` outputs, zero at the start; 0 removes them."""
        if self.head_dist is None:
            return super().reset_head(num_classes)
        D, like = self.spec.embed_dim, next(self.parameters())
        self.spec = dataclasses.replace(self.spec, num_classes=num_classes)
        self.head, self.head_dist = (zeros_head(D, num_classes).to(like) for _ in range(2))
        self.card = None if self.card is None else self.card.without_classes()
        return self

    @staticmethod
    def resized_state(state: dict[str, Tensor], old: VitSpec, new: VitSpec) -> dict[str, Tensor]:
        """The weights of a model of spec `old` for the grid of `new`."""
        policy, P = new.position_resample, new.num_prefix_tokens * new.prefix_positions
        resized = dict(state)
        for name, tensor in state.items():
            if name == "pos_embed":
                resized[name] = resample_positions(tensor, old.grid, new.grid, policy, num_prefix=P)
            elif name.endswith("relative_bias.table"):
                resized[name] = resample_relative(tensor, old.grid, new.grid, policy)
        return resized

    @property
    def encoder_blocks(self) -> list[nn.Module]:
        """The blocks that `features` numbers, in order."""
        return list(self.blocks)

    def layer_of(self, name: str) -> int:
        """The layer of the parameter `name`: 0 the embedding, i + 1 block i, depth + 1 what comes after."""
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        first = ("patch_embed.", "cls_token", "dist_token", "reg_token", "pos_embed", "relative_bias", "norm_pre.")
        return 0 if name.startswith(first) else self.num_layers
