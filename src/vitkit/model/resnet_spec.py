"""The spec of ResNets, the convolutional networks that Vision Transformers are compared with.

"Deep Residual Learning for Image Recognition" (He et al., 2016, arXiv:1512.03385), table 1, and "Big Transfer"
(Kolesnikov et al., 2020, arXiv:1912.11370), section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from vitkit.model.fields import SHARE, ImageFields, ImageSpec
from vitkit.model.stem_spec import EXPANSION, WIDTH, Convolution, convolutions

__all__ = ["GROUPS", "MOST_STAGES", "ResNetFields", "ResNetSpec", "ResidualBlock"]

ResidualBlock = Literal["basic", "bottleneck", "preactivation"]

MOST_STAGES = 8
"""Far above any model: a stage has twice the width of the one before."""
GROUPS = 32
"""Of the group norms: Kolesnikov et al., section 3.2."""


class ResNetFields(ImageFields, total=False):
    """The fields of ResNetSpec, as keywords for ResNet. A test holds the two to each other."""

    block: ResidualBlock
    width: int
    depths: tuple[int, ...]
    drop_path: float


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(ImageSpec):
    """A ResNet with its head; the defaults are ResNet-50. Raises ConfigError listing every fault at once."""

    title: ClassVar[str] = "ResNet"
    any_size: ClassVar[bool] = True
    block: ResidualBlock = field(
        default="bottleneck",
        metadata={
            "help": "two convolutions (basic) or three, with batch norms; or BiT's three, standardised, a group norm "
            "and an activation before each (preactivation)"
        },
    )
    width: int = field(default=WIDTH, metadata={"help": "channels of the first convolution and of the first blocks"})
    depths: tuple[int, ...] = field(default=(3, 4, 6, 3), metadata={"help": "blocks of each stage", "most": 1_000})
    drop_path: float = field(
        default=0.0, metadata={"help": "stochastic depth of the last block, rising from 0", "within": SHARE}
    )

    def _contradictions(self) -> Iterable[str]:
        if len(self.depths) > MOST_STAGES:
            yield f"depths has {len(self.depths)} stages; at most {MOST_STAGES}"
        if self.block == "preactivation" and self.width % GROUPS:
            yield f"width {self.width} is not a multiple of {GROUPS}, the groups of the norms"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that the blocks of each stage give."""
        expansion = 1 if self.block == "basic" else EXPANSION
        return tuple(expansion * self.width * 2**stage for stage in range(len(self.depths)))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns (h, w) of the last stage's output at the trained size: halved by each step, rounded up."""
        height, width = (-(-side // 2 ** (len(self.depths) + 1)) for side in self.image_size)
        return height, width

    @property
    def num_blocks(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    @property
    def feature_dim(self) -> int:
        """Width of what the head reads: the last stage's."""
        return self.widths[-1]

    def num_parameters(self) -> int:
        """Learned numbers of the module this spec builds, in closed form (a test compares it with the module)."""
        kernels = sum(one.parameters for one in self._convolutions())
        return kernels + 2 * self._normed_channels() + (self.feature_dim + 1) * self.num_classes

    def macs(self, image_size: tuple[int, int] | None = None) -> int:
        """Multiply-accumulates of one picture's forward pass: convolutions and the head, nothing element-wise."""
        kernels = sum(one.macs(image_size or self.image_size) for one in self._convolutions())
        return kernels + self.feature_dim * self.num_classes

    def facts(self) -> Mapping[str, str]:
        """What to tell people."""
        (height, width), (rows, columns) = self.image_size, self.grid
        widths, depths = ("-".join(map(str, numbers)) for numbers in (self.widths, self.depths))
        preactivated = self.block == "preactivation"
        return {
            "picture": f"{self.in_channels} channels, {height}x{width}, grid {rows}x{columns} at the end",
            "encoder": f"widths {widths}, depths {depths}, {self.block} blocks",
            "details": f"GroupNorm of {GROUPS} groups, standardised kernels" if preactivated else "BatchNorm",
            "head": (f"{self.num_classes:,} outputs" if self.num_classes else "no head") + ", reads the mean",
        }

    def _convolutions(self) -> Iterable[Convolution]:
        return convolutions(self.depths, self.in_channels, width=self.width, basic=self.block == "basic")

    def _normed_channels(self) -> int:
        """Channels of all norms: one after each convolution, or one before each of a block's three and a last one."""
        if self.block != "preactivation":
            return sum(one.out_channels for one in self._convolutions())
        total, channels = self.feature_dim, self.width
        for depth, outer in zip(self.depths, self.widths, strict=True):
            total += channels + (depth - 1) * outer + 2 * depth * outer // EXPANSION
            channels = outer
        return total
