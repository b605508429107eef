"""Hybrids of a ResNet and a ViT: as timm saves them, and in Google's .npz arrays, which timm reads."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from peers.families.google import KEY_BIAS, NOT_WRITTEN, google_arrays
from peers.families.row import Foreign, Row, timm_answer, timm_back
from small import randomise
from vitkit.model.spec import VitSpec

R50, ROOT = "vit_base_r50_s16_224", "vit_tiny_r_s16_p8_224"
SIZES: dict[str, Any] = {"embed_dim": 40, "depth": 2, "num_heads": 5, "num_classes": 11}
SPEC = VitSpec(image_size=64, embed_dim=40, depth=2, num_heads=5, mlp_dim=160, num_classes=11)


def source(architecture: str, **options: Any) -> Any:
    """A random model of timm's, none of whose ReLUs is closed everywhere: what feeds one shifts it up."""
    import timm

    module = randomise(timm.create_model(architecture, **SIZES, **options))
    for part in module.modules():
        if isinstance(part, nn.GroupNorm):
            part.bias.data.abs_().add_(0.5)
    return module


def write_timm(architecture: str, folder: Path, *, img_size: int) -> Foreign:
    from timm.models import save_for_hf

    module = source(architecture, dynamic_img_size=True, img_size=img_size)
    save_for_hf(module, folder, safe_serialization=True)
    return Foreign(module, timm_answer)


def stem_arrays(backbone: Any, *, flat_norms: bool) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of timm's ResNetV2 under the names of vit_jax/models_resnet.py, where norms were once [1, 1, 1, C]."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}

    def normed(conv: nn.Conv2d, norm: nn.GroupNorm, their_conv: str, their_norm: str) -> None:
        arrays[f"{their_conv}/kernel"] = np.einsum("oihw->hwio", conv.weight.detach().numpy())
        for part, theirs in (("weight", "scale"), ("bias", "bias")):
            values = getattr(norm, part).detach().numpy()
            arrays[f"{their_norm}/{theirs}"] = values if flat_norms else values[None, None, None]

    root = getattr(backbone, "stem", backbone)
    normed(root.conv, root.norm, "conv_root", "gn_root")
    for stage, blocks in enumerate(getattr(backbone, "stages", ()), start=1):
        for unit, block in enumerate(blocks.blocks, start=1):
            name = f"block{stage}/unit{unit}"
            for n in (1, 2, 3):
                normed(getattr(block, f"conv{n}"), getattr(block, f"norm{n}"), f"{name}/conv{n}", f"{name}/gn{n}")
            if block.downsample is not None:
                normed(block.downsample.conv, block.downsample.norm, f"{name}/conv_proj", f"{name}/gn_proj")
    return arrays


def write_arrays(architecture: str, stem_depths: tuple[int, ...], patch_size: int, folder: Path) -> Foreign:
    """The file of a random model, which a new one of timm reads by its own reader."""
    import timm
    from timm.layers import HybridEmbed
    from timm.models.vision_transformer_hybrid import _resnetv2

    def options() -> dict[str, Any]:
        return {"img_size": 64, "embed_layer": partial(HybridEmbed, backbone=_resnetv2(stem_depths))}

    model = source(architecture, **options())
    folder.mkdir(parents=True)
    stem = stem_arrays(model.patch_embed.backbone, flat_norms=not stem_depths)
    np.savez(folder / "weights.npz", **google_arrays(model), **stem)  # type: ignore[arg-type]
    module = timm.create_model(architecture, **SIZES, **options()).eval()
    module.load_pretrained(str(folder / "weights.npz"))
    spec = dataclasses.replace(SPEC, patch_size=patch_size, stem_depths=stem_depths)
    return Foreign(module, timm_answer, "weights.npz", spec)


def arrays_row(family: str, architecture: str, stem_depths: tuple[int, ...], patch_size: int) -> Row:
    write = partial(write_arrays, architecture, stem_depths, patch_size)
    return Row(family, "vit_jax", write, why=NOT_WRITTEN, unseen=KEY_BIAS)


ROWS = [
    Row(
        "R50+ViT",
        "timm",
        partial(write_timm, R50, img_size=32),
        timm_back,
        "timm",
        sizes=((64, 64), (16, 16), (48, 32)),
        gradients=True,
    ),
    Row(
        "R+ViT",
        "timm",
        partial(write_timm, ROOT, img_size=64),
        timm_back,
        "timm",
        sizes=((96, 96), (32, 32), (96, 64)),
    ),
    arrays_row("R50+ViT, a shorter R50", R50, (1, 2, 1), 16),
    arrays_row("R+ViT", ROOT, (), 32),
]
