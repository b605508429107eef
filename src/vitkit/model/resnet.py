"""ResNets: the convolutional networks to compare Vision Transformers with, and the hybrid's stem of the same parts.

"Deep Residual Learning for Image Recognition" (He et al., 2016, arXiv:1512.03385), strided in the middle of a
bottleneck ("version 1.5": torchvision, models/resnet.py); "Big Transfer" (Kolesnikov et al., 2020, arXiv:1912.11370;
google-research/big_transfer, bit_pytorch/models.py), activated before each convolution; and the stem of
vit_jax/models_resnet.py, BiT's but activated after. Parameter names are those of timm's ResNetV2, both eps timm's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import ClassVar, NamedTuple, Unpack, cast

import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.model.base import Features, ImageModel
from vitkit.model.block import DropPath
from vitkit.model.fields import from_keywords
from vitkit.model.head import MeanPool
from vitkit.model.resnet_spec import GROUPS, ResidualBlock, ResNetFields, ResNetSpec
from vitkit.model.stem_spec import EXPANSION, ROOT_SIDE, WIDTH

__all__ = ["ResNet", "SameStdConv", "StdConv", "Stem", "stem"]

NORM_EPS, WEIGHT_EPS = 1e-5, 1e-8
"""timm's. vit_jax has 1e-6 in the norms and adds 1e-5 to the kernels' deviation, which the norms all but undo."""


class Conv(nn.Conv2d):
    """A convolution without bias, as many zeros on every side as keep the grid, or its halves."""

    def __init__(self, in_channels: int, out_channels: int, side: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, side, stride, padding=side // 2, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")  # torchvision's


class StdConv(Conv):
    """One with standardised kernels (Qiao et al., 2019, arXiv:1903.10520)."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, out_channels, H / stride, W / stride], rounded up."""
        weight = F.layer_norm(self.weight, self.weight.shape[1:], eps=WEIGHT_EPS)
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)


class SameStdConv(StdConv):
    """One with TensorFlow's "SAME" padding: the odd row and column of zeros is below and on the right.

    The sides of its input are multiples of the stride.
    """

    def __init__(self, in_channels: int, out_channels: int, side: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, side, stride)
        missing = max(side - stride, 0)
        self.padding, self.odd = (missing // 2, missing // 2), missing % 2

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, out_channels, H / stride, W / stride]."""
        return super().forward(F.pad(x, (0, self.odd, 0, self.odd)) if self.odd else x)


def group_norm(channels: int) -> nn.GroupNorm:
    """The norm of standardised convolutions."""
    return nn.GroupNorm(GROUPS, channels, eps=NORM_EPS)


def zero_padded_pool() -> nn.Module:
    """BiT's: zeros at the edge compete, as nothing has been activated before."""
    return nn.Sequential(nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, stride=2))


class Parts(NamedTuple):
    """What a ResNet is made of."""

    conv: type[Conv]
    norm: Callable[[int], nn.Module]
    pool: Callable[[], nn.Module]
    """The root's, 3x3 with stride 2."""


BATCH_NORMED = Parts(Conv, nn.BatchNorm2d, partial(nn.MaxPool2d, 3, stride=2, padding=1))
STANDARDISED = Parts(StdConv, group_norm, zero_padded_pool)
HYBRID = Parts(SameStdConv, group_norm, partial(nn.MaxPool2d, 3, stride=2, ceil_mode=True))  # "SAME" as well


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a residual, activated at the end; projected where the channels change."""

    expansion: ClassVar[int] = 1

    def __init__(self, parts: Parts, in_channels: int, width: int, *, stride: int, drop_path: float) -> None:
        super().__init__()
        self.downsample = projection(parts, in_channels, width, stride)
        self.conv1, self.norm1 = parts.conv(in_channels, width, 3, stride), parts.norm(width)
        self.conv2, self.norm2 = parts.conv(width, width, 3), parts.norm(width)
        self.drop_path = DropPath(drop_path)
        nn.init.zeros_(cast(Tensor, self.norm2.weight))  # blocks start as the identity: Goyal et al., 2017

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, width, H / stride, W / stride]."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(self.downsample(x) + self.drop_path(y))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a residual, activated at the end; projected where the channels change."""

    expansion: ClassVar[int] = EXPANSION

    def __init__(self, parts: Parts, in_channels: int, width: int, *, stride: int, drop_path: float) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.downsample = projection(parts, in_channels, out_channels, stride)
        self.conv1, self.norm1 = parts.conv(in_channels, width, 1), parts.norm(width)
        self.conv2, self.norm2 = parts.conv(width, width, 3, stride), parts.norm(width)
        self.conv3, self.norm3 = parts.conv(width, out_channels, 1), parts.norm(out_channels)
        self.drop_path = DropPath(drop_path)
        nn.init.zeros_(cast(Tensor, self.norm3.weight))  # as above, and vit_jax/models_resnet.py, `gn3`

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, 4 * width, H / stride, W / stride]."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return F.relu(self.downsample(x) + self.drop_path(y))


