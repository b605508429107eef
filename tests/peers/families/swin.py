"""Swin and Swin v2: grids that windows divide, don't divide, or are larger than."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.families.row import Answer, Foreign, Row, bare_file, timm_folder, transformers_folder
from small import randomise, relative
from vitkit.model.swin_spec import SwinSpec

# Three grids of 12, 6 and 3 patches: divided by windows of 4, not divided, smaller; of 3: divided, divided, equal.
DEPTHS, HEADS, WIDTH, SIDE = (2, 2, 2), (2, 4, 8), 16, 48
SIZES: Mapping[str, Any] = {
    "image_size": SIDE,
    "embed_dim": WIDTH,
    "depths": list(DEPTHS),
    "num_heads": list(HEADS),
    "mlp_ratio": 2.0,
}
TIMM_SIZES: Mapping[str, Any] = {
    "img_size": SIDE,
    "embed_dim": WIDTH,
    "depths": DEPTHS,
    "num_heads": HEADS,
    "mlp_ratio": 2.0,
    "num_classes": 11,
    "dynamic_img_size": True,
}
ARCHITECTURES = {1: "swin_tiny_patch4_window7_224", 2: "swinv2_tiny_window8_256"}
Version = Literal[1, 2]


def lively(module: Any) -> Any:
    """Makes tokens differ enough for attention to matter, and lets no hidden unit sleep."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.mul_(5)
            elif name.endswith("mlp.0.bias"):  # of the network that gives biases
                parameter.abs_().add_(0.5)
            elif name.endswith(("fc1.weight", "intermediate.dense.weight")):
                parameter.mul_(0.3)
    return module


def fresh(module: Any) -> None:
    """Undoes what a call left: transformers' Swin sets windows and shifts for good where a grid isn't larger."""
    side = module.config.window_size
    for stage in module.base_model.encoder.layers:
        for i, block in enumerate(stage.blocks):
            block.window_size, block.shift_size = side, side // 2 if i % 2 else 0


def answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' classes, with a head or without."""
    if module.config.model_type == "swin":
        fresh(module)
    out = module.base_model(pixels)
    logits = {"logits": module.classifier(out.pooler_output)} if hasattr(module, "classifier") else {}
    return {"tokens": out.last_hidden_state, "embedding": out.pooler_output, **logits}


def write_transformers(folder: Path, *, kind: str, in_memory: bool = False, **config: Any) -> Foreign:
    """The names on disk, or, of a state_dict(), those in memory."""
    import transformers

    made = getattr(transformers, f"{kind.partition('For')[0].removesuffix('Model')}Config")
    module = lively(transformers_folder(folder, getattr(transformers, kind)(made(num_labels=11, **SIZES, **config))))
    module.save_pretrained(folder)
    if in_memory:
        bare_file(folder, module.state_dict(), "model.safetensors")
    return Foreign(module, answer)


def back_transformers(folder: Path, *, kind: str) -> Foreign:
    import transformers

    return Foreign(getattr(transformers, kind).from_pretrained(folder).eval(), answer)


def timm_answer(module: Any, pixels: Tensor) -> Answer:
    """Tokens and logits of timm's classes, whose tokens are [B, h, w, D]."""
    tokens = module.forward_features(pixels)
    return {"tokens": tokens.flatten(1, 2), "logits": module.forward_head(tokens)}


def write_timm(folder: Path, *, version: Version, indices: bool = False, **arguments: Any) -> Foreign:
    """With `indices`, also the buffers that timm has made non-persistent."""
    import timm
    from timm.models import save_for_hf

    given = {**TIMM_SIZES, **arguments}
    module = lively(timm_folder(folder, timm.create_model(ARCHITECTURES[version], **given)))
    save_for_hf(module, folder, safe_serialization=True)
    if indices:
        bare_file(folder, {**module.state_dict(), **dict(module.named_buffers())}, "model.safetensors")
    return Foreign(module, timm_answer)


def back_timm(folder: Path) -> Foreign:
    import timm

    return Foreign(timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), timm_answer)


def native_back(folder: Path) -> Foreign:
    """timm's reading of our own folder, which is the one for other sizes as well."""
    import timm

    return Foreign(timm.create_model(f"local-dir:{folder}", pretrained=True, dynamic_img_size=True).eval(), timm_answer)


