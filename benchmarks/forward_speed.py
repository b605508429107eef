"""Claim: the forward pass, tap in place, is at least 0.98 times as fast as timm's, eager, in float32 and bfloat16.

timm runs its fused attention. Same weights (written by `vitkit convert --to timm`), same inputs, same threads,
torch.inference_mode, turns taken; 224 pixels, also where a model was trained at another size.

    python benchmarks/forward_speed.py [--rounds 40] [--batch 8] [--models NAME ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from functools import partial
from pathlib import Path

import peers  # first: it lets timm import  # isort: skip
import timm
import torch

import vitkit
from vitkit.api.save import save
from vitkit.checkpoint.presets import PRESETS
from vitkit.model.build import build, model_spec

MODELS = (
    "vit_tiny_patch16_224",
    "vit_base_patch16_224",
    "vit_base_patch14_dinov2",
    "beit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "vit_base_r50_s16_224",
)
SIZE = (224, 224)


def pair(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A preset with random weights, here and in timm."""
    preset = PRESETS[name]
    ours = peers.randomise(build(model_spec(dataclasses.replace(preset.model.spec, image_size=SIZE))))
    preprocess = dataclasses.replace(preset.preprocess, size=SIZE, resize_size=SIZE)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "timm"
        save(ours, folder, preprocess=preprocess, layout="timm")
        theirs = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return ours.eval(), theirs.eval()


def forward(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits = model(pixels)
    if pixels.is_cuda:
        torch.cuda.synchronize()
    return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}, batch {options.batch}")
    print(f"vitkit {vitkit.__version__}, timm {timm.__version__}; {options.rounds} rounds, medians")
    for name in options.models:
        for dtype in (getattr(torch, each) for each in options.dtypes):
            ours, theirs = (model.to(options.device, dtype) for model in pair(name))
            pixels = torch.randn(options.batch, 3, *SIZE).to(options.device, dtype)
            a, b = forward(ours, pixels), forward(theirs, pixels)
            apart = float((a - b).norm() / b.norm())
            assert apart <= (1e-4 if dtype == torch.float32 else 0.1), f"they compute different things: {apart}"
            contestants = {"vitkit": partial(forward, ours, pixels), "timm": partial(forward, theirs, pixels)}
            rounds = options.rounds if "tiny" in name else max(options.rounds // 4, 8)
            seconds = peers.interleave(contestants, rounds=rounds)
            rates = {who: options.batch / statistics.median(times) for who, times in seconds.items()}
            middle, low, high = peers.ratio(seconds["timm"], seconds["vitkit"])
            speeds = f"vitkit {rates['vitkit']:7.1f}/s  timm {rates['timm']:7.1f}/s"
            label = str(dtype).removeprefix("torch.")
            print(f"{name:<30}{label:<10}{speeds}  ratio {middle:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