class PreActivationBottleneck(nn.Module):
    """A bottleneck whose convolutions read what is normed and activated; so does the projection, where there is one.

    "Identity Mappings in Deep Residual Networks" (He et al., 2016, arXiv:1603.05027).
    """

    expansion: ClassVar[int] = EXPANSION

    def __init__(self, parts: Parts, in_channels: int, width: int, *, stride: int, drop_path: float) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        projected = OrderedDict[str, nn.Module](conv=parts.conv(in_channels, out_channels, 1, stride))
        self.downsample = nn.Sequential(projected) if in_channels != out_channels else None
        self.norm1, self.conv1 = parts.norm(in_channels), parts.conv(in_channels, width, 1)
        self.norm2, self.conv2 = parts.norm(width), parts.conv(width, width, 3, stride)
        self.norm3, self.conv3 = parts.norm(width), parts.conv(width, out_channels, 1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, 4 * width, H / stride, W / stride]."""
        y = F.relu(self.norm1(x))
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.conv1(y)
        y = self.conv2(F.relu(self.norm2(y)))
        y = self.conv3(F.relu(self.norm3(y)))
        out: Tensor = shortcut + self.drop_path(y)
        return out


def projection(parts: Parts, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The shortcut of a block that is activated at its end."""
    if in_channels == out_channels:
        return nn.Identity()
    conv = parts.conv(in_channels, out_channels, 1, stride)
    return nn.Sequential(OrderedDict(conv=conv, norm=parts.norm(out_channels)))


AnyBlock = type[BasicBlock] | type[Bottleneck] | type[PreActivationBottleneck]


def root(parts: Parts, in_channels: int, width: int, *, activated: bool) -> nn.Sequential:
    """Convolution and max pooling: pixels [B, C, H, W] to [B, width, H / 4, W / 4]."""
    conv = OrderedDict[str, nn.Module](conv=parts.conv(in_channels, width, ROOT_SIDE, 2))
    normed = {"norm": parts.norm(width), "act": nn.ReLU()} if activated else {}
    return nn.Sequential(OrderedDict(**conv, **normed, pool=parts.pool()))


class Stage(nn.Module):
    """Blocks of one width, the first of which halves the grid unless the stage is the first one."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, expansion * width, H / stride, W / stride]."""
        for block in self.blocks:
            x = block(x)
        return x


def stages(
    parts: Parts, block: AnyBlock, width: int, depths: tuple[int, ...], *, drop_path: float = 0.0
) -> nn.ModuleList:
    """The stages after a root of `width` channels."""
    total = sum(depths)
    rates = iter([drop_path * i / max(total - 1, 1) for i in range(total)])
    channels, made = width, nn.ModuleList()
    for stage, depth in enumerate(depths):
        inner, blocks = width * 2**stage, []
        for i in range(depth):
            stride = 2 if stage and i == 0 else 1
            blocks.append(block(parts, channels, inner, stride=stride, drop_path=next(rates)))
            channels = block.expansion * inner
        made.append(Stage(blocks))
    return made


