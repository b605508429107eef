"""From pixels to patch tokens: the picture cut into squares, each linearly projected (paper, equation 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.model.resnet import stem
from vitkit.model.stem_spec import Depths, stem_channels, stem_stride

__all__ = ["PatchEmbed"]


class PatchEmbed(nn.Module):
    """Patchify + linear projection, stored as the convolution of equal stride and size that every checkpoint uses.

    A hybrid's patches are cut from what a ResNet stem makes of the pixels.
    """

    def __init__(
        self, patch_size: int, in_channels: int, embed_dim: int, *, bias: bool = True, stem_depths: Depths = None
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.backbone = stem(in_channels, stem_depths)
        side, channels = patch_size // stem_stride(stem_depths), stem_channels(stem_depths, in_channels)
        self.proj = nn.Conv2d(channels, embed_dim, kernel_size=side, stride=side, bias=bias)
        # Flax's convolution default, lecun_normal over the patch: vit_jax/models_vit.py, `embedding`.
        nn.init.trunc_normal_(self.proj.weight, std=math.sqrt(1 / (channels * side**2)))
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Pixels [B, C, H, W] to patch tokens [B, h*w, D], row by row, and their grid (h, w)."""
        size = self.patch_size
        if pixels.ndim != 4 or pixels.shape[1] != self.in_channels or pixels.shape[2] % size or pixels.shape[3] % size:
            raise ConfigError(
                f"pixels have the shape {list(pixels.shape)}; allowed: [B, {self.in_channels}, H, W] "
                f"with H and W multiples of the patch size {size}"
            )
        tokens = self.proj(self.backbone(pixels))  # [B, D, h, w]
        return tokens.flatten(2).transpose(1, 2), (tokens.shape[2], tokens.shape[3])


def zeros_token(embed_dim: int, count: int = 1) -> nn.Parameter:
    """Prefix tokens [1, count, D], zero at the start as the paper's class token."""
    return nn.Parameter(torch.zeros(1, count, embed_dim))
