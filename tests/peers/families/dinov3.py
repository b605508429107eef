"""DINOv3, plain and gated, with biases and without: as Meta, transformers and timm write it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.families.dino import IN_MEMORY, Attention, Block, Mlp, answer, assert_timm_reads, back_transformers
from peers.families.row import Answer, Foreign, Row, bare_file, timm_answer, timm_back, timm_folder, transformers_folder
from small import randomise
from vitkit.model.spec import VitSpec

TIMM_SIZES: dict[str, Any] = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 4}
OTHER = ((80, 80), (32, 32), (96, 48))
NO_BIAS = {"query_bias": False, "value_bias": False}


def write_transformers(folder: Path, *, in_memory: bool = False, **config: Any) -> Foreign:
    """The names on disk, or, of a state_dict(), those in memory."""
    import transformers

    made = transformers.DINOv3ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=64,
        num_register_tokens=3,
        **config,
    )
    module = transformers_folder(folder, transformers.DINOv3ViTModel(made))
    if in_memory:
        bare_file(folder, module.state_dict(), "model.safetensors")
    return Foreign(module, answer)


def write_timm(folder: Path, *, name: str, **arguments: Any) -> Foreign:
    import timm

    return Foreign(timm_folder(folder, timm.create_model(name, **TIMM_SIZES, **arguments)), timm_answer)


class MaskedLinear(nn.Linear):
    """The keys' third of the bias is multiplied by 0."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 3 * width)
        mask = torch.ones(3, width)
        mask[1] = 0
        self.register_buffer("bias_mask", mask.flatten())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias * self.get_buffer("bias_mask"))


class GatedMlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w3(F.silu(self.w1(x)) * self.w2(x))
        return out


class Original(nn.Module):
    """Meta's dinov3 DinoVisionTransformer of the test's sizes, by its names."""

    def __init__(self, *, gated: bool, biased: bool) -> None:
        super().__init__()
        D, A = 48, 4
        self.cls_token = nn.Parameter(torch.zeros(1, 1, D))
        self.storage_tokens = nn.Parameter(torch.zeros(1, 4, D))
        self.mask_token = nn.Parameter(torch.zeros(1, D))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, D, 16, 16)
        self.rope_embed = nn.Module()
        self.rope_embed.register_buffer("periods", 100.0 ** (torch.arange(3) / 3))
        qkv: Callable[[int], nn.Module] = MaskedLinear if biased else lambda width: nn.Linear(width, 3 * width, False)
        mlp = GatedMlp if gated else Mlp
        self.blocks = nn.ModuleList(
            Block(D, Attention(D, A, qkv(D)), mlp(D, 96), scaled=True, eps=1e-5) for _ in range(2)
        )
        self.norm = nn.LayerNorm(D, eps=1e-5)
        if not biased:  # the 7B model
            self.local_cls_norm = nn.LayerNorm(D)

    def angles(self, h: int, w: int) -> Tensor:
        """[h*w, 6]: the row's at three periods, then the column's."""
        rows, columns = (2 * (torch.arange(side) + 0.5) / side - 1 for side in (h, w))
        centres = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
        periods = self.rope_embed.get_buffer("periods").float()
        return (2 * math.pi * centres[:, :, None] / periods).flatten(1)

    def forward(self, pixels: Tensor) -> Answer:
        patches = self.patch_embed.proj(pixels)  # type: ignore[operator]
        angles = self.angles(*patches.shape[2:])
        factors = torch.complex(angles.cos(), angles.sin())

        def turn(heads: Tensor) -> Tensor:
            real, imaginary = heads[:, :, 5:].chunk(2, dim=-1)
            turned = torch.complex(real, imaginary) * factors
            return torch.cat([heads[:, :, :5], torch.cat([turned.real, turned.imag], dim=-1)], dim=2)

        prefix = torch.cat([self.cls_token, self.storage_tokens], dim=1).expand(len(pixels), -1, -1)
        x = torch.cat([prefix, patches.flatten(2).mT], dim=1)
        for block in self.blocks:
            x = block(x, turn)
        x = self.norm(x)
        return {"tokens": x, "embedding": x[:, 0]}


def write_meta(folder: Path, *, gated: bool, biased: bool) -> Foreign:
    """The published file; timm reads it as we do. The preset has no biases: whether there are any, the file says."""
    import timm
    from timm.models.eva import checkpoint_filter_fn

    module = randomise(Original(gated=gated, biased=biased))
    name = f"vit_small{'_plus' if gated else ''}_patch16_dinov3{'_qkvb' if biased else ''}"
    theirs = timm.create_model(name, global_pool="token", mlp_ratio=2.0, **TIMM_SIZES)
    state = module.state_dict()
    assert_timm_reads(module, theirs, checkpoint_filter_fn(dict(state), theirs), torch.randn(2, 3, 64, 64))
    spec = VitSpec(
        image_size=64,
        num_classes=0,
        embed_dim=48,
        depth=2,
        num_heads=4,
        mlp_dim=96,
        num_registers=4,
        position="rope",
        qkv_bias="none",
        layer_scale=1e-5,
        gated_mlp=gated,
        activation="silu" if gated else "gelu",
        norm_eps=1e-5,
        pool="mean",
    )
    file = bare_file(folder, state)
    return Foreign(module, lambda module, pixels: module(pixels), file, spec)


MASK = r"(.*\.)?mask_token"
back_model = partial(back_transformers, kind="DINOv3ViTModel")


def transformers_row(family: str, layout: str = "transformers", **config: Any) -> Row:
    """There and back."""
    write = partial(write_transformers, **config)
    return Row(family, layout, write, back_model, "hf", sizes=OTHER, unseen=(MASK,))


def timm_row(family: str, name: str, **arguments: Any) -> Row:
    """There and back."""
    return Row(family, "timm", partial(write_timm, name=name, **arguments), timm_back, "timm", sizes=OTHER)


def meta_row(family: str, *, gated: bool, biased: bool) -> Row:
    """To transformers, which pools as Meta does."""
    unseen = (MASK, r".*bias_mask", r"local_cls_norm\..*")
    write = partial(write_meta, gated=gated, biased=biased)
    return Row(family, "Meta", write, back_model, "hf", sizes=OTHER, unseen=unseen, gradients=True)


ROWS = [
    transformers_row("DINOv3"),
    transformers_row("DINOv3", IN_MEMORY, in_memory=True),
    transformers_row("DINOv3, gated", use_gated_mlp=True),
    transformers_row("DINOv3, gated, unbiased", use_gated_mlp=True, hidden_act="silu", **NO_BIAS),
    timm_row("DINOv3", "vit_small_patch16_dinov3_qkvb", num_classes=11),
    timm_row("DINOv3, reading the class token", "vit_small_patch16_dinov3", global_pool="token"),
    timm_row("DINOv3, gated", "vit_small_plus_patch16_dinov3", num_classes=11, use_fc_norm=True),
    meta_row("DINOv3", gated=False, biased=True),
    meta_row("DINOv3, gated", gated=True, biased=True),
    meta_row("DINOv3, gated, unbiased", gated=True, biased=False),
]
