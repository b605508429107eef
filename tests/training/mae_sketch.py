"""A masked autoencoder as an objective: three quarters of the patches are hidden, and painted from the others.

"Masked Autoencoders Are Scalable Vision Learners" (He et al., 2022, arXiv:2111.06377), section 3; details as the
authors' models_mae.py, except that the decoder doesn't see the class token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit import ConfigError, VisionTransformer, VitSpec
from vitkit.data.augment import AugmentSpec
from vitkit.data.batch import Batch
from vitkit.data.samples import Samples
from vitkit.model.block import Block
from vitkit.model.position import sincos_positions
from vitkit.training.objective import Loss, Objective
from vitkit.training.spec import TrainSpec

MASK_RATIO = 0.75
DEPTH, WIDTH, HEADS = 2, 32, 4
"""Of the decoder: narrower and shallower than the encoder, which alone is kept."""


class MaskedAutoencoder(Objective):
    """Holds the decoder. The mean squared error of hidden patches, each patch's pixels of mean 0 and variance 1."""

    positions: Tensor

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.patch_size = spec.patch_size
        sizes = {"embed_dim": WIDTH, "num_heads": HEADS, "mlp_dim": 4 * WIDTH}
        decoder = dataclasses.replace(spec, **sizes)
        self.embed = nn.Linear(spec.embed_dim, WIDTH)
        self.mask_token = nn.Parameter(torch.empty(1, 1, WIDTH).normal_(std=0.02))
        self.register_buffer("positions", sincos_positions(spec.grid, WIDTH), persistent=False)
        self.blocks = nn.Sequential(*(Block(decoder, drop_path=0.0) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, eps=spec.norm_eps)
        self.predict = nn.Linear(WIDTH, spec.in_channels * spec.patch_size**2)

    @classmethod
    def defaults(cls, start: TrainSpec, samples: Samples) -> TrainSpec:
        """No average of the weights, which would leave the decoder behind; the mask is augmentation enough."""
        plain = super().defaults(start, samples)
        return dataclasses.replace(plain, ema_decay=0.0, beta2=0.95, augment=AugmentSpec(), weight_decay=0.05)

    @classmethod
    def make(cls, model: nn.Module, spec: TrainSpec, samples: Samples) -> Self:
        """For a Vision Transformer whose tokens carry their positions, so that any of them can be left out."""
        if not isinstance(model, VisionTransformer) or model.spec.position not in ("learned", "sincos"):
            raise ConfigError("masked autoencoding takes a Vision Transformer with learned or sincos positions")
        return cls(model.spec)

    def forward(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        """The loss of one batch under a new mask."""
        pixels = batch.views[0]
        noise = batch.rand(self.positions.shape[1])
        losses = self.losses(model, pixels, noise)
        return Loss((losses * batch.weight).sum() / batch.weight.sum(), {})

    @torch.inference_mode()
    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """The mean loss, under masks that are the same at every call."""
        generator = torch.Generator().manual_seed(0)
        total, count = 0.0, 0
        for batch in batches:
            noise = torch.rand(len(batch), self.positions.shape[1], generator=generator)
            total += float(self.losses(model, batch.views[0], noise.to(self.positions.device)).sum())
            count += len(batch)
        return {"loss": total / count}

    def losses(self, model: nn.Module, pixels: Tensor, noise: Tensor) -> Tensor:
        """The loss of each picture, [B]; the patches of largest noise [B, N] are hidden."""
        order = noise.argsort(dim=1)
        visible = order[:, : int(noise.shape[1] * (1 - MASK_RATIO))]
        hidden = torch.ones_like(noise).scatter(1, visible, 0.0)  # [B, N], 1 = hidden
        painted = self.decode(encode(model, pixels, visible), visible)
        errors = (painted.float() - self.target(pixels)).square().mean(dim=-1)  # [B, N]
        return (errors * hidden).sum(dim=1) / hidden.sum(dim=1)

    def decode(self, encoded: Tensor, visible: Tensor) -> Tensor:
        """Encoded visible patches [B, V, D], whose places are [B, V], to the pixels of all, [B, N, p*p*C]."""
        known = self.embed(encoded)  # [B, V, WIDTH]
        tokens = self.mask_token.to(known.dtype).expand(len(known), self.positions.shape[1], -1)
        tokens = tokens.scatter(1, visible[..., None].expand_as(known), known) + self.positions
        painted: Tensor = self.predict(self.norm(self.blocks(tokens)))
        return painted

    def target(self, pixels: Tensor) -> Tensor:
        """Pixels [B, C, H, W] as patches [B, N, C*p*p], each normalised by its own mean and variance."""
        patches = F.unfold(pixels, self.patch_size, stride=self.patch_size).transpose(1, 2)
        mean, variance = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()


def encode(model: nn.Module, pixels: Tensor, visible: Tensor) -> Tensor:
    """What `model` says of the patches at the places `visible` [B, V] when it sees no others, [B, V, D]."""
    assert isinstance(model, VisionTransformer)
    P = model.spec.num_prefix_tokens
    tokens = model.norm_pre(model.add_positions(*model.patch_embed(pixels)))  # [B, P + N, D]
    places = P + visible[..., None].expand(-1, -1, tokens.shape[-1])
    tokens = torch.cat([tokens[:, :P], tokens.gather(1, places)], dim=1)
    for block in model.blocks:
        tokens = block(tokens)
    encoded: Tensor = model.fc_norm(model.norm(tokens))[:, P:]  # one of the two norms is the identity
    return encoded
