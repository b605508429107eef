"""Do maps mean something? The deletion test: hiding what a map points at should hurt more than hiding at random.

After Samek et al., "Evaluating the Visualization of What a Deep Neural Network Has Learned", 2017, arXiv:1509.06321.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.errors import ConfigError
from vitkit.explain.maps import eval_mode
from vitkit.model.vit import VisionTransformer

__all__ = ["Deletion", "deletion", "sign_flip_test"]


@dataclass(frozen=True, eq=False)
class Deletion:
    """What hiding the map's top patches did, and hiding as many random ones; n pictures, drops of probability."""

    map_drops: NDArray[np.float64]
    """[n] how much the predicted class's probability fell, by the map."""
    random_drops: NDArray[np.float64]
    """[n] the same at random, mean over the draws."""
    patches: int
    """Patches hidden in every picture."""
    mean_difference: float
    """Mean of map_drops - random_drops: above 0, the maps point at what matters."""
    t: float
    """Student's t of the paired differences."""
    p: float
    """One-sided p of the paired sign-flip test: how often chance alone would do as well."""

    def summary(self) -> dict[str, float | int]:
        """The figures, for a table or a JSON file."""
        return {
            "pictures": len(self.map_drops),
            "patches": self.patches,
            "map_drop": float(self.map_drops.mean()),
            "random_drop": float(self.random_drops.mean()),
            "mean_difference": self.mean_difference,
            "t": self.t,
            "p": self.p,
        }


def deletion(
    module: VisionTransformer,
    pixels: Tensor,
    maps: NDArray[np.float32],
    *,
    share: float = 0.2,
    baseline: Tensor | None = None,
    draws: int = 5,
    seed: int = 0,
    batch_size: int = 256,
) -> Deletion:
    """Hides the `share` of patches that `maps` [n, h, w] weigh most in normalised `pixels` [n, C, H, W], or random.

    Hidden pixels take the value of `baseline`, which broadcasts against [n, C, H, W]; None is the pictures' mean, place
    by place. (One colour everywhere is something to be seen itself: a grey square on a digit's black ground makes even
    the maps of an untrained model look meaningful.) Ties in a map are broken at random. The probability is the softmax
    of the class predicted from the whole picture.
    Raises ConfigError where shapes disagree, for a model without a head, or for a share outside 0..1.
    """
    if not module.spec.num_classes:
        raise ConfigError("the deletion test watches a class's probability, but the model has no head")
    if not 0 < share < 1:
        raise ConfigError(f"share is {share}; allowed: between 0 and 1")
    n, grid = len(pixels), (pixels.shape[2] // module.spec.patch_size, pixels.shape[3] // module.spec.patch_size)
    if n < 2 or maps.shape != (n, *grid):
        raise ConfigError(f"maps are {list(maps.shape)}; these {n} pictures (at least 2) need {[n, *grid]}")
    patches = max(1, round(share * grid[0] * grid[1]))
    filling = (pixels.mean(dim=0) if baseline is None else baseline).to(pixels)
    rng = np.random.default_rng(seed)

    def hidden(weights: NDArray[np.floating]) -> Tensor:
        order = np.lexsort((rng.random(weights.shape), -weights), axis=-1)  # by weight, ties at random
        mask = np.zeros(weights.shape, bool)
        np.put_along_axis(mask, order[:, :patches], True, axis=1)
        size = module.spec.patch_size
        whole = torch.from_numpy(mask.reshape(n, 1, *grid)).repeat_interleave(size, 2).repeat_interleave(size, 3)
        return torch.where(whole.to(pixels.device), filling, pixels)

    before = _probabilities(module, pixels, batch_size)
    predicted = before.argmax(axis=1)[:, None]

    def drop(changed: Tensor) -> NDArray[np.float64]:
        after = _probabilities(module, changed, batch_size)
        return np.take_along_axis(before - after, predicted, axis=1)[:, 0]

    flat = maps.reshape(n, -1)
    by_map = drop(hidden(flat))
    at_random = np.mean([drop(hidden(np.zeros_like(flat))) for _ in range(draws)], axis=0)
    difference = by_map - at_random
    spread = float(difference.std(ddof=1))
    mean = float(difference.mean())
    t = mean / (spread / math.sqrt(n)) if spread > 0 else math.copysign(math.inf, mean) if mean else 0.0
    return Deletion(by_map, at_random, patches, mean, t, sign_flip_test(difference, rng))


def sign_flip_test(differences: NDArray[np.float64], rng: np.random.Generator, *, flips: int = 9999) -> float:
    """One-sided p that the mean of paired differences [n] is above 0: its rank among those of random signs.

    Nothing is assumed of the differences' distribution but symmetry about 0 where there is no effect (Fisher, 1935).
    The smallest p is 1 / (flips + 1).
    """
    sums = np.array([rng.choice((-1.0, 1.0), len(differences)) @ differences for _ in range(flips)])
    # Sums of the same numbers in another order may differ in their last bits; equal ones count.
    reached = sums >= differences.sum() - 1e-12 * np.abs(differences).sum()
    return float((1 + reached.sum()) / (flips + 1))


def _probabilities(module: VisionTransformer, pixels: Tensor, batch_size: int) -> NDArray[np.float64]:
    """Softmax [n, K]."""
    weight = module.patch_embed.proj.weight
    with torch.inference_mode(), eval_mode(module):
        rows = [module(part.to(weight)).cpu().double().softmax(dim=-1) for part in torch.split(pixels, batch_size)]
    return torch.cat(rows).numpy()
