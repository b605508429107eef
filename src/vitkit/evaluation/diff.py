"""Two models on the same pictures, stage by stage from pixels to logits: where they part, and by how much.

Unless told otherwise both compute in float64, where equal models agree to about 1e-14 and even a LayerNorm's other eps
shows. Of the preparation, each step is shown what the first model's step before it gave; then both models are shown the
first one's pixels, so that a difference is found where it arises.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.checkpoint import proof
from vitkit.errors import ConfigError
from vitkit.evaluation.causes import cause
from vitkit.evaluation.sides import Side
from vitkit.evaluation.stages import AFTER, count_blocks, idle_stages, stage_names, walk
from vitkit.image.decode import Picture
from vitkit.image.preprocess import Preprocess

__all__ = ["Compared", "Difference", "compare", "generated"]

HELD_BYTES = 2**30
"""Of one model's stages at a time; where there are more, both models run again for the rest."""
PREPARED = ("picture", "resized", "pixels")
PIXEL_LIMIT = 1e-6
"""Of normalised pixels, which every library computes in float32."""
LIMITS: Mapping[torch.dtype, float] = {
    torch.float64: 1e-7,
    torch.float32: 5e-6,
    torch.float16: 5e-3,
    torch.bfloat16: 4e-2,
}
"""What equal models may differ by, relative, before their first block; it grows with the root of the blocks passed.

In float64 that is what remains of weights and tables of sines that were rounded to float32 in another order (2^-24 is
6e-8), in the others what ViT-Ti/16 and every family with random weights were seen to need, twice to three times over.
"""

CLASSIFIERS = ("ForImageClassification", "ForImageClassificationWithTeacher")
"""transformers' classes whose answer is a class."""


@dataclass(frozen=True)
class Compared:
    """A stage that both models show, as it is in the picture where they differ most."""

    name: str
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    absolute: float
    """Largest difference; infinite for other shapes and for what isn't a number."""
    relative: float
    """Root mean square of the difference, as a share of that of the values."""
    limit: float
    """Of `relative`."""

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the limit."""
        return self.relative <= self.limit

    def __str__(self) -> str:
        if self.shape_a != self.shape_b:
            return f"{self.name}: {list(self.shape_a)} against {list(self.shape_b)}"
        if not self.limit:
            return f"{self.name}: up to {self.absolute:g} levels of 255"
        return f"{self.name}: {self.relative:.2g} relative (limit {self.limit:.0e})"


@dataclass(frozen=True)
class Difference:
    """What came of comparing two models; `print` says it in a sentence or two."""

    a: str
    b: str
    stages: tuple[Compared, ...]
    """In the order of the computation."""
    unnamed: tuple[str, ...]
    """Stages that only one of the two shows."""
    same_top1: int | None
    """Pictures that get the same class, each model with its own preparation; None where there are no classes."""
    pictures: int
    causes: Mapping[str, str]
    """By the name of a departure what makes it, where that shows."""

    @property
    def departures(self) -> tuple[Compared, ...]:
        """The first stage that departs; where that is of the preparation, the models' first too, given equal pixels."""
        return _departures(self.stages)

    @property
    def departure(self) -> Compared | None:
        """The first stage that departs."""
        return next(iter(self.departures), None)

    @property
    def agrees(self) -> bool:
        """Whether no stage departs."""
        return not self.departures

    @property
    def hint(self) -> str:
        """What makes the first departure, as far as it shows; else empty."""
        return "" if self.departure is None else self.causes.get(self.departure.name, "")

    def __str__(self) -> str:
        if self.departure is None:
            most = max(self.stages, key=lambda stage: stage.relative)
            return f"{len(self.stages)} stages agree; the largest difference is {most.relative:.1g} at {most.name}"
        before = [stage.relative for stage in self.stages[: self.stages.index(self.departure)]]
        agreed = f"; everything before agrees to {max(before):.1g}" if before else ""
        told = [f"departs first at {self.departure}{agreed}", self.hint]
        for stage in self.departures[1:]:
            told += [f"Shown the same pixels, the models depart first at {stage}", self.causes.get(stage.name, "")]
        return ". ".join(filter(None, told))


