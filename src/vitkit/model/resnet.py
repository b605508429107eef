"""The hybrid's stem: a ResNet of weight-standardised convolutions and group norms, whose output is cut into patches.

"An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021), section 3.1, and vit_jax/models_resnet.py: BiT's ResNet
(Kolesnikov et al., 2020, arXiv:1912.11370), but activated after each block. Parameter names and both eps are timm's.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.model.stem_spec import EXPANSION, ROOT_SIDE, WIDTH

__all__ = ["Bottleneck", "Root", "StdConv", "Stem", "stem"]

GROUPS, NORM_EPS, WEIGHT_EPS = 32, 1e-5, 1e-8
"""timm's. vit_jax has 1e-6 in the norms and adds 1e-5 to the kernels' deviation, which the norms all but undo."""


class StdConv(nn.Conv2d):
    """A convolution without bias, its kernels standardised (Qiao et al., 2019, arXiv:1903.10520), "SAME" padding.

    The sides of its input are multiples of the stride: then TensorFlow's padding is one, with the odd row and column
    below and on the right.
    """

    def __init__(self, in_channels: int, out_channels: int, side: int, stride: int = 1) -> None:
        missing = max(side - stride, 0)
        super().__init__(in_channels, out_channels, side, stride, padding=missing // 2, bias=False)
        self.odd = missing % 2
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, out_channels, H / stride, W / stride]."""
        weight = F.layer_norm(self.weight, self.weight.shape[1:], eps=WEIGHT_EPS)
        x = F.pad(x, (0, self.odd, 0, self.odd)) if self.odd else x
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=NORM_EPS)


class Root(nn.Module):
    """Convolution and max pooling: pixels [B, C, H, W] to [B, 64, H / 4, W / 4]."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = StdConv(in_channels, WIDTH, ROOT_SIDE, stride=2)
        self.norm = _norm(WIDTH)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)  # "SAME": the last window reaches over the edge

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, C, H, W] to [B, 64, H / 4, W / 4]."""
        out: Tensor = self.pool(F.relu(self.norm(self.conv(pixels))))
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a residual, activated at the end; the stage's first block projects it."""

    def __init__(self, in_channels: int, width: int, *, stride: int, first: bool) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        projection = OrderedDict(conv=StdConv(in_channels, out_channels, 1, stride), norm=_norm(out_channels))
        self.downsample = nn.Sequential(projection) if first else nn.Identity()
        self.conv1, self.norm1 = StdConv(in_channels, width, 1), _norm(width)
        self.conv2, self.norm2 = StdConv(width, width, 3, stride), _norm(width)
        self.conv3, self.norm3 = StdConv(width, out_channels, 1), _norm(out_channels)
        nn.init.zeros_(self.norm3.weight)  # vit_jax/models_resnet.py, `gn3`: blocks start as the identity

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, 4 * width, H / stride, W / stride]."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.downsample(x) + self.norm3(self.conv3(y)))


class Stem(nn.Module):
    """The root and stages of bottleneck blocks."""

    def __init__(self, in_channels: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = Root(in_channels)
        self.stages = nn.Sequential()
        channels = WIDTH
        for stage, depth in enumerate(depths):
            width, stride = WIDTH * 2**stage, 2 if stage else 1
            blocks = nn.Sequential(Bottleneck(channels, width, stride=stride, first=True))
            blocks.extend(Bottleneck(EXPANSION * width, width, stride=1, first=False) for _ in range(depth - 1))
            self.stages.append(nn.Sequential(OrderedDict(blocks=blocks)))
            channels = EXPANSION * width

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, C, H, W] to [B, stem_channels, H / stem_stride, W / stem_stride]."""
        out: Tensor = self.stages(self.stem(pixels))
        return out


def stem(in_channels: int, depths: tuple[int, ...] | None) -> nn.Module:
    """The module that `stem_depths` asks for; an empty one's names have no "stem." in front, as timm's."""
    if depths is None:
        return nn.Identity()
    return Stem(in_channels, depths) if depths else Root(in_channels)
