"""Claim: the forward pass, tap in place, is at least 0.98 times as fast as timm's, eager, in float32 and bfloat16.

timm runs its fused attention. Same weights' shapes, same inputs, same threads, torch.inference_mode, turns taken.

    python benchmarks/forward_speed.py [--rounds 40] [--batch 8]
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import peers  # first: it lets timm import  # isort: skip
import timm
import torch

import vitkit
from vitkit.checkpoint.presets import PRESETS
from vitkit.model.build import build

MODELS = ("vit_tiny_patch16_224", "vit_base_patch16_224")


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
            ours = peers.randomise(build(PRESETS[name].model)).to(options.device, dtype)
            theirs = timm.create_model(name).eval().to(options.device, dtype)
            theirs.load_state_dict(ours.state_dict())
            pixels = torch.randn(options.batch, 3, 224, 224).to(options.device, dtype)
            a, b = forward(ours, pixels), forward(theirs, pixels)
            assert (a - b).abs().max() <= 0.02 * b.abs().max(), "the contestants compute different things"
            contestants = {"vitkit": partial(forward, ours, pixels), "timm": partial(forward, theirs, pixels)}
            rounds = options.rounds if "tiny" in name else max(options.rounds // 4, 8)
            seconds = peers.interleave(contestants, rounds=rounds)
            rates = {who: options.batch / statistics.median(times) for who, times in seconds.items()}
            middle, low, high = peers.ratio(seconds["timm"], seconds["vitkit"])
            speeds = f"vitkit {rates['vitkit']:7.1f}/s  timm {rates['timm']:7.1f}/s"
            label = str(dtype).removeprefix("torch.")
            print(f"{name:<24}{label:<10}{speeds}  ratio {middle:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
