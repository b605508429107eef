"""DINO, DINOv2 and DINOv2 with registers, plain and gated: as Meta, transformers and timm write them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.families.row import (
    Answer,
    Foreign,
    Row,
    bare_file,
    timm_answer,
    timm_back,
    timm_folder,
    transformers_folder,
)
from small import randomise, relative
from vitkit.model.spec import VitSpec

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56}
TIMM_SIZES: dict[str, Any] = {"img_size": 56, "embed_dim": 48, "depth": 2, "num_heads": 4}
OTHER = ((70, 70), (28, 28), (84, 56))
MASK = r".*mask_token"
KEY_BIAS = r".*(key|k_proj)\.bias"


def answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' classifiers and models."""
    if not hasattr(module, "classifier"):
        out = module(pixels)
        return {"tokens": out.last_hidden_state, "embedding": out.pooler_output}
    return {"tokens": module.base_model(pixels).last_hidden_state, "logits": module(pixels).logits}


def write_transformers(folder: Path, *, kind: str, in_memory: bool = False, **config: Any) -> Foreign:
    """The names on disk, or, of a state_dict(), those in memory."""
    import transformers

    made = getattr(transformers, f"{kind.split('For')[0].removesuffix('Model')}Config")(
        patch_size=14, num_labels=11, **SIZES, **config
    )
    module = transformers_folder(folder, getattr(transformers, kind)(made))
    if in_memory:
        bare_file(folder, module.state_dict(), "model.safetensors")
    return Foreign(module, answer)


def back_transformers(folder: Path, *, kind: str) -> Foreign:
    import transformers

    return Foreign(getattr(transformers, kind).from_pretrained(folder).eval(), answer)


def vit_answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' ViTModel, whose pooler DINO's files don't have."""
    return {"tokens": module(pixels, interpolate_pos_encoding=True).last_hidden_state}


def write_vit(folder: Path) -> Foreign:
    import transformers

    made = transformers.ViTConfig(patch_size=14, intermediate_size=96, **SIZES)
    return Foreign(transformers_folder(folder, transformers.ViTModel(made, add_pooling_layer=False)), vit_answer)


def back_vit(folder: Path) -> Foreign:
    import transformers

    return Foreign(transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False).eval(), vit_answer)


def write_timm(folder: Path, *, name: str, **arguments: Any) -> Foreign:
    import timm

    module = timm.create_model(name, dynamic_img_size=True, **TIMM_SIZES, **arguments)
    return Foreign(timm_folder(folder, module), timm_answer)


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, qkv: nn.Module) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, qkv, nn.Linear(width, width)

    def forward(self, x: Tensor, turn: Callable[[Tensor], Tensor]) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        weights = (turn(q) @ turn(k).mT / q.shape[-1] ** 0.5).softmax(-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class PackedMlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


class Block(nn.Module):
    def __init__(self, width: int, attention: nn.Module, mlp: nn.Module, *, scaled: bool, eps: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=eps) for _ in range(2))
        self.attn, self.mlp = attention, mlp
        self.ls1, self.ls2 = (Scale(width) if scaled else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, turn: Callable[[Tensor], Tensor]) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), turn))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class Original(nn.Module):
    """Meta's DinoVisionTransformer of the test's sizes (dino without `scaled`, else dinov2), by its names."""

    def __init__(self, *, scaled: bool, gated: bool, registers: int) -> None:
        super().__init__()
        D, A = 48, 4
        self.cls_token = nn.Parameter(torch.zeros(1, 1, D))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + 16, D))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, D)) if registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, D)) if scaled else None
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, D, 14, 14)
        mlp = PackedMlp if gated else Mlp
        self.blocks = nn.ModuleList(
            Block(D, Attention(D, A, nn.Linear(D, 3 * D)), mlp(D, 96), scaled=scaled, eps=1e-6) for _ in range(3)
        )
        self.norm = nn.LayerNorm(D, eps=1e-6)

    def positions(self, h: int, w: int) -> Tensor:
        """Registers came with antialiasing and an exact size, before them the scale had 0.1 added to it."""
        own, table = self.pos_embed[:, :1], self.pos_embed[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
        if self.register_tokens is not None:
            table = F.interpolate(table, size=(h, w), mode="bicubic", antialias=True)
        elif (h, w) != (4, 4):
            table = F.interpolate(table, scale_factor=((h + 0.1) / 4, (w + 0.1) / 4), mode="bicubic")
        return torch.cat([own, table.flatten(2).mT], dim=1)

    def forward(self, pixels: Tensor) -> Answer:
        patches = self.patch_embed.proj(pixels)  # type: ignore[operator]
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches.flatten(2).mT], dim=1)
        x = x + self.positions(*patches.shape[2:])
        if self.register_tokens is not None:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(pixels), -1, -1), x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x, lambda heads: heads)
        x = self.norm(x)
        return {"tokens": x, "embedding": x[:, 0]}


def assert_timm_reads(module: nn.Module, theirs: Any, filtered: dict[str, Tensor], pixels: Tensor) -> None:
    """That timm's own conversion of the original's file gives the same answers."""
    theirs.load_state_dict(filtered, strict=True)
    with torch.no_grad():
        found, expected = timm_answer(theirs.eval(), pixels), module(pixels)
    assert relative(found["tokens"], expected["tokens"]) < 1e-5
    assert relative(found["logits"], expected["embedding"]) < 1e-5


