"""Claim: in equal minutes on the same machine, vitkit's recipe for CIFAR-10 ends at least 5 points above timm's parts.

From random weights, Transformers of one size (width, depth, heads and patch of the recipe; vitkit's has the recipe's
convolutional stem before its patches), the same pictures to learn from, judged on the test pictures after the last
step. The minutes are those of training: neither reading the files nor the evaluation at the end counts.

vitkit trains as `vitkit train DATA --recipe R --minutes M` does, but that one picture in 100 is held out rather than
one in five: timm learns from all. timm's arms, one for each of --lr, are timm's VisionTransformer, RandAugment
(rand-m9-mstd0.5-inc1) after a padded crop and mirror images, MixUp 0.8 and CutMix 1.0 with smoothed labels, AdamW with
decay 0.05, clipping at norm 1, drop path 0.1, and a warm-up over a tenth and a cosine by timm's scheduler, which
follows the clock and so ends with the minutes. timm isn't held up by files: its pictures are decoded once and held in
memory. And it gets whichever is fastest of float32 and bfloat16 under autocast with 0, 1 and 2 processes that
transform the pictures, each tried for --trial seconds before the first arm.

Arms that --output has already aren't run again, so that a broken run goes on where it was.

    python benchmarks/from_scratch.py DATA [--recipe cifar10] [--minutes 20] [--lr 5e-4 1e-3 2e-3] [--output FILE]

DATA has train/ and test/ of class folders, or IDX files. Every arm has --threads cores, its workers included (Linux).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import peers  # noqa: F401  # first: it lets timm import  # isort: skip
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import rand_augment_transform
from timm.loss import SoftTargetCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import vitkit
from vitkit.api.runs import RunSpec
from vitkit.api.starts import natural_size
from vitkit.data.samples import Samples, Splits
from vitkit.data.sources.open import open_data
from vitkit.data.store import make_store
from vitkit.device import parse_dtype
from vitkit.image.preprocess import Preprocess
from vitkit.model.spec import VitSpec
from vitkit.training.log import read_log
from vitkit.training.recipes import read_recipe
from vitkit.training.starts import new_spec

Pixels: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[np.int64]

POLICY = "rand-m9-mstd0.5-inc1"
HELD_OUT = 0.01
WARMUP, TICKS = 0.1, 1000
"""Share of the time in which the rate rises, and steps of timm's schedule in all."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="cifar10")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--lr", nargs="*", type=float, default=[5e-4, 1e-3, 2e-3], help="of timm's arms")
    parser.add_argument("--batch", type=int, default=128, help="of timm's arms")
    parser.add_argument("--trial", type=float, default=15.0, help="seconds that each way to feed timm is tried for")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("from_scratch.json"))
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = json.loads(options.output.read_text()) if options.output.exists() else []

    def arm(name: str, run: Callable[[], dict[str, Any]]) -> float:
        """The accuracy of an arm, which is run if it isn't in the file yet; says its row."""
        key = {"arm": name, "data": str(options.data), "recipe": options.recipe, "minutes": options.minutes}
        row = next((row for row in rows if row.items() >= key.items()), None)
        if row is None:
            row = {**key, **run()}
            rows.append(row)
            options.output.write_text(json.dumps(rows, indent=1) + "\n")
        pace = f"{row['images_per_s']:6.0f} images/s  {row['epochs']:5.1f} epochs"
        size = f"{row['parameters'] / 1e6:.2f} M parameters"
        print(f"{name:<14} test {row['accuracy']:7.2%}  {pace}  {size}  {row['how']}", flush=True)
        return float(row["accuracy"])

    ours = arm("vitkit", lambda: train_vitkit(options))
    ways: list[Way] = []

    def timm_arm(lr: float) -> dict[str, Any]:
        arrays = read_arrays(options)
        if not ways:
            ways.append(fastest_way(arrays, options))
        return train_timm(arrays, lr, ways[0], options)

    if theirs := [arm(f"timm lr {lr:g}", partial(timm_arm, lr)) for lr in options.lr]:
        print(f"vitkit leads the best of timm's by {100 * (ours - max(theirs)):.2f} points")


