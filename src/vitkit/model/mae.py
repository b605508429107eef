"""The masked autoencoder: a Vision Transformer that sees a quarter of the patches, and a decoder that paints the rest.

"Masked Autoencoders Are Scalable Vision Learners" (He et al., 2022, arXiv:2111.06377), section 3; details as the
authors' models_mae.py.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Unpack

import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.model.block import Block
from vitkit.model.fields import from_keywords
from vitkit.model.position import resample_positions, sincos_positions
from vitkit.model.spec import MaeFields, MaeSpec, VitFields, VitSpec
from vitkit.model.vit import VisionTransformer

__all__ = ["MASK_RATIO", "MaskedAutoencoder", "Reconstruction", "patchify", "unpatchify"]

MASK_RATIO = 0.75
"""The share of patches that the paper hides (figure 5)."""


class Reconstruction(NamedTuple):
    """What a masked autoencoder makes of B pictures."""

    patches: Tensor
    """[B, N, p*p*C], all patches as `patchify` writes them; normalised ones where `spec.norm_pix_loss`."""
    mask: Tensor
    """[B, N] bool, True = hidden."""


class MaskedAutoencoder(VisionTransformer):
    """A Vision Transformer with a decoder that predicts hidden patches; without masks it is the encoder.

    The keywords are the fields of `MaeSpec`. Positions are fixed: sines and cosines, or what a checkpoint has.
    """

    spec: MaeSpec

    def __init__(self, **fields: Unpack[MaeFields]) -> None:
        spec = from_keywords(MaeSpec, fields, owner="MaskedAutoencoder")
        super().__init__(**_encoder_fields(spec))
        self.spec = spec
        self.pos_embed = _fixed_positions(spec.grid, spec.embed_dim)
        self.decoder = Decoder(spec)

    def reconstruct(
        self, pixels: Tensor, *, mask_ratio: float = MASK_RATIO, noise: Tensor | None = None
    ) -> Reconstruction:
        """Pixels [B, C, H, W] with a share `mask_ratio` of their patches hidden, to the prediction of all.

        The patches of largest `noise` [B, N] are hidden; without it they are drawn from torch's generator.
        """
        patches, grid = self.patch_embed(pixels)
        B, N, D = patches.shape
        noise = torch.rand(B, N, device=pixels.device) if noise is None else noise
        if not 0 <= mask_ratio < 1 or noise.shape != (B, N):
            raise ConfigError(
                f"mask_ratio is {mask_ratio}, noise has the shape {list(noise.shape)}; "
                f"allowed: a share from 0 to below 1, and {[B, N]}, a number for each patch"
            )
        visible = noise.argsort(dim=1)[:, : int(N * (1 - mask_ratio))]  # [B, V]
        tokens = self.norm_pre(self.pos_drop(self.add_positions(patches, grid)))
        seen = tokens[:, 1:].gather(1, visible[..., None].expand(-1, -1, D))
        x = torch.cat([tokens[:, :1], seen], dim=1)  # [B, 1 + V, D]
        for block in self.blocks:
            x = block(x)
        mask = torch.ones_like(noise, dtype=torch.bool).scatter(1, visible, False)
        return Reconstruction(self.decoder(self.norm(x), visible, grid), mask)

    def loss(self, pixels: Tensor, reconstruction: Reconstruction) -> Tensor:
        """The mean squared error of the hidden patches of pixels [B, C, H, W], a scalar."""
        target = patchify(pixels, self.spec.patch_size)
        if self.spec.norm_pix_loss:
            mean, deviation = _statistics(target)
            target = (target - mean) / deviation
        errors = (reconstruction.patches - target).square().mean(dim=-1)
        return errors[reconstruction.mask].mean()

    def predicted(self, pixels: Tensor, reconstruction: Reconstruction) -> Tensor:
        """Pixels [B, C, H, W] made of the predictions of all patches, the seen ones too, on which no loss is taken.

        Where those are normalised (`spec.norm_pix_loss`), the true patches' means and deviations are given back to
        them, which the model can't know.
        """
        size, patches = self.spec.patch_size, reconstruction.patches
        if self.spec.norm_pix_loss:
            mean, deviation = _statistics(patchify(pixels, size))
            patches = patches * deviation + mean
        return unpatchify(patches, size, (pixels.shape[2] // size, pixels.shape[3] // size))

    def painted(self, pixels: Tensor, reconstruction: Reconstruction) -> Tensor:
        """Pixels [B, C, H, W] whose hidden patches are the `predicted` ones."""
        return torch.where(self.hidden(pixels, reconstruction), self.predicted(pixels, reconstruction), pixels)

    def hidden(self, pixels: Tensor, reconstruction: Reconstruction) -> Tensor:
        """The mask over the pixels [B, C, H, W] themselves: [B, 1, H, W] bool, True = hidden."""
        size, mask = self.spec.patch_size, reconstruction.mask
        everywhere = mask[..., None].expand(-1, -1, size * size)
        return unpatchify(everywhere, size, (pixels.shape[2] // size, pixels.shape[3] // size))

    def encoder(self) -> VisionTransformer:
        """The encoder alone, to be fine-tuned or written for others: its weights are these, not copies of them."""
        with torch.device("meta"):
            encoder = VisionTransformer(**_encoder_fields(self.spec))
        own = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("decoder.")}
        encoder.load_state_dict(own, assign=True)
        encoder.card = self.card
        return encoder.train(self.training)

    @staticmethod
    def resized_state(state: dict[str, Tensor], old: VitSpec, new: VitSpec) -> dict[str, Tensor]:
        """The weights of a model of spec `old` for the grid of `new`: the positions of both parts follow."""
        name = "decoder.pos_embed"
        table = resample_positions(state[name], old.grid, new.grid, new.position_resample, num_prefix=1)
        return {**VisionTransformer.resized_state(state, old, new), name: table}


class Decoder(nn.Module):
    """Blocks on the tokens that were seen and a mask token in every other place, then a linear layer to pixels."""

    def __init__(self, spec: MaeSpec) -> None:
        super().__init__()
        d, own = spec.decoder_dim, spec.decoder
        self.grid, self.policy = spec.grid, spec.position_resample
        self.embed = nn.Linear(spec.embed_dim, d)
        self.mask_token = nn.Parameter(torch.empty(1, 1, d).normal_(std=0.02))
        self.pos_embed = _fixed_positions(spec.grid, d)
        self.blocks = nn.ModuleList(Block(own, drop_path=0.0) for _ in range(own.depth))
        self.norm = nn.LayerNorm(d, eps=spec.norm_eps)
        self.pred = nn.Linear(d, spec.in_channels * spec.patch_size**2)
        for linear in (self.embed, self.pred):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, encoded: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        """Class token and seen patches [B, 1 + V, D], these at the places `visible` [B, V], to all [B, N, p*p*C]."""
        known = self.embed(encoded)
        places = visible[..., None].expand(-1, -1, known.shape[-1])
        everywhere = self.mask_token.to(known.dtype).expand(len(known), grid[0] * grid[1], -1)
        x = torch.cat([known[:, :1], everywhere.scatter(1, places, known[:, 1:])], dim=1)  # [B, 1 + N, d]
        x = x + resample_positions(self.pos_embed, self.grid, grid, self.policy, num_prefix=1)
        for block in self.blocks:
            x = block(x)
        patches: Tensor = self.pred(self.norm(x))
        return patches[:, 1:]


def patchify(pixels: Tensor, size: int) -> Tensor:
    """Pixels [B, C, H, W] as patches [B, N, size*size*C], row by row, the channels of a pixel side by side."""
    B, C, H, W = pixels.shape
    patches = pixels.reshape(B, C, H // size, size, W // size, size)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(B, -1, size * size * C)


def unpatchify(patches: Tensor, size: int, grid: tuple[int, int]) -> Tensor:
    """The pixels [B, C, H, W] of which `patchify` makes `patches` [B, h*w, size*size*C]."""
    B, (h, w) = len(patches), grid
    pixels = patches.reshape(B, h, w, size, size, -1).permute(0, 5, 1, 3, 2, 4)
    return pixels.reshape(B, -1, h * size, w * size)


def _encoder_fields(spec: MaeSpec) -> VitFields:
    return {entry.name: getattr(spec, entry.name) for entry in dataclasses.fields(VitSpec)}  # type: ignore[return-value]


def _fixed_positions(grid: tuple[int, int], dim: int) -> nn.Parameter:
    """A table [1, 1 + h*w, dim], the class token's row zero: a parameter, as in checkpoints, that isn't trained."""
    return nn.Parameter(torch.cat([torch.zeros(1, 1, dim), sincos_positions(grid, dim)], dim=1), requires_grad=False)


def _statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [B, N, 1] of each patch, as the authors' `forward_loss` has them."""
    return patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
