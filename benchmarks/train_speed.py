"""Claim: training, the loading of JPEG files included, is at least as fast as timm's loop, 1.15 times as fast as
transformers' Trainer, and takes no more memory than timm's loop. On a CPU, in float32 or with bfloat16 products.

Equal for all: pictures, batches, epochs, cores, random crops (25 to 100 % of the area, bilinear), mirror images, AdamW
(fused) under a cosine with warm-up, smoothed labels, gradients clipped at norm 1, a checkpoint after each epoch. vitkit
and timm keep a moving average of the weights, Trainer has none. What differs is each library's own way: vitkit decodes
all files once, into memory and near the model's size (185 kB a picture for ti224), and crops from that without
antialiasing; the others read, decode and crop each file in each epoch with Pillow, in as many worker processes as they
are fastest with: round one tries all of --workers. transformers' ViT has a class token in the small model too.

Each run is a process of its own with `--threads` cores, its workers included (Linux). "steady" is the rate over all
epochs but the first, without writing checkpoints. "total" counts from opening the folder to the last checkpoint, so
with vitkit's decoding, but not the imports. "peak" is the most memory the process had (VmHWM) and what its workers had
alone (private pages after an epoch). Ratios are medians of pairs of one round, quartiles in brackets.

    python benchmarks/train_speed.py [--models ti224 small32] [--dtype bfloat16] [--rounds 4] [--data FOLDER]

Without --data, JPEG files are made of noise: 500x375 pixels for ti224, 32x32 for small32. Trainer needs `accelerate`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import peers  # first: it lets timm and transformers import  # isort: skip
import torch
from PIL import Image
from train_sides import SIDES, Task, Watch, memory

Run: TypeAlias = dict[str, Any]

MADE = {"ti224": (500, 375), "small32": (32, 32)}
"""(width, height) of the pictures made: about ImageNet's mean; CIFAR's."""
PICTURES = {"ti224": 96, "small32": 1000}
CLASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--models", nargs="+", default=list(MADE), choices=list(MADE))
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2], help="of the peers, tried in round one")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pictures", type=int, help=f"unless said: {PICTURES}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of all sides' products")
    parser.add_argument("--data", type=Path, help="a folder of class folders to take pictures from")
    parser.add_argument("--json", action="store_true", help="print every run as JSON instead of the table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error(f"--epochs is {options.epochs}; at least 2: the first isn't counted as steady")
    if options.child:
        print(json.dumps(run_here(Task(**json.loads(options.child)))))
        return
    for model in options.models:
        with tempfile.TemporaryDirectory() as parent:
            count = options.pictures or PICTURES[model]
            if options.data:
                copy_pictures(options.data, Path(parent), count)
            else:
                make_pictures(Path(parent), count, MADE[model])
            runs = compare(model, parent, options)
        print(json.dumps(runs)) if options.json else report(runs, options.sides)


def compare(model: str, folder: str, options: argparse.Namespace) -> list[Run]:
    """All runs of one model, turns taken; after the first round each side goes on with its best number of workers."""
    turns = [(side, workers) for side in options.sides for workers in (options.workers if side != "vitkit" else [0])]
    classes = len(list(Path(folder).iterdir()))
    runs: list[Run] = []
    for number in range(options.rounds):
        first = number % len(turns)
        for side, workers in turns[first:] + turns[:first]:
            task = Task(
                side, workers, model, folder, classes, options.epochs, options.batch, options.threads, options.dtype
            )
            runs.append({"round": number, **run_apart(task)})
        if number == 0:
            best = {run["side"]: run["workers"] for run in sorted(runs, key=lambda run: run["steady"])}
            turns = [(side, best[side]) for side in options.sides]
    assert len({run["pictures"] for run in runs}) == 1, "the sides trained on different numbers of pictures"
    for run in runs:
        run["kept"] = (run["side"], run["workers"]) in turns
    return runs


def run_apart(task: Task) -> Run:
    """One run in a process of its own."""
    call = [sys.executable, __file__, "--child", json.dumps(asdict(task))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(task.threads)}
    ended = subprocess.run(call, env=environment, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{task} failed:\n{ended.stderr[-2000:]}")
    run: Run = json.loads(ended.stdout.splitlines()[-1])
    return run


def run_here(task: Task) -> Run:
    """One run in this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.threads])
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    random.seed(0)
    watch = Watch()
    with tempfile.TemporaryDirectory() as output:
        model, losses = SIDES[task.side](task, watch, Path(output))
        seconds = watch.total()
    steps = len(watch.seconds)
    per_epoch = steps // task.epochs
    return {
        **asdict(task),
        "pictures": steps * task.batch,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steady": (steps - per_epoch) * task.batch / sum(watch.seconds[per_epoch:]),
        "total": steps * task.batch / seconds,
        "peak": memory("self", "status", "VmHWM") + watch.workers_bytes,
        "losses": [statistics.fmean(part) for part in np.array_split(losses, task.epochs)],
    }


def report(runs: list[Run], sides: list[str]) -> None:
    """A line for each side and number of workers, then vitkit over each peer."""
    one = runs[0]
    print(f"{one['model']}: {one['pictures']} pictures in {one['epochs']} epochs, batch {one['batch']}, ", end="")
    print(f"{one['threads']} threads, {one['dtype']}; torch {torch.__version__}")
    for side, workers in dict.fromkeys((run["side"], run["workers"]) for run in runs):
        own = [run for run in runs if (run["side"], run["workers"]) == (side, workers)]
        steady, total, peak = (statistics.median(run[key] for run in own) for key in ("steady", "total", "peak"))
        speeds = f"steady {steady:7.1f}/s  total {total:7.1f}/s  peak {peak / 2**20:5.0f} MiB"
        losses = ", ".join(f"{loss:.2f}" for loss in own[0]["losses"])
        print(f"{side:<13}{workers} workers  {speeds}  {own[0]['parameters']:,} parameters, losses {losses}")
    for side in (side for side in sides if side != "vitkit" and "vitkit" in sides):
        said = []
        for key in ("steady", "total", "peak"):
            ours, theirs = (
                [run[key] for run in runs if run["kept"] and run["side"] == who] for who in ("vitkit", side)
            )
            middle, low, high = peers.ratio(ours, theirs)
            said.append(f"{key} {middle:.3f} [{low:.3f}, {high:.3f}]")
        print(f"vitkit : {side:<13} {'  '.join(said)}")


def make_pictures(folder: Path, count: int, size: tuple[int, int]) -> None:
    """JPEG files of noise whose amplitude falls with frequency as in photos; a class is a mean colour."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(64, 192, (CLASSES, 3))
    for number in range(count):
        pixels = np.tile(colours[number % CLASSES], (size[1], size[0], 1))
        for cells in (4, 8, 16, 32, 64, 128):
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
            pixels += (np.asarray(noise.resize(size, Image.Resampling.BICUBIC), np.float64) - 128) * 2 / cells
        target = folder / f"class{number % CLASSES}" / f"{number:05}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target, quality=90)


def copy_pictures(source: Path, folder: Path, count: int) -> None:
    """`count` of the files in the class folders of `source`, evenly chosen; fewer where there are fewer."""
    files = sorted(path for path in source.glob("*/*") if path.is_file())
    count = min(count, len(files))
    for path in (files[number * len(files) // count] for number in range(count)):
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


if __name__ == "__main__":
    main()
