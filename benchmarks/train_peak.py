"""Claim: on a GPU, ViT-B/16 at 224 pixels in bfloat16 trains at 30 % of the matrix peak or more, loader included.

The peak is what the best of a few square matrix products reaches in the same process, before and after the training;
the larger one counts. A training step of a picture is 6 operations per multiply-accumulate of the forward pass: one
multiplication and one addition forward, twice that on the way back. The training is `vitkit.train` as a user calls it,
from JPEG files (500x375, made of noise) to optimiser steps; its rate is that of all steps after the first third, of
which checkpoints are no part. Sets that fit are decoded once into memory; --streamed keeps them on disk, decoded by
--workers.

    python benchmarks/train_peak.py [--compile] [--batch-size 256] [--pictures 8192] [--streamed --workers 12]
    python benchmarks/train_peak.py --preset vit_tiny_patch16_224 --batch-size 16 --pictures 96  # on two cores
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import vitkit
from vitkit.checkpoint.presets import find_preset
from vitkit.data import store
from vitkit.device import has_native_bfloat16, pick_device
from vitkit.engine.measure import matrix_peak
from vitkit.training.log import read_log

WIDTH, HEIGHT, CLASSES, VAL_FRACTION = 500, 375, 8, 0.1
PEAK_S = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="vit_base_patch16_224")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--pictures", type=int, default=8192)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--streamed", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = pick_device(options.device)
    dtype = torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    if options.streamed:
        store.memory_limit = lambda: 0
    peaks = [matrix_peak(device, dtype, PEAK_S)]
    with tempfile.TemporaryDirectory() as place:
        make_pictures(Path(place) / "pictures", options.pictures)
        settings = {"epochs": options.epochs, "batch_size": options.batch_size, "compile": options.compile}
        run = vitkit.train(
            Path(place) / "pictures",
            preset=options.preset,
            settings=settings | {"evaluate_every": 0, "save_every_s": 1e9},
            val_fraction=VAL_FRACTION,
            device=options.device,
            workers=options.workers,
            output=Path(place) / "run",
        )
        rows = [row for row in read_log(run.folder / "log.jsonl") if row["kind"] == "step"]
    peaks.append(matrix_peak(device, dtype, PEAK_S))
    steady = rows[len(rows) // 3 :]
    rate = sum(row["images_per_s"] * row["seconds"] for row in steady) / sum(row["seconds"] for row in steady)
    work = 6 * find_preset(options.preset).model.spec.macs() * rate
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{options.preset} on {device.type} ({name}), {dtype}, batches of {options.batch_size}")
    print(f"{rate:.1f} images/s over {len(steady)} steps, {work / 1e12:.3f} TFLOP/s")
    print(f"matrix peak {max(peaks) / 1e12:.3f} TFLOP/s (before {peaks[0] / 1e12:.3f}, after {peaks[1] / 1e12:.3f})")
    print(f"share of the peak: {work / max(peaks):.1%}")


def make_pictures(folder: Path, count: int) -> None:
    """Smooth noise: JPEGs of about the size that photos have."""
    draw = np.random.default_rng(0)
    for number in range(count):
        small = draw.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
        file = folder / f"class {number % CLASSES}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, quality=90)


if __name__ == "__main__":
    main()