def write_meta(folder: Path, *, name: str, trained: bool = False, **kind: Any) -> Foreign:
    """The published file, or the state that the training code saves; timm reads the published one as we do."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    kind = {"scaled": True, "gated": False, "registers": 0, **kind}
    module = randomise(Original(**kind))
    sizes = {**TIMM_SIZES, "depth": 3, "mlp_ratio": 4.0 if kind["gated"] else 2.0}
    theirs = timm.create_model(name, num_classes=0, patch_size=14, **sizes)
    state = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    assert_timm_reads(module, theirs, checkpoint_filter_fn(dict(state), theirs), torch.randn(2, 3, 56, 56))
    folder.mkdir()
    torch.save(training_state(state, scaled=kind["scaled"]) if trained else state, folder / "meta.pth")
    spec = VitSpec(
        image_size=56,
        patch_size=14,
        num_classes=0,
        embed_dim=48,
        depth=3,
        num_heads=4,
        mlp_dim=96,
        num_registers=kind["registers"],
        prefix_positions=not kind["registers"],
        position_resample="bicubic_antialias" if kind["scaled"] else "bicubic_offset",
        layer_scale=1e-5 if kind["scaled"] else 0.0,
        gated_mlp=kind["gated"],
        activation="silu" if kind["gated"] else "gelu",
    )
    return Foreign(module, lambda module, pixels: module(pixels), "meta.pth", spec)


def training_state(state: dict[str, Tensor], *, scaled: bool) -> dict[str, Any]:
    """DINO's, of which the teacher is used, or DINOv2's, whose blocks are in two chunks."""
    head = {"mlp.0.weight": torch.randn(3, 48), "last_layer.weight_g": torch.ones(5, 1)}
    if scaled:
        chunked = {
            f"blocks.{int(key.split('.')[1]) // 2}.{key[7:]}" if key.startswith("blocks.") else key: tensor
            for key, tensor in state.items()
        }
        heads = {f"{name}_head.{key}": tensor for name in ("dino", "ibot") for key, tensor in head.items()}
        return {"teacher": {f"backbone.{key}": tensor for key, tensor in chunked.items()} | heads}
    teacher = {f"module.backbone.{key}": tensor for key, tensor in state.items()}
    teacher |= {f"module.head.{key}": tensor for key, tensor in head.items()}
    student = {key: torch.randn_like(tensor) for key, tensor in teacher.items()}
    return {"student": student, "teacher": teacher, "epoch": 3, "args": argparse.Namespace(arch="vit_small")}


def transformers_row(family: str, kind: str, layout: str = "transformers", *, gradients: bool = False, **c: Any) -> Row:
    """There and back."""
    write, back = partial(write_transformers, kind=kind, **c), partial(back_transformers, kind=kind)
    return Row(family, layout, write, back, "hf", sizes=OTHER, unseen=(KEY_BIAS, MASK), gradients=gradients)


def meta_row(family: str, layout: str = "Meta", **kind: Any) -> Row:
    """To timm, since Meta's code is no package."""
    unseen = (MASK, r"(head|dino_head|ibot_head)\..*")
    return Row(family, layout, partial(write_meta, **kind), timm_back, "timm", sizes=OTHER, unseen=unseen)


def timm_row(family: str, name: str, *, gradients: bool = False, **arguments: Any) -> Row:
    """There and back."""
    write = partial(write_timm, name=name, **arguments)
    return Row(family, "timm", write, timm_back, "timm", sizes=OTHER, gradients=gradients)


IN_MEMORY = "transformers 5 in memory"
DINO, DINOV2 = "vit_small_patch16_224.dino", "vit_small_patch14_dinov2"
REGISTERS, GIANT = "vit_small_patch14_reg4_dinov2", "vit_giant_patch14_dinov2"

ROWS = [
    Row("DINO", "transformers", write_vit, back_vit, "hf", sizes=OTHER, unseen=(KEY_BIAS, MASK)),
    timm_row("DINO", DINO, patch_size=14),
    meta_row("DINO", name=DINO, scaled=False),
    meta_row("DINO", "Meta, in training", name=DINO, scaled=False, trained=True),
    transformers_row("DINOv2", "Dinov2ForImageClassification", gradients=True),
    transformers_row("DINOv2", "Dinov2ForImageClassification", IN_MEMORY, in_memory=True),
    transformers_row("DINOv2, without a head", "Dinov2Model", use_mask_token=False),
    transformers_row("DINOv2, gated", "Dinov2Model", use_swiglu_ffn=True, qkv_bias=False),
    transformers_row("DINOv2, gated", "Dinov2Model", IN_MEMORY, use_swiglu_ffn=True, in_memory=True),
    timm_row("DINOv2", DINOV2, num_classes=11),
    timm_row("DINOv2, gated", GIANT),
    meta_row("DINOv2", name=DINOV2),
    meta_row("DINOv2", "Meta, in training", name=DINOV2, trained=True),
    meta_row("DINOv2, gated", name=GIANT, gated=True),
    transformers_row("DINOv2 with registers", "Dinov2WithRegistersForImageClassification"),
    transformers_row("DINOv2 with registers", "Dinov2WithRegistersModel", IN_MEMORY, in_memory=True),
    transformers_row("DINOv2 with registers, gated", "Dinov2WithRegistersModel", use_swiglu_ffn=True),
    timm_row("DINOv2 with registers", REGISTERS, num_classes=11, gradients=True),
    timm_row("DINOv2 with registers, gated", "vit_giant_patch14_reg4_dinov2"),
    meta_row("DINOv2 with registers", name=REGISTERS, registers=4),
    meta_row("DINOv2 with registers, gated", name="vit_giant_patch14_reg4_dinov2", registers=4, gated=True),
]