class Attention(nn.Module):
    """Of every pair of a grid's tokens, those apart masked, under the names of microsoft/Swin-Transformer."""

    def __init__(self, version: Version, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=version == 1), nn.Linear(width, width)
        places = torch.arange(1 - side, side)
        if version == 1:
            self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        else:
            self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
            self.logit_scale = nn.Parameter(torch.zeros(heads, 1, 1))
            self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))
            near = 8 * places / (side - 1)
            near = near.sign() * (1 + near.abs()).log2() / 3
            table = torch.stack(torch.meshgrid(near, near, indexing="ij"), dim=-1)
            self.register_buffer("relative_coords_table", table[None])
        y, x = torch.arange(side**2) // side, torch.arange(side**2) % side
        apart = (y[:, None] - y + side - 1) * (2 * side - 1) + x[:, None] - x + side - 1
        self.register_buffer("relative_position_index", apart)

    def forward(self, x: Tensor, down: Tensor, right: Tensor, together: Tensor) -> Tensor:
        """Tokens [B, n, D]; for every pair how far it is apart, and whether it shares a window."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.project(x))
        if hasattr(self, "logit_scale"):
            scale = self.logit_scale.clamp(max=math.log(100)).exp()
            logits = F.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1) * scale
            table = 16 * self.cpb_mlp(self.get_buffer("relative_coords_table").flatten(0, 2)).sigmoid()
        else:
            logits = q @ k.mT / q.shape[-1] ** 0.5
            table = self.relative_position_bias_table
        row = (down + self.side - 1) * (2 * self.side - 1) + right + self.side - 1
        logits = logits + table[row.where(together, 0)].permute(2, 0, 1)
        mixed = logits.masked_fill(~together, -torch.inf).softmax(-1) @ v
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return (q + self.q_bias, k, v + self.v_bias) if hasattr(self, "q_bias") else (q, k, v)


class Block(nn.Module):
    def __init__(self, version: Version, width: int, heads: int, grid: int, window: int, *, odd: bool) -> None:
        super().__init__()
        self.first, self.grid, self.window = version == 1, grid, min(window, grid)
        self.shift = window // 2 if odd and grid > window else 0
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(version, width, heads, self.window)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        if self.shift:
            side = self.window**2
            self.register_buffer("attn_mask", torch.zeros((grid // window) ** 2, side, side))

    def attended(self, x: Tensor) -> Tensor:
        """The places of tokens are counted from the shift on; what it wraps round is in no window with the rest."""
        place = torch.arange(self.grid)
        shifted = (place - self.shift) % self.grid
        window = 2 * (shifted // self.window) + (place < self.shift)
        y, x_ = place.repeat_interleave(self.grid), place.repeat(self.grid)
        together = (window[y][:, None] == window[y]) & (window[x_][:, None] == window[x_])
        out: Tensor = self.attn(x, y[:, None] - y, x_[:, None] - x_, together)
        return out

    def thought(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp.fc2(F.gelu(self.mlp.fc1(x)))  # type: ignore[operator]
        return out

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            x = x + self.attended(self.norm1(x))
            return x + self.thought(self.norm2(x))
        x = x + self.norm1(self.attended(x))
        return x + self.norm2(self.thought(x))


class Merging(nn.Module):
    def __init__(self, version: Version, width: int, grid: int) -> None:
        super().__init__()
        self.first, self.grid = version == 1, grid
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width if version == 1 else 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (self.grid, self.grid))
        x = torch.cat([x[:, y::2, x_::2] for x_ in (0, 1) for y in (0, 1)], dim=-1).flatten(1, 2)
        out: Tensor = self.reduction(self.norm(x)) if self.first else self.norm(self.reduction(x))
        return out


class Stage(nn.Module):
    def __init__(self, version: Version, stage: int, window: int) -> None:
        super().__init__()
        width, grid = WIDTH * 2**stage, SIDE // 4 // 2**stage
        self.blocks = nn.Sequential(
            *(Block(version, width, HEADS[stage], grid, window, odd=bool(i % 2)) for i in range(DEPTHS[stage]))
        )
        self.downsample = Merging(version, width, grid) if stage < len(DEPTHS) - 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.downsample(self.blocks(x))
        return out


class Original(nn.Module):
    """Microsoft's Swin of the test's sizes."""

    def __init__(self, version: Version, window: int) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj, self.patch_embed.norm = nn.Conv2d(3, WIDTH, 4, 4), nn.LayerNorm(WIDTH)
        self.layers = nn.Sequential(*(Stage(version, stage, window) for stage in range(len(DEPTHS))))
        last = WIDTH * 2 ** (len(DEPTHS) - 1)
        self.norm, self.head = nn.LayerNorm(last), nn.Linear(last, 11)

    def forward(self, pixels: Tensor) -> Answer:
        x = self.patch_embed.proj(pixels).flatten(2).mT  # type: ignore[operator]
        x = self.norm(self.layers(self.patch_embed.norm(x)))  # type: ignore[operator]
        return {"tokens": x, "logits": self.head(x.mean(1))}


def write_original(folder: Path, *, version: Version, window: int) -> Foreign:
    """As the authors' training code saves it; timm reads the same file to the same answers."""
    import timm
    from timm.models import swin_transformer, swin_transformer_v2

    module = lively(randomise(Original(version, window), seed=1))
    folder.mkdir()
    torch.save({"model": module.state_dict(), "epoch": 300}, folder / "swin.pth")
    theirs = timm.create_model(ARCHITECTURES[version], window_size=window, **TIMM_SIZES).eval()
    convert = (swin_transformer if version == 1 else swin_transformer_v2).checkpoint_filter_fn
    theirs.load_state_dict(convert(torch.load(folder / "swin.pth"), theirs))
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected, found = module(pixels), timm_answer(theirs, pixels)
        assert all(relative(found[name], expected[name]) < 1e-5 for name in expected)
    spec = SwinSpec(
        version=version,
        image_size=SIDE,
        num_classes=11,
        embed_dim=WIDTH,
        depths=DEPTHS,
        num_heads=HEADS,
        window_size=window,
        mlp_ratio=2.0,
    )
    return Foreign(module, lambda module, pixels: module(pixels), "swin.pth", spec)


