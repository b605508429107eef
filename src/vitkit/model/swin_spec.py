"""The spec of Swin Transformers: stages of windowed attention, each on half the grid and twice the width of the last.

"Swin Transformer" (Liu et al., 2021, arXiv:2103.14030), section 3, and "Swin Transformer V2" (Liu et al., 2022,
arXiv:2111.09883), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, cast

from vitkit.model.fields import EPSILON, SHARE, Activation, ImageFields, ImageSpec, Within

__all__ = ["BIAS_WIDTH", "MOST_STAGES", "SwinFields", "SwinSpec"]

# A number alone stands for all stages when a spec is made or read; every instance holds one per stage.
if TYPE_CHECKING:
    PerStage: TypeAlias = tuple[int, ...]
else:
    PerStage = int | tuple[int, ...]

WindowFit = Literal["trained", "each_call", "never"]
WindowPadding = Literal["before_shift", "after_shift"]

RATIO = Within("a number above 0 and up to 100", lambda value: 0 < value <= 100)
MOST_STAGES = 8
"""Far above any model: a stage is a quarter of the grid before."""
BIAS_WIDTH = 512
"""Hidden width of the network that gives version 2 its relative biases (its paper's code, `cpb_mlp`)."""


class SwinFields(ImageFields, total=False):
    """The fields of SwinSpec, as keywords for SwinTransformer. A test holds the two to each other."""

    version: Literal[1, 2]
    patch_size: int
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int | tuple[int, ...]
    pretrained_window_size: int | tuple[int, ...]
    position_resample: Literal["bicubic", "geometric"]
    window_fit: WindowFit
    window_padding: WindowPadding
    mlp_ratio: float
    qkv_bias: bool
    activation: Activation
    norm_eps: float
    dropout: float
    attention_dropout: float
    drop_path: float


@dataclass(frozen=True, kw_only=True)
class SwinSpec(ImageSpec):
    """A Swin Transformer with its head; the defaults are Swin-T. Raises ConfigError listing every fault at once."""

    title: ClassVar[str] = "Swin Transformer"
    version: Literal[1, 2] = field(
        default=1, metadata={"help": "2 compares by cosine, computes its biases and norms what branches give"}
    )
    patch_size: int = field(default=4, metadata={"help": "side of the square patches in pixels"})
    embed_dim: int = field(default=96, metadata={"help": "width of the first stage's tokens, doubled by each next"})
    depths: tuple[int, ...] = field(default=(2, 2, 6, 2), metadata={"help": "blocks of each stage", "most": 1_000})
    num_heads: tuple[int, ...] = field(default=(3, 6, 12, 24), metadata={"help": "attention heads of each stage"})
    window_size: PerStage = field(
        default=cast("PerStage", 7), metadata={"help": "side of the windows in tokens, one number or one per stage"}
    )
    pretrained_window_size: PerStage = field(
        default=cast("PerStage", 0),
        metadata={"help": "the window that version 2's biases were learned with; 0 = this one", "least": 0},
    )
    position_resample: Literal["bicubic", "geometric"] = field(
        default="bicubic",
        metadata={"help": "how version 1's biases follow another window", "policy": "resamples biases by"},
    )
    window_fit: WindowFit = field(
        default="trained",
        metadata={
            "help": "the grids to which windows shrink, unshifted then: the trained size's, each call's, or none",
            "policy": "fits windows to the grid:",
        },
    )
    window_padding: WindowPadding = field(
        default="before_shift",
        metadata={"help": "when a grid is filled up with zeros to a multiple of the window", "policy": "pads grids"},
    )
    mlp_ratio: float = field(
        default=4.0, metadata={"help": "hidden width of each block's MLP, in widths of its stage", "within": RATIO}
    )
    qkv_bias: bool = field(default=True, metadata={"help": "query, key (version 1 only) and value have a bias"})
    activation: Activation = field(default="gelu", metadata={"help": "non-linearity of the MLP; gelu is exact (erf)"})
    norm_eps: float = field(
        default=1e-5, metadata={"help": "epsilon of the LayerNorms in blocks and of the last", "within": EPSILON}
    )
    dropout: float = field(
        default=0.0, metadata={"help": "after the patches, attention projection and MLP layers", "within": SHARE}
    )
    attention_dropout: float = field(default=0.0, metadata={"help": "on the attention weights", "within": SHARE})
    drop_path: float = field(
        default=0.0, metadata={"help": "stochastic depth of the last block, rising from 0", "within": SHARE}
    )

    def __post_init__(self) -> None:
        """Gives every stage its windows, and checks everything."""
        for name in ("window_size", "pretrained_window_size"):
            if isinstance(getattr(self, name), int) and isinstance(self.depths, tuple | list):
                object.__setattr__(self, name, (getattr(self, name),) * len(self.depths))
        super().__post_init__()

    def _contradictions(self) -> Iterable[str]:
        if self.num_stages > MOST_STAGES:
            yield f"depths has {self.num_stages} stages; at most {MOST_STAGES}"
            return
        height, width = self.image_size
        if height % self.patch_size or width % self.patch_size:
            yield f"image_size {height}x{width} is not a multiple of patch_size {self.patch_size}"
        for name in ("num_heads", "window_size", "pretrained_window_size"):
            if len(getattr(self, name)) != len(self.depths):
                yield f"{name} has {len(getattr(self, name))} entries for {len(self.depths)} stages in depths"
        if self.version == 1 and any(self.pretrained_window_size):
            yield f"pretrained_window_size {self.pretrained_window_size} is for version 2"
        for dim, heads in zip(self.widths, self.num_heads, strict=False):
            if dim % heads:
                yield f"a stage's width {dim} is not a multiple of its num_heads {heads}"

    @property
    def num_stages(self) -> int:
        """S: between two of them the grid is halved and the width doubled."""
        return len(self.depths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each stage's tokens."""
        return tuple(self.embed_dim * 2**stage for stage in range(self.num_stages))

    @property
    def mlp_dims(self) -> tuple[int, ...]:
        """Hidden width of each stage's MLPs."""
        return tuple(int(dim * self.mlp_ratio) for dim in self.widths)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns (h, w) of the last stage's tokens at the trained size."""
        return self.grids()[-1]

    @property
    def num_blocks(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    @property
    def feature_dim(self) -> int:
        """Width of what the head reads: the last stage's."""
        return self.widths[-1]

    def grids(self, image_size: tuple[int, int] | None = None) -> tuple[tuple[int, int], ...]:
        """Rows and columns (h, w) of each stage's tokens: halved, rounded up."""
        h, w = (side // self.patch_size for side in image_size or self.image_size)
        return tuple((-(-h // 2**stage), -(-w // 2**stage)) for stage in range(self.num_stages))

    def window(self, stage: int, grid: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Sizes (h, w) of the windows on a stage's `grid`, and by how much every other block shifts them."""
        side = self.window_size[stage]
        room = {"trained": self.grids()[stage], "each_call": (min(grid),) * 2, "never": (math.inf,) * 2}[
            self.window_fit
        ]
        sizes, shifts = [min(side, most) for most in room], [side // 2 if most > side else 0 for most in room]
        return (int(sizes[0]), int(sizes[1])), (shifts[0], shifts[1])

    def bias_window(self, stage: int) -> tuple[int, int]:
        """The window (h, w) whose differences of places a stage's biases are learned for."""
        side = self.window_size[stage]
        return self.window(stage, self.grids()[stage])[0] if self.window_fit == "trained" else (side, side)

    def num_parameters(self) -> int:
        """Learned numbers of the module this spec builds, in closed form (a test compares it with the module)."""
        total = (self.in_channels * self.patch_size**2 + 1) * self.embed_dim + 2 * self.embed_dim
        for stage, (D, M, A) in enumerate(zip(self.widths, self.mlp_dims, self.num_heads, strict=True)):
            (h, w), two = self.bias_window(stage), self.version == 2
            biases = A + 3 * BIAS_WIDTH + BIAS_WIDTH * A if two else (2 * h - 1) * (2 * w - 1) * A
            attention = 4 * D * D + D + (2 if two else 3) * D * self.qkv_bias + biases
            block = attention + 2 * 2 * D + (D + 1) * M + (M + 1) * D
            merge = 2 * D * D + (2 * D if two else 4 * D) if stage else 0
            total += merge + self.depths[stage] * block
        return total + 2 * self.feature_dim + (self.feature_dim + 1) * self.num_classes

    def macs(self, image_size: tuple[int, int] | None = None) -> int:
        """Multiply-accumulates of one picture's forward pass: matrix products and attention, nothing element-wise."""
        grids = self.grids(image_size)
        total = math.prod(grids[0]) * self.in_channels * self.patch_size**2 * self.embed_dim
        for stage, (D, M, A) in enumerate(zip(self.widths, self.mlp_dims, self.num_heads, strict=True)):
            grid = grids[stage]
            window, _ = self.window(stage, grid)
            tokens = math.prod(grid)
            padded = math.prod(-(-side // cut) * cut for side, cut in zip(grid, window, strict=True))
            h, w = self.bias_window(stage)
            biases = (2 * h - 1) * (2 * w - 1) * BIAS_WIDTH * (2 + A) if self.version == 2 else 0
            block = padded * (4 * D * D + 2 * math.prod(window) * D) + tokens * 2 * D * M + biases
            total += (tokens * 2 * D * D if stage else 0) + self.depths[stage] * block
        return total + self.feature_dim * self.num_classes

    def facts(self) -> Mapping[str, str]:
        """What to tell people."""
        (height, width), (rows, columns) = self.image_size, self.grid
        widths, depths, heads, windows = (
            "-".join(map(str, numbers)) for numbers in (self.widths, self.depths, self.num_heads, self.window_size)
        )
        bias = "qkv" if self.version == 1 else "qv"
        learned = "a table per block" if self.version == 1 else "computed from log-spaced differences"
        return {
            "picture": f"{self.in_channels} channels, {height}x{width}, patches of {self.patch_size}, "
            f"grid {rows}x{columns} at the end",
            "encoder": f"version {self.version}, widths {widths}, depths {depths}, {heads} heads, "
            f"MLP {self.mlp_ratio:g} times as wide ({self.activation})",
            "details": f"bias on {bias if self.qkv_bias else 'none'}, LayerNorm eps {self.norm_eps:g}",
            "positions": f"relative, {learned}, in windows of {windows}; windows fit {FITS[self.window_fit]}, "
            f"padded {self.window_padding.replace('_', ' the ')}",
            "head": (f"{self.num_classes:,} outputs" if self.num_classes else "no head") + ", reads the mean",
        }


FITS: Mapping[WindowFit, str] = {
    "trained": "the trained size's grids",
    "each_call": "each call's grids",
    "never": "no grid",
}
