"""From pixels to patch tokens: the picture cut into squares, each linearly projected (paper, equation 1)."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.model.resnet import Conv, stem
from vitkit.model.stem_spec import Counts, plain_layers, plain_stem, resnet_stem

__all__ = ["ConvStem", "PatchEmbed", "resample_patches", "zeros_token"]


class ConvStem(nn.Sequential):
    """The 3x3 convolutions of `plain_layers`, each normed and activated: pixels [B, C, H, W] to a map.

    "Early Convolutions Help Transformers See Better" (Xiao et al., 2021, arXiv:2106.14881), section 4.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        for before, after, stride in plain_layers(channels, in_channels):
            conv = Conv(before, after, 3, stride)
            self.append(nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(after), act=nn.ReLU())))


class PatchEmbed(nn.Module):
    """Patchify + linear projection, stored as the convolution of equal stride and size that every checkpoint uses.

    Patches are cut from what a stem makes of the pixels: a hybrid's ResNet, or plain convolutions. With `norm_eps`, a
    LayerNorm follows.
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
        stem_depths: Counts = None,
        stem_channels: Counts = None,
    ) -> None:
        super().__init__()
        self.ragged_edges = ragged_edges
        self.patch_size = patch_size
        self.in_channels = in_channels
        if stem_channels is None:
            self.backbone, shape = stem(in_channels, stem_depths), resnet_stem(stem_depths, in_channels)
        else:
            self.backbone, shape = ConvStem(in_channels, stem_channels), plain_stem(stem_channels, in_channels)
        side, channels = patch_size // shape.stride, shape.channels
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
