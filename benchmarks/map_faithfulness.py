"""Claim: hiding what the demo's maps point at hurts, and much more than what the maps of any randomised model point at.

Over all held-out digits, the top 20 % of patches by a map are hidden (they take the pictures' mean, place by place), or
as many random ones, and the fall of the predicted class's probability is compared, picture by picture. Random patches
are drawn twice: from all places alike (mean of 20 draws), and from the places that such maps favour, by taking the map
of another picture (mean of 5): figures stand in the middle, so any map that prefers the middle beats the former. Always
the trained model answers; the maps come from it, from randomised copies of it, or from no model at all.

    python benchmarks/map_faithfulness.py [--run FOLDER] [--models 100]
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import vitkit
from vitkit.data.sources.open import open_data
from vitkit.data.split import split
from vitkit.explain.faithfulness import deletion, sign_flip_test
from vitkit.explain.maps import explain

DRAWS, OTHERS = 20, 5  # of random patches, and of other pictures' maps, per picture


class Falls(NamedTuple):
    """Of the predicted class's probability, each [n]."""

    by_map: NDArray[np.float64]
    anywhere: NDArray[np.float64]
    same_places: NDArray[np.float64]


def randomise(model: vitkit.VisionTransformer, seed: int) -> vitkit.VisionTransformer:
    """A copy with every parameter drawn anew from N(0, 0.2)."""
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return other


def held_out(run: Path, vit: vitkit.Predictor) -> Tensor:
    """Normalised pixels [n, C, H, W] of the digits that the run never learnt from."""
    settings = json.loads((run / "run.json").read_text(encoding="utf-8"))["run"]
    splits = split(open_data(settings["data"]), val_fraction=settings["val_fraction"], seed=settings["split_seed"])
    return torch.stack([vit.preprocess(picture) for picture in splits.val.pictures])


def departure(pixels: Tensor, patch_size: int) -> NDArray[np.float32]:
    """How far each patch is from the pictures' mean, [n, h, w]: a map that asks no model."""
    return torch.nn.functional.avg_pool2d((pixels - pixels.mean(dim=0)).abs(), patch_size).mean(dim=1).numpy()


def interval(values: NDArray[np.float64]) -> str:
    """The mean and its 95 % interval, by 10,000 resamples."""
    rng = np.random.default_rng(0)
    means = [rng.choice(values, len(values)).mean() for _ in range(10_000)]
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def falls(model: vitkit.VisionTransformer, pixels: Tensor, maps: NDArray[np.float32], seed: int) -> Falls:
    """Falls of the probability by `maps`, at random places, and at the places of other pictures' maps."""
    found = deletion(model, pixels, maps, draws=DRAWS, seed=seed)
    rng = np.random.default_rng(seed)
    others = [deletion(model, pixels, maps[rng.permutation(len(maps))], draws=1).map_drops for _ in range(OTHERS)]
    return Falls(found.map_drops, found.random_drops, np.mean(others, axis=0))


def row(name: str, fall: float, leads: Sequence[NDArray[np.float64]]) -> str:
    """A row of the table: the map's fall, and its leads over both kinds of random patches with p."""
    cells = [f"{interval(lead)}, p {sign_flip_test(lead, np.random.default_rng(0)):.4f}" for lead in leads]
    return f"| {name} | {fall:.3f} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run on the digits; without it, the demo's is trained")
    parser.add_argument("--models", type=int, default=100, help="randomised models")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or vitkit.train("digits", output=folder, settings={"evaluate_every": 0}).folder
        vit = vitkit.load(run / "model", device="cpu")
        pixels = held_out(run, vit)
    model = vit.module
    print("| map | fall | lead over random patches | lead over random patches of the same places |")
    print("| --- | --- | --- | --- |")
    departs = departure(pixels, model.spec.patch_size)
    for name, values in (
        ("the model's own", explain(model, pixels).values),
        ("no model: distance from the mean", departs),
    ):
        found = falls(model, pixels, values, seed=0)
        print(row(name, found.by_map.mean(), (found.by_map - found.anywhere, found.by_map - found.same_places)))
    random = [
        falls(model, pixels, explain(randomise(model, seed), pixels).values, seed) for seed in range(options.models)
    ]
    # What is asked is what a randomised model does, so models are drawn, not pictures: one favours the middle, where
    # figures are, and the next a corner.
    anywhere = np.array([(found.by_map - found.anywhere).mean() for found in random])
    same_places = np.array([(found.by_map - found.same_places).mean() for found in random])
    fall = float(np.mean([found.by_map for found in random]))
    print(row(f"{options.models} randomised models'", fall, (anywhere, same_places)))
    print(f"\neach randomised model's lead over random patches: {anywhere.min():.3f} to {anywhere.max():.3f}")


if __name__ == "__main__":
    main()