COMPUTED = (r".*relative_position_index", r".*relative_coords_table", r".*attn_mask")
KEY_BIAS = (r".*\.self\.key\.bias", r".*\.k_proj\.bias")
SMALLER, LARGER = ((16, 24), (24, 24)), ((64, 64), (48, 80), (36, 44))

SWIN, SWIN2 = "SwinForImageClassification", "Swinv2ForImageClassification"
ROWS = [
    Row(
        "Swin",
        "transformers",
        partial(write_transformers, kind=SWIN, window_size=3),
        partial(back_transformers, kind=SWIN),
        "hf",
        sizes=LARGER,
        unseen=KEY_BIAS,
        gradients=True,
    ),
    Row(
        "Swin",
        "transformers 5 in memory",
        partial(write_transformers, kind=SWIN, window_size=3, in_memory=True),
        partial(back_transformers, kind=SWIN),
        "hf",
        sizes=LARGER,
        unseen=KEY_BIAS,
    ),
    Row(
        "Swin, without a head",
        "transformers",
        partial(write_transformers, kind="SwinModel", window_size=3, qkv_bias=False, layer_norm_eps=1e-3),
        partial(back_transformers, kind="SwinModel"),
        "hf",
        sizes=LARGER,
    ),
    Row(
        "Swin, without a head",
        "transformers 5 in memory",
        partial(write_transformers, kind="SwinModel", window_size=3, in_memory=True),
        partial(back_transformers, kind="SwinModel"),
        "hf",
        unseen=KEY_BIAS,
    ),
    Row(
        "Swin",
        "timm",
        partial(write_timm, version=1, window_size=4),
        native_back,
        "native",
        sizes=(*SMALLER, *LARGER),
    ),
    Row(
        "Swin",
        "timm, with indices",
        partial(write_timm, version=1, window_size=3, indices=True, dynamic_img_size=False),
        back_timm,
        "timm",
        unseen=COMPUTED,
    ),
    Row(
        "Swin with other windows per stage, always shifted",
        "timm",
        partial(write_timm, version=1, window_size=[[4, 4], [3, 3], [3, 3]], always_partition=True),
        back_timm,
        "timm",
        sizes=(*SMALLER, *LARGER),
        unseen=(r"layers\.2\.blocks\.1\.attn\.relative_position_bias_table",),  # the shift parts the outermost places
    ),
    Row(
        "Swin",
        "microsoft/Swin-Transformer",
        partial(write_original, version=1, window=3),
        partial(back_transformers, kind=SWIN),
        "hf",
        unseen=COMPUTED,
    ),
    Row(
        "Swin v2",
        "transformers",
        partial(write_transformers, kind=SWIN2, window_size=4, pretrained_window_sizes=[3, 3, 2]),
        partial(back_transformers, kind=SWIN2),
        "hf",
        sizes=(*SMALLER, *LARGER),
        gradients=True,
    ),
    Row(
        "Swin v2, without a head",
        "transformers",
        partial(write_transformers, kind="Swinv2Model", window_size=3, qkv_bias=False),
        partial(back_transformers, kind="Swinv2Model"),
        "hf",
        sizes=(*SMALLER, *LARGER),
    ),
    Row(
        "Swin v2",
        "timm",
        partial(write_timm, version=2, window_size=4, pretrained_window_sizes=(3, 3, 2)),
        native_back,
        "native",
        sizes=(*SMALLER, *LARGER),
    ),
    Row(
        "Swin v2",
        "microsoft/Swin-Transformer",
        partial(write_original, version=2, window=6),
        back_timm,
        "timm",
        unseen=COMPUTED,
    ),
]