def train_vitkit(options: argparse.Namespace) -> dict[str, Any]:
    """`vitkit train`, without evaluations on the way."""
    settings = {"minutes": options.minutes, "evaluate_every": 0}
    told: list[RunSpec] = []
    with tempfile.TemporaryDirectory() as folder:
        result = vitkit.train(
            options.data,
            recipe=options.recipe,
            settings=settings,
            val_fraction=HELD_OUT,
            output=f"{folder}/run",
            on_start=lambda run, _: told.append(run),
        )
        rows = read_log(result.folder / "log.jsonl")
        seen = sum(row["images_per_s"] * row["seconds"] for row in rows if row["kind"] == "step")
    return {
        "accuracy": result.test_scores["accuracy"],
        "images_per_s": seen / result.seconds,
        "epochs": seen / told[0].pictures[0],
        "parameters": told[0].spec.spec.num_parameters(),
        "seconds": result.seconds,
        "how": f"{told[0].train.optimizer}, lr {told[0].train.lr:g}",
    }


@dataclass(frozen=True)
class Arrays:
    """All pictures decoded, [N, H, W, C] and uint8, and the shape of vitkit's model for them."""

    train: Pixels
    train_labels: Labels
    test: Pixels
    test_labels: Labels
    spec: VitSpec


def read_arrays(options: argparse.Namespace) -> Arrays:
    """Every picture of the data, decoded as vitkit does, of the size that the recipe's model reads."""
    opened = open_data(options.data)
    if not isinstance(opened, Splits) or opened.test is None:
        raise SystemExit(f"{options.data} has no test part")
    recipe = read_recipe(options.recipe)
    size, channels = natural_size(opened.train, recipe.model.get("image_size"))
    shape = {name: value for name, value in recipe.model.items() if name not in ("image_size", "preset")}
    spec = new_spec(
        size,
        in_channels=channels,
        num_classes=opened.train.num_classes,
        patch_size=None,
        preset=recipe.model.get("preset"),
        shape=shape,
        origin=recipe.origin,
    )
    if not isinstance(spec, VitSpec):
        raise SystemExit(f"the recipe {options.recipe} is for a {spec.title}, not for a ViT")
    half = (0.5,) * channels
    preprocess = Preprocess(size=size, resize="squash", crop="none", interpolation="bicubic", mean=half, std=half)

    def read(part: Samples) -> tuple[Pixels, Labels]:
        store = make_store(part, preprocess, training=False)
        return store.take(np.arange(len(part))), np.asarray(part.labels, np.int64)  # type: ignore[return-value]

    return Arrays(*read(opened.train), *read(opened.test), spec)


