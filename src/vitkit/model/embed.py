"""From pixels to patch tokens: the picture cut into squares, each linearly projected (paper, equation 1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.model.resnet import stem
from vitkit.model.stem_spec import Depths, stem_channels, stem_stride

__all__ = ["PatchEmbed", "resample_patches", "zeros_token"]


class PatchEmbed(nn.Module):
    """Patchify + linear projection, stored as the convolution of equal stride and size that every checkpoint uses.

    A hybrid's patches are cut from what a ResNet stem makes of the pixels. With `norm_eps`, a LayerNorm follows.
    """

    def __init__(
        self,
        patch_size: int,
        in_channels: int,
        embed_dim: int,
        *,
        bias: bool = True,
        norm_eps: float | None = None,
        ragged_edges: bool = False,
        stem_depths: Depths = None,
    ) -> None:
        super().__init__()
        self.ragged_edges = ragged_edges
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.backbone = stem(in_channels, stem_depths)
        side, channels = patch_size // stem_stride(stem_depths), stem_channels(stem_depths, in_channels)
        self.proj = nn.Conv2d(channels, embed_dim, kernel_size=side, stride=side, bias=bias)
        # Flax's convolution default, lecun_normal over the patch: vit_jax/models_vit.py, `embedding`.
        nn.init.trunc_normal_(self.proj.weight, std=math.sqrt(1 / (channels * side**2)))
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(embed_dim, eps=norm_eps)

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Pixels [B, C, H, W] to patch tokens [B, h*w, D], row by row; and their grid (h, w)."""
        size = self.patch_size
        over = not self.ragged_edges and any(side % size for side in pixels.shape[2:])
        if pixels.ndim != 4 or pixels.shape[1] != self.in_channels or over:
            raise ConfigError(
                f"pixels have the shape {list(pixels.shape)}; allowed: [B, {self.in_channels}, H, W] "
                f"with H and W multiples of the patch size {size}"
            )
        tokens = self.proj(self.backbone(pixels))  # [B, D, h, w]
        return self.norm(tokens.flatten(2).transpose(1, 2)), (tokens.shape[2], tokens.shape[3])


def resample_patches(kernels: Tensor, size: int) -> Tensor:
    """Kernels [D, C, p, p] for patches of another `size`, by the pseudo-inverse of resizing; same dtype out.

    Of all kernels of that size they answer to enlarged patches exactly, to reduced ones as nearly as any can, as
    `kernels` do to the patches themselves: PI-resize of FlexiViT (Beyer et al., 2023, arXiv:2212.08013). There the
    resizing of a patch is one matrix; here it is one along the rows and the columns, whose pseudo-inverses multiply.
    Resizing is bicubic and antialiased, as in timm's resample_patch_embed.
    """
    old = kernels.shape[-1]
    identity = torch.eye(old, dtype=torch.float64)[None, None]
    resize = F.interpolate(identity, size=(size, old), mode="bicubic", antialias=True)[0, 0]  # [size, p]
    back = torch.linalg.pinv(resize)  # [p, size]
    resampled: Tensor = back.T @ kernels.double() @ back
    return resampled.to(kernels.dtype)


def zeros_token(embed_dim: int, count: int = 1) -> nn.Parameter:
    """Prefix tokens [1, count, D], zero at the start as the paper's class token."""
    return nn.Parameter(torch.zeros(1, count, embed_dim))
