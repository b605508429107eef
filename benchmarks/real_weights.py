"""Claim: a real ImageNet ViT-Ti/16 answers on real photos exactly as in timm; and what wrong statistics cost.

Needs the weights and 200 labelled photos, which aren't part of the project:

    python benchmarks/real_weights.py WEIGHTS.safetensors LABELS.csv
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import shutil
import tempfile
from pathlib import Path

import numpy as np

import peers  # noqa: F401  # isort: skip  # first: it lets timm import
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

import vitkit
from vitkit.image.decode import decode

PRESET = "vit_tiny_patch16_224"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("labels", type=Path)
    options = parser.parse_args()
    vit = vitkit.load(options.weights, preset=PRESET, device="cpu")
    with tempfile.TemporaryDirectory() as parent:
        vit.module.save_pretrained(Path(parent) / "native")
        renamed = Path(parent) / "vit_large_patch14_224.bin"
        shutil.copy(options.weights, renamed)
        sources = {
            "bare file": vit,
            "native folder": vitkit.load(Path(parent) / "native", device="cpu"),
            "renamed copy": vitkit.load(renamed, preset=PRESET, device="cpu"),
        }
        for name, predictor in sources.items():
            for batch_size in (1, 8):
                scores = vitkit.evaluate(predictor, str(options.labels), batch_size=batch_size)
                right = f"top-1 {scores.correct}/{scores.count}, top-5 {scores.top5:.1%}"
                print(f"{name:<14} batch {batch_size}: {right}")
    with open(options.labels, newline="", encoding="utf-8") as file:
        photos = [options.labels.parent / row["path"] for row in csv.DictReader(file)]
    ours = np.stack([answer.logits for answer in vit.answers(photos, batch_size=1)])
    theirs = timm.create_model(PRESET).eval()
    theirs.load_state_dict(load_file(options.weights))
    transform = timm.data.create_transform(
        input_size=(3, 224, 224), crop_pct=0.9, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    with torch.inference_mode():
        rows = [theirs(transform(Image.fromarray(decode(photo)))[None])[0].numpy() for photo in photos]
    largest = np.abs(ours - np.stack(rows)).max()
    print(f"float32 logits differ from those of timm's model and transform by at most {largest:.1e}")
    forced = dataclasses.replace(vit.card.preprocess, **IMAGENET)
    wrong = vitkit.evaluate(
        vitkit.load(options.weights, preset=PRESET, preprocess=forced, device="cpu"), str(options.labels)
    )
    print(f"with ImageNet's mean and std forced: top-1 {wrong.correct}/{wrong.count}")


if __name__ == "__main__":
    main()