class Pictures(Dataset[tuple[NDArray[np.uint8], int]]):
    """Decoded pictures, each varied anew by timm's transform when it is asked for; uint8 [C, H, W] and the label."""

    def __init__(self, arrays: Arrays) -> None:
        self.pixels, self.labels = arrays.train, arrays.train_labels
        height, width = arrays.spec.image_size
        mean = tuple(int(channel) for channel in arrays.train.mean((0, 1, 2)).round())
        fill = mean * (3 // len(mean))  # timm's operations are for RGB
        self.mode = "L" if arrays.spec.in_channels == 1 else "RGB"
        self.vary = transforms.Compose(
            [
                transforms.RandomCrop((height, width), padding=height // 8),  # DeiT's for pictures of 32 pixels
                transforms.RandomHorizontalFlip(),
                rand_augment_transform(POLICY, {"translate_const": int(0.45 * min(height, width)), "img_mean": fill}),
            ]
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, at: int) -> tuple[NDArray[np.uint8], int]:
        height, width, channels = self.pixels.shape[1:]
        picture = Image.fromarray(self.pixels[at].squeeze() if channels == 1 else self.pixels[at]).convert("RGB")
        varied = np.asarray(self.vary(picture).convert(self.mode)).reshape(height, width, channels)
        return varied.transpose(2, 0, 1).copy(), int(self.labels[at])


@dataclass(frozen=True)
class Way:
    """How timm's arms are computed and fed."""

    dtype: str
    workers: int

    @property
    def autocast(self) -> AbstractContextManager[object]:
        """What the model runs under."""
        return torch.autocast("cpu", dtype=parse_dtype(self.dtype), enabled=self.dtype != "float32")


def steps_of(arrays: Arrays, lr: float, way: Way, seconds: float, options: argparse.Namespace) -> tuple[nn.Module, int]:
    """timm's model after so many seconds of training, and the steps that it took."""
    torch.manual_seed(0)
    spec = arrays.spec
    model = VisionTransformer(
        img_size=spec.image_size,
        patch_size=spec.patch_size,
        in_chans=spec.in_channels,
        num_classes=spec.num_classes,
        embed_dim=spec.embed_dim,
        depth=spec.depth,
        num_heads=spec.num_heads,
        mlp_ratio=spec.mlp_dim / spec.embed_dim,
        drop_path_rate=0.1,
    )
    loader = DataLoader(
        Pictures(arrays),
        options.batch,
        shuffle=True,
        drop_last=True,
        num_workers=way.workers,
        persistent_workers=way.workers > 0,
    )
    mix = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=spec.num_classes)
    optimizer = create_optimizer_v2(model, "adamw", lr=lr, weight_decay=0.05, fused=True)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=TICKS, lr_min=lr / 100, warmup_t=int(WARMUP * TICKS), warmup_lr_init=lr / 100
    )
    criterion, steps = SoftTargetCrossEntropy(), 0
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    start = time.perf_counter()
    model.train()
    while (passed := time.perf_counter() - start) < seconds:
        scheduler.step(int(TICKS * passed / seconds))
        pixels, labels = next(batches)
        pixels, targets = mix(normalised(pixels), labels)
        with way.autocast:
            loss = criterion(model(pixels), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
    return model.eval(), steps


def normalised(pixels: Tensor) -> Tensor:
    """uint8 [B, C, H, W] to -1..1, as vitkit's new models read them."""
    return (pixels.float() - 127.5) / 127.5


def fastest_way(arrays: Arrays, options: argparse.Namespace) -> Way:
    """Of timm's ways to compute and to be fed, the one of the most steps in the seconds of a trial."""
    steps = {
        way: steps_of(arrays, 1e-4, way, options.trial, options)[1]
        for way in (Way(dtype, workers) for dtype in ("float32", "bfloat16") for workers in (0, 1, 2))
    }
    for way, count in steps.items():
        print(f"timm, {way.dtype}, {way.workers} workers: {count * options.batch / options.trial:.0f} images/s")
    return max(steps, key=steps.__getitem__)


def train_timm(arrays: Arrays, lr: float, way: Way, options: argparse.Namespace) -> dict[str, Any]:
    """One of timm's arms, judged on the test pictures."""
    seconds = 60 * options.minutes
    model, steps = steps_of(arrays, lr, way, seconds, options)
    right = 0
    with torch.inference_mode(), way.autocast:
        for at in range(0, len(arrays.test), 500):
            pixels = normalised(torch.from_numpy(arrays.test[at : at + 500]).permute(0, 3, 1, 2))
            right += int((model(pixels).argmax(1).numpy() == arrays.test_labels[at : at + 500]).sum())
    seen = steps * options.batch
    return {
        "accuracy": right / len(arrays.test),
        "images_per_s": seen / seconds,
        "epochs": seen / len(arrays.train),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": seconds,
        "how": f"{way.dtype}, {way.workers} workers",
    }


if __name__ == "__main__":
    main()