class Stem(nn.Module):
    """A hybrid's root and stages of bottleneck blocks."""

    def __init__(self, in_channels: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = root(HYBRID, in_channels, WIDTH, activated=True)
        self.stages = stages(HYBRID, Bottleneck, WIDTH, depths)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, C, H, W] to [B, channels, H / stride, W / stride], as `resnet_stem` says."""
        x: Tensor = self.stem(pixels)
        for stage in self.stages:
            x = stage(x)
        return x


def stem(in_channels: int, depths: tuple[int, ...] | None) -> nn.Module:
    """The module that `stem_depths` asks for; an empty one's names have no "stem." in front, as timm's."""
    if depths is None:
        return nn.Identity()
    return Stem(in_channels, depths) if depths else root(HYBRID, in_channels, WIDTH, activated=True)


KINDS: Mapping[ResidualBlock, tuple[Parts, AnyBlock]] = {
    "basic": (BATCH_NORMED, BasicBlock),
    "bottleneck": (BATCH_NORMED, Bottleneck),
    "preactivation": (STANDARDISED, PreActivationBottleneck),
}


class ResNet(ImageModel):
    """A ResNet classifier: pixels [B, C, H, W] to logits [B, num_classes], or embeddings without a head.

    The keywords are the fields of `ResNetSpec`, whose defaults are ResNet-50; the spec stays readable as `.spec`. H and
    W are any, per batch.
    """

    spec: ResNetSpec

    def __init__(self, **fields: Unpack[ResNetFields]) -> None:
        super().__init__()
        spec = from_keywords(ResNetSpec, fields, owner="ResNet")
        self.spec = spec
        parts, block = KINDS[spec.block]
        activated = spec.block != "preactivation"
        self.stem = root(parts, spec.in_channels, spec.width, activated=activated)
        self.stages = stages(parts, block, spec.width, spec.depths, drop_path=spec.drop_path)
        self.norm = nn.Identity() if activated else parts.norm(spec.feature_dim)
        self.pool = MeanPool()
        self.head = self.new_head()

    def embed(self, pixels: Tensor) -> Tensor:
        """What the last linear layer reads, [B, feature_dim]: the mean over the last stage's positions."""
        embedding: Tensor = self.pool(self.features(pixels).patch_tokens)
        return embedding

    def features(self, pixels: Tensor, layers: Sequence[int] = ()) -> Features:
        """The last stage's positions as tokens, and outputs of the blocks numbered in `layers` through all stages."""
        asked = [self.block_number(layer) for layer in layers]
        if pixels.ndim != 4 or pixels.shape[1] != self.spec.in_channels:
            shape, allowed = list(pixels.shape), f"[B, {self.spec.in_channels}, H, W]"
            raise ConfigError(f"pixels have the shape {shape}; allowed: {allowed}")
        x = self.stem(pixels)
        taken: dict[int, Tensor] = {}
        for number, block in enumerate(blocks_of(self.stages)):
            x = block(x)
            if number in asked:
                taken[number] = tokens_of(x)
        x = F.relu(self.norm(x))  # which leaves what a block has activated as it is
        tokens = tokens_of(x)
        return Features(tokens[:, :0], tokens, (x.shape[2], x.shape[3]), tuple(taken[number] for number in asked))

    @property
    def encoder_blocks(self) -> list[nn.Module]:
        """The blocks that `features` numbers, in order: those of all stages."""
        return blocks_of(self.stages)

    def layer_of(self, name: str) -> int:
        """The layer of the parameter `name`: 0 the root, i + 1 block i, counted through all stages, then the rest."""
        if not name.startswith("stages."):
            return 0 if name.startswith("stem.") else self.num_layers
        _, stage, _, block, *_ = name.split(".")
        return sum(self.spec.depths[: int(stage)]) + int(block) + 1


def blocks_of(stages: nn.Module) -> list[nn.Module]:
    """The blocks of all stages, in order: a function, since printed code has no properties."""
    return [block for stage in cast("list[Stage]", stages) for block in stage.blocks]


def tokens_of(x: Tensor) -> Tensor:
    """[B, D, h, w] to tokens [B, h*w, D], row by row."""
    return x.flatten(2).transpose(1, 2)
