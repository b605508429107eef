"""The Swin Transformer: attention within windows that every other block shifts, on grids halved from stage to stage.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (Liu et al., 2021, arXiv:2103.14030) and
"Swin Transformer V2: Scaling Up Capacity and Resolution" (Liu et al., 2022, arXiv:2111.09883); initialisation as the
authors' models/swin_transformer.py and swin_transformer_v2.py. Parameter names are timm's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.model.attention import Attention
from vitkit.model.base import Features, ImageModel
from vitkit.model.block import DropPath, Mlp
from vitkit.model.embed import PatchEmbed
from vitkit.model.fields import from_keywords
from vitkit.model.position import Places, resample_grid
from vitkit.model.swin_spec import BIAS_WIDTH, SwinFields, SwinSpec

__all__ = ["SwinTransformer", "Windows"]

FIXED_EPS = 1e-5
"""Of the LayerNorms between stages and after the patches: no library's configuration reaches them."""
MASKED = -100.0
"""Added to the logits of pairs that only the shift made neighbours (the authors' attn_mask)."""
MOST_LOGIT_SCALE = math.log(100)
"""Version 2, section 3.2: temperatures stay above 0.01."""


class Windows(NamedTuple):
    """How a grid is cut: shifted up and left by `shift`, filled up with zeros, and divided into windows of `size`."""

    grid: tuple[int, int]
    size: tuple[int, int]
    shift: tuple[int, int]
    pad_first: bool
    """Whether zeros are added before the shift."""
    pairs: Tensor
    """int64 [N * N], for every pair of a window's N tokens its row in a table of relative positions."""
    mask: Tensor | None
    """[n, 1, N, N], added to the attention logits of a picture's n windows; None where all tokens see each other."""

    def cut(self, x: Tensor) -> Tensor:
        """Tokens [B, h, w, D] to windows [B * n, N, D], row by row."""
        x = self._pad(x) if self.pad_first else x
        x = x.roll((-self.shift[0], -self.shift[1]), dims=(1, 2)) if any(self.shift) else x
        return divide(x if self.pad_first else self._pad(x), self.size)

    def join(self, x: Tensor) -> Tensor:
        """Windows [B * n, N, D] back to tokens [B, h, w, D]."""
        (h, w), (down, right) = self.grid, self.size
        rows, columns = -(-h // down), -(-w // right)
        x = x.view(-1, rows, columns, down, right, x.shape[-1]).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        x = x if self.pad_first else self._crop(x)
        return self._crop(x.roll(self.shift, dims=(1, 2)) if any(self.shift) else x)

    def _pad(self, x: Tensor) -> Tensor:
        below, beside = (-side % window for side, window in zip(self.grid, self.size, strict=True))
        return F.pad(x, (0, 0, 0, beside, 0, below)) if below or beside else x

    def _crop(self, x: Tensor) -> Tensor:
        return x if x.shape[1:3] == self.grid else x[:, : self.grid[0], : self.grid[1]]


def divide(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, H, W, D] into windows of `size`, [B * n, N, D], row by row."""
    B, H, W, D = x.shape
    down, right = size
    return x.view(B, H // down, down, W // right, right, D).transpose(2, 3).reshape(-1, down * right, D)


def window_pairs(size: tuple[int, int], table: tuple[int, int], *, device: torch.device) -> Tensor:
    """int64 [N * N]: rows of a table [(2h-1)(2w-1), A] for differences within (h, w), for every pair in a window."""
    rows = torch.arange(size[0], device=device).repeat_interleave(size[1])
    columns = torch.arange(size[1], device=device).repeat(size[0])
    down, right = rows[:, None] - rows + table[0] - 1, columns[:, None] - columns + table[1] - 1
    return (down * (2 * table[1] - 1) + right).flatten()


def shift_mask(grid: tuple[int, int], size: tuple[int, int], shift: tuple[int, int], like: Tensor) -> Tensor:
    """[n, 1, N, N] in the dtype of `like`: MASKED where two tokens of a window come from opposite sides of the grid."""
    parts = []
    for side, window, by in zip(grid, size, shift, strict=True):
        place = torch.arange(-(-side // window) * window, device=like.device)
        last, wrapped = place >= len(place) - window, place >= len(place) - by
        parts.append(last.int() + wrapped.int() if by else torch.zeros_like(place))
    region = divide((3 * parts[0][:, None] + parts[1])[None, :, :, None], size)[..., 0]  # [n, N]
    apart = region[:, None, :, None] != region[:, None, None, :]
    return torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill(apart, MASKED)


class TableAttention(Attention):
    """Attention with a learned bias for every difference of places within a window, per head (version 1)."""

    def __init__(self, spec: SwinSpec, stage: int) -> None:
        A, (h, w) = spec.num_heads[stage], spec.bias_window(stage)
        super().__init__(
            spec.widths[stage],
            A,
            qkv_bias="qkv" if spec.qkv_bias else "none",
            dropout=spec.dropout,
            attention_dropout=spec.attention_dropout,
        )
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * h - 1) * (2 * w - 1), A))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def bias(self, pairs: Tensor) -> Tensor:
        """[1, A, N, N] for the pairs of a window."""
        N = math.isqrt(len(pairs))
        return self.relative_position_bias_table.T.index_select(1, pairs).view(1, -1, N, N)


class CosineAttention(Attention):
    """Attention by cosine similarity, with biases computed from log-spaced differences of places (version 2)."""

    def __init__(self, spec: SwinSpec, stage: int) -> None:
        A = spec.num_heads[stage]
        super().__init__(
            spec.widths[stage],
            A,
            qkv_bias="qv" if spec.qkv_bias else "none",
            dropout=spec.dropout,
            attention_dropout=spec.attention_dropout,
        )
        self.window, self.learned_window = spec.bias_window(stage), spec.pretrained_window_size[stage]
        self.logit_scale = nn.Parameter(torch.full((A, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, BIAS_WIDTH), nn.ReLU(), nn.Linear(BIAS_WIDTH, A, bias=False))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys of unit length, the queries scaled, so that `attend` compares by cosine; and values."""
        q_BAND, k_BAND, v_BAND = super().heads(x)
        scale = self.logit_scale.clamp(max=MOST_LOGIT_SCALE).exp() * math.sqrt(q_BAND.shape[-1])
        return F.normalize(q_BAND, dim=-1) * scale, F.normalize(k_BAND, dim=-1), v_BAND

    def bias(self, pairs: Tensor) -> Tensor:
        """[1, A, N, N] for the pairs of a window, within (0, 16)."""
        N = math.isqrt(len(pairs))
        table = 16 * torch.sigmoid(self.cpb_mlp(self._differences()))
        return table.T.index_select(1, pairs).view(1, -1, N, N)

    def _differences(self) -> Tensor:
        """[(2h-1)(2w-1), 2]: differences of places, -8 to 8 in the window of training, log-spaced (equation 4)."""
        like = self.logit_scale
        axes = []
        for side in self.window:
            steps = torch.arange(1 - side, side, dtype=torch.float32, device=like.device)
            steps = 8 * steps / max((self.learned_window or side) - 1, 1)
            axes.append(steps.sign() * torch.log2(steps.abs() + 1) / math.log2(8))
        return torch.cartesian_prod(*axes).to(like.dtype)


class WindowBlock(nn.Module):
    """The parts of a block."""

    def __init__(self, spec: SwinSpec, stage: int, *, drop_path: float) -> None:
        super().__init__()
        D = spec.widths[stage]
        self.norm1 = nn.LayerNorm(D, eps=spec.norm_eps)
        self.attn = TableAttention(spec, stage) if spec.version == 1 else CosineAttention(spec, stage)
        self.norm2 = nn.LayerNorm(D, eps=spec.norm_eps)
        self.mlp = Mlp(D, spec.mlp_dims[stage], activation=spec.activation, dropout=spec.dropout)
        self.drop_path = DropPath(drop_path)

    def attended(self, x: Tensor, windows: Windows) -> Tensor:
        """Tokens [B, h, w, D] to what attention within windows gives."""
        bias = self.attn.bias(windows.pairs)
        if windows.mask is not None:
            bias = (bias + windows.mask).repeat(x.shape[0], 1, 1, 1)  # [B * n, A, N, N]
        return windows.join(self.attn(windows.cut(x), Places(bias=bias)))


class PreNormBlock(WindowBlock):
    """x + attention(norm(x)), then x + mlp(norm(x)) (version 1)."""

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Tokens [B, h, w, D] to tokens [B, h, w, D]."""
        x = x + self.drop_path(self.attended(self.norm1(x), windows))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class PostNormBlock(WindowBlock):
    """x + norm(attention(x)), then x + norm(mlp(x)) (version 2)."""

    def __init__(self, spec: SwinSpec, stage: int, *, drop_path: float) -> None:
        super().__init__(spec, stage, drop_path=drop_path)
        for norm in (self.norm1, self.norm2):  # blocks start as the identity: the authors' _init_respostnorm
            nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Tokens [B, h, w, D] to tokens [B, h, w, D]."""
        x = x + self.drop_path(self.norm1(self.attended(x, windows)))
        out: Tensor = x + self.drop_path(self.norm2(self.mlp(x)))
        return out


def neighbours(x: Tensor) -> Tensor:
    """Tokens [B, h, w, D] to [B, h/2, w/2, 4D]: two by two, column by column; odd sides are filled up with zeros."""
    B, h, w, D = x.shape
    x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2)) if h % 2 or w % 2 else x
    return x.view(B, (h + 1) // 2, 2, (w + 1) // 2, 2, D).permute(0, 1, 3, 4, 2, 5).flatten(3)


class PreNormMerge(nn.Module):
    """Four neighbours become one token of twice their width: norm, linear (version 1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=FIXED_EPS)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, h, w, D] to tokens [B, h/2, w/2, 2D]."""
        out: Tensor = self.reduction(self.norm(neighbours(x)))
        return out


class PostNormMerge(nn.Module):
    """Four neighbours become one token of twice their width: linear, norm (version 2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim, eps=FIXED_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, h, w, D] to tokens [B, h/2, w/2, 2D]."""
        out: Tensor = self.norm(self.reduction(neighbours(x)))
        return out


class Stage(nn.Module):
    """The blocks on one grid, after the step down from the grid before."""

    def __init__(self, spec: SwinSpec, stage: int) -> None:
        super().__init__()
        merge, block = (PreNormMerge, PreNormBlock) if spec.version == 1 else (PostNormMerge, PostNormBlock)
        self.downsample = merge(spec.widths[stage - 1]) if stage else nn.Identity()
        before, last = sum(spec.depths[:stage]), max(spec.num_blocks - 1, 1)
        self.blocks = nn.ModuleList(
            block(spec, stage, drop_path=spec.drop_path * (before + i) / last) for i in range(spec.depths[stage])
        )


class SwinTransformer(ImageModel):
    """A Swin Transformer classifier: pixels [B, C, H, W] to logits [B, num_classes], or embeddings without a head.

    The keywords are the fields of `SwinSpec`, whose defaults are Swin-T; the spec stays readable as `.spec`. H and W
    are any multiples of the patch size, per batch: windows follow by `spec.window_fit` and `spec.window_padding`.
    """

    spec: SwinSpec

    def __init__(self, **fields: Unpack[SwinFields]) -> None:
        super().__init__()
        spec = from_keywords(SwinSpec, fields, owner="SwinTransformer")
        self.spec = spec
        self.patch_embed = PatchEmbed(spec.patch_size, spec.in_channels, spec.embed_dim, norm_eps=FIXED_EPS)
        self.pos_drop = nn.Dropout(spec.dropout)
        self.layers = nn.ModuleList(Stage(spec, stage) for stage in range(spec.num_stages))
        self.norm = nn.LayerNorm(spec.feature_dim, eps=spec.norm_eps)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        self.head = self.new_head()

    def embed(self, pixels: Tensor) -> Tensor:
        """What the last linear layer reads, [B, feature_dim]: the mean of the last stage's tokens, normed."""
        return self.features(pixels).patch_tokens.mean(dim=1)

    def features(self, pixels: Tensor, layers: Sequence[int] = ()) -> Features:
        """Tokens of the last stage; and the outputs of the blocks numbered in `layers` through all stages."""
        asked = [self.block_number(layer) for layer in layers]
        tokens, grid = self.patch_embed(pixels)
        x = self.pos_drop(tokens).unflatten(1, grid)  # [B, h, w, D]
        taken: dict[int, Tensor] = {}
        number = 0
        for at, stage in enumerate(cast("list[Stage]", self.layers)):
            x = stage.downsample(x)
            straight, shifted = self.windows(at, x)
            for i, block in enumerate(stage.blocks):
                x = block(x, shifted if i % 2 else straight)
                if number in asked:
                    taken[number] = x.flatten(1, 2)
                number += 1
        grid, x = (x.shape[1], x.shape[2]), self.norm(x).flatten(1, 2)
        return Features(x[:, :0], x, grid, tuple(taken[number] for number in asked))

    def windows(self, stage: int, x: Tensor) -> tuple[Windows, Windows]:
        """How the blocks of a stage cut its tokens [B, h, w, D]: the even ones, and the odd ones, shifted."""
        spec, grid = self.spec, (x.shape[1], x.shape[2])
        size, shift = spec.window(stage, grid)
        pairs = window_pairs(size, spec.bias_window(stage), device=x.device)
        straight = Windows(grid, size, (0, 0), spec.window_padding == "before_shift", pairs, None)
        shifted = any(shift) and spec.depths[stage] > 1
        mask = shift_mask(grid, size, shift, x) if shifted else None
        return straight, straight._replace(shift=shift, mask=mask) if shifted else straight

    def new_head(self) -> nn.Module:
        """A head of `spec.num_classes` outputs, zero at the start; timm calls its linear layer head.fc."""
        return nn.Sequential(OrderedDict(fc=super().new_head()))

    @staticmethod
    def resized_state(state: dict[str, Tensor], old: SwinSpec, new: SwinSpec) -> dict[str, Tensor]:
        """The weights of a model of spec `old` for the grids, and so the windows, of `new`."""
        resized = dict(state)
        for name in (name for name in state if name.endswith("relative_position_bias_table")):
            stage = int(name.split(".")[1])
            before, after = ((2 * h - 1, 2 * w - 1) for h, w in (old.bias_window(stage), new.bias_window(stage)))
            if before != after:
                resized[name] = resample_grid(state[name][None], before, after, new.position_resample)[0]
        return resized

    @property
    def encoder_blocks(self) -> list[nn.Module]:
        """The blocks that `features` numbers, in order: those of all stages."""
        return [block for stage in cast("list[Stage]", self.layers) for block in stage.blocks]

    def layer_of(self, name: str) -> int:
        """The layer of the parameter `name`: 0 the embedding, i + 1 block i, counted through all stages, then the rest.

        The step down to a stage belongs to its first block.
        """
        if not name.startswith("layers."):
            return 0 if name.startswith("patch_embed.") else self.num_layers
        _, stage, part, block, *_ = name.split(".")
        return sum(self.spec.depths[: int(stage)]) + (int(block) if part == "blocks" else 0) + 1