def _departures(stages: Sequence[Compared]) -> tuple[Compared, ...]:
    departing = [stage for stage in stages if not stage.agrees]
    inside = [stage for stage in departing if stage.name not in PREPARED]
    same = all(stage.shape_a == stage.shape_b for stage in stages if stage.name == "pixels")
    return tuple(dict.fromkeys([*departing[:1], *inside[:same]]))


def compare(a: Side, b: Side, pictures: Iterable[Picture] = (), *, rtol: float | None = None) -> Difference:
    """Shows both models generated pictures and `pictures`, and compares all stages that both have.

    `rtol` replaces the limit of the models' stages. Raises ConfigError where neither says how pictures are prepared,
    ImageError for a picture that can't be used.
    """
    comparison = _Comparison(a, b, rtol)
    for picture in (*generated(comparison.prepares_a.preprocess), *pictures):
        comparison.show(picture)
    return comparison.result()


def generated(preprocess: Preprocess | None) -> Sequence[NDArray[Any]]:
    """The pictures of a checkpoint's proof, which most models enlarge, and one that is made smaller."""
    channels, (height, width) = (3, (224, 224)) if preprocess is None else (preprocess.channels, preprocess.size)
    made = proof.pictures(channels, (*proof.SIZES, (3 * height - 1, 2 * width + 1)))
    if preprocess is None or preprocess.value_range is None:
        return made
    low, high = preprocess.value_range
    return [low + (high - low) / 255 * picture.astype(np.float64) for picture in made]


