"""The Vision Transformer: patches, prefix tokens, positions, encoder, pooling, head.

"An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale" (Dosovitskiy et al., 2021,
arXiv:2010.11929), section 3.1; initialisation as the authors' vit_jax/models_vit.py. Parameter names are timm's.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self, Unpack

import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.model.block import Block
from vitkit.model.embed import PatchEmbed, zeros_token
from vitkit.model.head import PreLogits, zeros_head
from vitkit.model.position import resample_positions, sincos_positions
from vitkit.model.spec import VitFields, vit_spec

__all__ = ["Card", "Features", "VisionTransformer"]


class Features(NamedTuple):
    """What the encoder says about B pictures, after the final norm where the model norms its tokens."""

    prefix_tokens: Tensor
    """[B, P, D]: the class token, where there is one."""
    patch_tokens: Tensor
    """[B, h*w, D], row by row."""
    grid: tuple[int, int]
    """Rows and columns (h, w) of patches."""
    layers: tuple[Tensor, ...]
    """Outputs [B, P + h*w, D] of the blocks asked for, in the order asked, before the final norm."""


class Card(Protocol):
    """What a checkpoint says beside the weights (preprocessing, class names, ...): opaque to the model."""

    def without_classes(self) -> Any:
        """The same card for another head."""


class VisionTransformer(nn.Module):
    """A Vision Transformer classifier: pixels [B, C, H, W] to logits [B, num_classes], or embeddings without a head.

    The keywords are the fields of `VitSpec`, whose defaults are ViT-B/16; the spec stays readable as `.spec`. H and W
    are any multiples of the patch size, per batch: positions follow by `spec.position_resample`.
    """

    pos_embed: nn.Parameter | None
    cls_token: nn.Parameter | None

    def __init__(self, **fields: Unpack[VitFields]) -> None:
        super().__init__()
        spec = vit_spec(fields)
        self.spec = spec
        self.card: Card | None = None
        D = spec.embed_dim
        self.patch_embed = PatchEmbed(spec.patch_size, spec.in_channels, D)
        self.cls_token = zeros_token(D) if spec.class_token else None
        self.pos_embed = None
        if spec.position == "learned":
            tokens = spec.num_prefix_tokens + spec.grid[0] * spec.grid[1]
            self.pos_embed = nn.Parameter(torch.empty(1, tokens, D).normal_(std=0.02))
        self.pos_drop = nn.Dropout(spec.dropout)
        rates = [spec.drop_path * i / max(spec.depth - 1, 1) for i in range(spec.depth)]
        self.blocks = nn.ModuleList(Block(spec, drop_path=rate) for rate in rates)
        norm = nn.LayerNorm(D, eps=spec.norm_eps)
        self.norm = norm if spec.final_norm == "tokens" else nn.Identity()
        self.fc_norm = norm if spec.final_norm == "pooled" else nn.Identity()
        self.pre_logits = PreLogits(D, spec.pre_logits_dim) if spec.pre_logits_dim else nn.Identity()
        self.head = zeros_head(spec.feature_dim, spec.num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, C, H, W] to logits [B, num_classes]; without a head, to embeddings [B, feature_dim]."""
        logits: Tensor = self.head(self.embed(pixels))
        return logits

    def embed(self, pixels: Tensor) -> Tensor:
        """What the last linear layer reads, [B, feature_dim]: pooled tokens, normed, through the pre-logits if any."""
        features = self.features(pixels)
        pooled = features.prefix_tokens[:, 0] if self.spec.pool == "cls" else features.patch_tokens.mean(dim=1)
        embedding: Tensor = self.pre_logits(self.fc_norm(pooled))
        return embedding

    def features(self, pixels: Tensor, layers: Sequence[int] = ()) -> Features:
        """Tokens of the encoder, and the outputs of the blocks numbered in `layers` (from 0; -1 is the last)."""
        asked = [self._block_number(layer) for layer in layers]
        x, grid = self.patch_embed(pixels)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.pos_drop(self.add_positions(x, grid))
        taken: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in asked:
                taken[number] = x
        x = self.norm(x)
        P = self.spec.num_prefix_tokens
        return Features(x[:, :P], x[:, P:], grid, tuple(taken[number] for number in asked))

    def add_positions(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Adds the position embedding of `grid` to tokens [B, P + h*w, D]."""
        spec, P = self.spec, self.spec.num_prefix_tokens
        if self.pos_embed is not None:
            return x + resample_positions(self.pos_embed, spec.grid, grid, spec.position_resample, num_prefix=P)
        if spec.position == "sincos":
            table = sincos_positions(grid, spec.embed_dim).to(x)
            return x + torch.nn.functional.pad(table, (0, 0, P, 0))
        return x

    def reset_head(self, num_classes: int) -> Self:
        """Replaces the head by a new one of `num_classes` outputs, zero at the start as in the paper; 0 removes it."""
        self.spec = dataclasses.replace(self.spec, num_classes=num_classes)
        self.head = zeros_head(self.spec.feature_dim, num_classes).to(self.patch_embed.proj.weight)
        self.card = None if self.card is None else self.card.without_classes()
        return self

    def parameter_groups(
        self, lr: float, *, weight_decay: float = 0.05, layer_decay: float = 1.0
    ) -> list[dict[str, Any]]:
        """Optimiser groups: no decay for biases, norms, tokens and positions; lower layers learn more slowly.

        A parameter of layer n of L has the rate lr * layer_decay^(L - n): the embedding is layer 0, block i layer
        i + 1, what comes after the blocks layer L = depth + 1 (BEiT, Bao et al., 2022). At most two groups per layer.
        """
        last = self.spec.depth + 1
        groups: dict[tuple[int, bool], dict[str, Any]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            layer = last if layer_decay == 1 else self._layer_of(name)
            decays = parameter.ndim > 1 and name not in ("cls_token", "pos_embed")
            rate = lr * layer_decay ** (last - layer)
            group = {"params": [], "names": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0}
            groups.setdefault((layer, decays), group)
            groups[layer, decays]["params"].append(parameter)
            groups[layer, decays]["names"].append(name)
        return list(groups.values())

    def _layer_of(self, name: str) -> int:
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return 0 if name.startswith(("patch_embed.", "cls_token", "pos_embed")) else self.spec.depth + 1

    # Checkpoints live on a higher floor: these three are the package's public verbs, looked up when called.

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **options: Any) -> VisionTransformer:
        """The module of `vitkit.load(source, **options)`, on the CPU unless `device` says otherwise, in eval mode."""
        import vitkit

        module = vitkit.load(source, **{"device": "cpu", **options}).module
        if not isinstance(module, cls):
            raise ConfigError(f"{source} is a {type(module).__name__}, not a {cls.__name__}; use vitkit.load")
        return module

    def save_pretrained(self, folder: str | os.PathLike[str], **options: Any) -> None:
        """`vitkit.save(self, folder, **options)`: a new native folder, whole or absent."""
        import vitkit

        vitkit.save(self, folder, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """`vitkit.push(self, repo_id, **options)`: the native folder as a Hub repository; returns the commit's URL."""
        import vitkit

        return vitkit.push(self, repo_id, **options)

    def _block_number(self, layer: int) -> int:
        if not -self.spec.depth <= layer < self.spec.depth:
            raise ConfigError(f"layer {layer} is asked for; this model has the blocks 0 to {self.spec.depth - 1}")
        return layer % self.spec.depth
