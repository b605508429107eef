"""Claim: on flowers, a DeiT distilled from a teacher names more held-out pictures than the same student alone.

Two teachers, both trained on the same part as their students: an ImageNet ViT-Ti/16, fine-tuned at 128 pixels, and a
ResNet-18 that starts from nothing. The student is vitkit's new model for its size with a class token; distilled, it has
a distillation token beside it and answers by both heads. Alone it is trained with the class token, once more with mean
pooling, as new models do. All students get the settings of SCRATCH_PHOTOS (crops, mirror images, colours, MixUp,
CutMix) and as many epochs.

Each arm is tuned equally, on the split of --tuning-seed, by a grid of --rates times two settings of its own: students
alone with and without label smoothing, distilled ones with hard and soft answers. With what was best there, each arm is
trained on the splits of --seeds, the weights' seed the same number. The score is the held-out accuracy after the last
step, of the moving average of the weights; nothing else reads those pictures.

    python benchmarks/distillation.py FLOWERS --weights vit_tiny_patch16_224.safetensors [--epochs 60] [--output FOLDER]

A run that is finished in --output isn't made again, and one that was stopped goes on: stop and start as you like.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import vitkit
from vitkit.config import to_dict
from vitkit.model.spec import VitSpec
from vitkit.training.starts import SCRATCH_PHOTOS, small_spec, spread_positions

CLASSES = 5
TEACHERS = ("vit", "resnet")
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Bench:
    """What all runs share."""

    options: argparse.Namespace

    @property
    def folder(self) -> Path:
        """Of all runs that can be compared."""
        options = self.options
        teachers = "-".join(map(str, options.teacher_epochs))
        return Path(options.output) / f"{options.image_size}px-{options.epochs}-teachers-{teachers}"

    def run(self, name: str, seed: int, settings: Mapping[str, Any], **start: Any) -> dict[str, float]:
        """Accuracy and seconds of a run on the split of `seed`, made, finished or read from what it left."""
        folder = self.folder / f"split{seed}" / name
        summary = folder / "benchmark.json"
        if not summary.exists():
            if not (folder / "run.json").exists():
                settings = {**settings, "seed": seed, "evaluate_every": 0}
                start |= {"settings": settings, "split_seed": seed, "output": folder}
                made = vitkit.train(self.options.data, device=self.options.device, baseline=False, **start)
            else:
                made = vitkit.train(resume=folder, device=self.options.device, baseline=False)
            scores = {"accuracy": made.scores["accuracy"], "seconds": made.seconds}
            summary.write_text(json.dumps(scores) + "\n", encoding="utf-8")
        found: dict[str, float] = json.loads(summary.read_text(encoding="utf-8"))
        print(f"split {seed}  {name:44} {found['accuracy']:7.2%}  {found['seconds']:6.0f} s", flush=True)
        return found

    def teacher(self, kind: str, seed: int) -> Path:
        """The folder of the teacher's run on that split."""
        if kind == "vit":
            settings: dict[str, Any] = {"epochs": self.options.teacher_epochs[0]}
            start = {"model": self.options.weights, "preset": "vit_tiny_patch16_224", "image_size": 128}
        else:
            settings = {**to_dict(SCRATCH_PHOTOS), "epochs": self.options.teacher_epochs[1]}
            start = {"model": self.untrained("resnet")}
        self.run(f"teacher-{kind}", seed, settings, **start)
        return self.folder / f"split{seed}" / f"teacher-{kind}"

    def student(self, arm: str, trial: tuple[float, bool], seed: int) -> dict[str, float]:
        """One student of `arm`: alone, alone_mean, vit or resnet."""
        rate, second = trial
        settings = {**to_dict(SCRATCH_PHOTOS), "epochs": self.options.epochs, "lr": rate, "drop_path": 0.1}
        name = f"{arm}-lr{rate:g}"
        if arm in TEACHERS:
            kind = "soft" if second else "hard"
            teacher = self.teacher(arm, seed)
            settings |= {"objective": "distillation", "distill": {"teacher": str(teacher), "kind": kind}}
            name += f"-{kind}"
        else:
            settings["label_smoothing"] = 0.1 if second else 0.0
            name += f"-smoothing{settings['label_smoothing']:g}"
        return self.run(name, seed, settings, model=self.untrained("mean" if arm == "alone_mean" else "class"))

    def untrained(self, kind: str) -> Path:
        """A model that has learned nothing, as a checkpoint to start from."""
        folder = self.folder / f"untrained-{kind}"
        if not folder.exists():
            size = self.options.image_size
            torch.manual_seed(0)
            model: vitkit.VisionTransformer | vitkit.ResNet
            if kind == "resnet":
                model = vitkit.ResNet(image_size=size, num_classes=CLASSES, block="basic", depths=(2, 2, 2, 2))
            else:
                spec: VitSpec = small_spec((size, size), in_channels=3, num_classes=CLASSES)
                if kind == "class":
                    spec = dataclasses.replace(spec, class_token=True, pool="cls", final_norm="tokens")
                model = vitkit.VisionTransformer(**vars(spec))
                spread_positions(model)
            preprocess = vitkit.Preprocess(
                size=size, resize="shortest", crop="center_round", interpolation="bicubic", mean=HALF, std=HALF
            )
            model.save_pretrained(folder, preprocess=preprocess)
        return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder of class folders")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet ViT-Ti/16, timm's names")
    parser.add_argument("--output", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--epochs", type=int, default=60, help="of every student")
    parser.add_argument("--teacher-epochs", type=int, nargs=2, default=(10, 60), help="of the ViT and of the ResNet")
    parser.add_argument("--image-size", type=int, default=64, help="of students and ResNet")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tuning-seed", type=int, default=3)
    parser.add_argument("--device", help="cpu, cuda; chosen unless said")
    bench = Bench(parser.parse_args())
    options = bench.options
    bench.folder.mkdir(parents=True, exist_ok=True)

    rows: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for arm in ("alone", "alone_mean", *TEACHERS):
        trials = list(itertools.product(options.rates, (False, True)))
        best = max(trials, key=lambda trial: bench.student(arm, trial, options.tuning_seed)["accuracy"])
        found = [bench.student(arm, best, seed) for seed in options.seeds]
        rows[arm] = [each["accuracy"] for each in found]
        seconds[arm] = statistics.mean(each["seconds"] for each in found)
    print(f"\n{'student':12} {'mean':>8} {'each':>26} {'over alone':>26} {'seconds':>8}")
    for arm, scores in rows.items():
        each = "  ".join(f"{score:.2%}" for score in scores)
        gains = "  ".join(f"{100 * (a - b):+.2f}" for a, b in zip(scores, rows["alone"], strict=True))
        print(f"{arm:12} {statistics.mean(scores):8.2%} {each:>26} {gains:>26} {seconds[arm]:8.0f}")


if __name__ == "__main__":
    main()