class _Comparison:
    """The worst of every stage over the pictures shown so far."""

    def __init__(self, a: Side, b: Side, rtol: float | None) -> None:
        prepares_a, prepares_b = a.preparing or b.preparing, b.preparing or a.preparing
        if prepares_a is None or prepares_b is None:
            raise ConfigError(f"neither {a.name} nor {b.name} says how pictures become pixels; give one a Preprocess")
        self.a, self.b, self.rtol = a, b, rtol
        self.prepares_a, self.prepares_b = prepares_a, prepares_b
        self.depth = max(count_blocks(side.module, side.anatomy) for side in (a, b))
        self.order = (*PREPARED, *stage_names(self.depth))
        self.idle_a, self.idle_b = (idle_stages(side.module, side.anatomy) for side in (a, b))
        self.stages: dict[str, Compared] = {}
        self.worst: dict[str, tuple[Tensor, Tensor]] = {}
        """The pixels with which a stage differs most."""
        self.shown_a: set[str] = set()
        self.shown_b: set[str] = set()
        self.pictures = self.same = 0

    def show(self, picture: Picture) -> None:
        """Compares every stage of one picture."""
        rgb_a, rgb_b = self.prepares_a.open(picture), self.prepares_b.open(picture)
        rgb = rgb_a if rgb_a.shape[2] == rgb_b.shape[2] else rgb_b
        fitted_a, fitted_b = self.prepares_a.fit(rgb_a), self.prepares_b.fit(rgb)
        pixels_a, pixels_b = self.prepares_a.apply(rgb_a), self.prepares_b.apply(rgb)
        shown = pixels_a if pixels_a.shape == pixels_b.shape else pixels_b
        inputs = _batch(pixels_a, self.a), _batch(shown, self.b)
        self._note("picture", rgb_a, rgb_b, inputs, 0.0)
        if fitted_a is not None and fitted_b is not None:
            self._note("resized", fitted_a, fitted_b, inputs, 0.0)
        self._note("pixels", pixels_a, pixels_b, inputs, PIXEL_LIMIT)
        logits_a, logits_b = self._walk(*inputs)
        own = pixels_b if np.array_equal(rgb_a, rgb_b) else self.prepares_b.apply(rgb_b)
        if not np.array_equal(own, shown):
            logits_b = walk(self.b.module, self.b.anatomy, _batch(own, self.b), lambda name, value: None)
        self.pictures += 1
        if logits_a is not None and logits_b is not None:
            self.same += int(logits_a.argmax() == logits_b.argmax())

    def result(self) -> Difference:
        """What came of it."""
        stages = tuple(self.stages[name] for name in self.order if name in self.stages)
        causes = {
            stage.name: cause(stage.name, self.a, self.b, self.worst[stage.name]) for stage in _departures(stages)
        }
        alone = (self.shown_a ^ self.shown_b) - self.idle_a - self.idle_b
        return Difference(
            a=self.a.name,
            b=self.b.name,
            stages=stages,
            unnamed=tuple(name for name in self.order if name in alone),
            same_top1=self.same if _classifies(self.a.module) and _classifies(self.b.module) else None,
            pictures=self.pictures,
            causes={name: said for name, said in causes.items() if said},
        )

    def _walk(self, pixels_a: Tensor, pixels_b: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Compares the models' stages, as many at a time as may be held; returns both logits."""
        left = set(self.order) - (self.idle_a & self.idle_b)
        while True:
            held = _Held(left)
            logits_a = walk(self.a.module, self.a.anatomy, pixels_a, held.take)
            logits_b = walk(self.b.module, self.b.anatomy, pixels_b, partial(self._meet, held, (pixels_a, pixels_b)))
            left -= held.keys()
            self.shown_a |= held.shown
            if held.room > 0:
                return logits_a, logits_b

    def _meet(self, held: _Held, pixels: tuple[Tensor, Tensor], name: str, value: Tensor) -> None:
        self.shown_b.add(name)
        if name in held:
            self._note(name, held[name].squeeze(0), value.squeeze(0), pixels, self._limit(name))

    def _limit(self, name: str) -> float:
        if self.rtol is not None:
            return self.rtol
        passed = int(name.split(".")[1]) if name.startswith("blocks.") else self.depth if name in AFTER else 0
        return max(LIMITS[self.a.dtype], LIMITS[self.b.dtype]) * math.sqrt(1 + passed)

    def _note(self, name: str, x: Any, y: Any, pixels: tuple[Tensor, Tensor], limit: float) -> None:
        """Compares two arrays or tensors, and remembers the worst."""
        x, y = (value.double() if isinstance(value, Tensor) else torch.tensor(value).double() for value in (x, y))
        absolute = float((x - y).abs().max()) if x.shape == y.shape else math.inf
        if not math.isfinite(absolute):
            absolute = math.inf
        size = float(torch.maximum(x.norm(), y.norm()))
        relative = float((x - y).norm()) / size if 0 < absolute < math.inf else absolute
        found = Compared(name, tuple(x.shape), tuple(y.shape), absolute, relative, limit)
        if name not in self.stages or found.relative > self.stages[name].relative:
            self.stages[name] = found
            self.worst[name] = pixels


class _Held(dict[str, Tensor]):
    """Stages of one model, of those `wanted` as many as there is room for."""

    def __init__(self, wanted: Collection[str]) -> None:
        super().__init__()
        self.wanted = wanted
        self.shown: set[str] = set()
        self.room = HELD_BYTES

    def take(self, name: str, value: Tensor) -> None:
        """Keeps a stage for comparison."""
        self.shown.add(name)
        if name in self.wanted and self.room > 0:
            self[name] = value.to(torch.float64, copy=True)
            self.room -= self[name].nbytes


def _batch(pixels: NDArray[np.float32], side: Side) -> Tensor:
    return torch.tensor(pixels, dtype=side.dtype)[None]


def _classifies(module: Any) -> bool:
    spec = getattr(module, "spec", module)
    return bool(getattr(spec, "num_classes", 0)) or type(module).__name__.endswith(CLASSIFIERS)
