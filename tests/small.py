"""Small models and pictures for the tests: every parameter random, so that nothing is right by being zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from vitkit import Preprocess, VisionTransformer

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Real pictures and weights, which are not part of the project."""

SMALL: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "num_classes": 7,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "mlp_dim": 64,
}
PREPROCESS = Preprocess(
    size=32,
    resize="shortest",
    resize_size=36,
    crop="center_round",
    interpolation="bicubic",
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
)
NAMES = tuple(f"class {letter}" for letter in "abcdefg")


def randomise(module: nn.Module, *, std: float = 0.2, seed: int = 0) -> nn.Module:
    """Draws every parameter from N(0, std) and puts the module in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module.eval()


def small_model(**changes: Any) -> VisionTransformer:
    """A random VisionTransformer of the sizes in SMALL."""
    model = VisionTransformer(**{**SMALL, **changes})
    randomise(model)
    return model


def small_folder(folder: Path, **changes: Any) -> Path:
    """A native checkpoint folder of a random small model with 7 named classes."""
    small_model(**changes).save_pretrained(folder, preprocess=PREPROCESS, class_names=NAMES)
    return folder


def picture(height: int = 40, width: int = 50, *, seed: int = 0) -> Image.Image:
    """A smooth random RGB picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def picture_file(path: Path, height: int = 40, width: int = 50, *, seed: int = 0) -> Path:
    """That picture as a file, in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(height, width, seed=seed).save(path)
    return path


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest value of the reference `b`."""
    return float((a.detach() - b.detach()).abs().max() / b.detach().abs().max())
