"""The answer to "why?" for one picture: its map, the class explained, and the PNG that shows both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.errors import ConfigError, ImageError, nearest
from vitkit.explain.maps import explain
from vitkit.explain.overlay import draw_pair, overlay
from vitkit.files import replace_file, writing
from vitkit.image.decode import Picture, Pixels, decode, describe
from vitkit.image.preprocess import Preprocess, apply
from vitkit.model.base import ImageModel

__all__ = [
    "Card",
    "Explanation",
    "check_png",
    "explain_picture",
    "explain_pixels",
    "find_class",
    "preprocess_of",
    "read_pixels",
    "restore",
    "visible",
]


class Card(Protocol):
    """What is asked of a checkpoint's card."""

    @property
    def preprocess(self) -> Preprocess | None: ...

    @property
    def class_names(self) -> tuple[str, ...] | None: ...

    @property
    def scores(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Explanation:
    """Which patches of a picture an answer rests on."""

    map: NDArray[np.float32]
    """[h, w] over the patches, row by row, >= 0, summing to 1; all equal where nothing stands out."""
    method: str
    """What was computed, in words."""
    picture: Pixels
    """uint8 [H, W, C] as the model saw it: resized and cropped."""
    index: int | None = None
    """The class explained, or None for a model without a head."""
    class_name: str | None = None
    """Its name; its index in digits where the checkpoint names no classes."""
    probability: float | None = None
    """The class's probability."""

    @property
    def caption(self) -> str:
        """One line: the class, its probability, and what the map shows."""
        return f"{self._title}: {self.method}"

    def overlay(self) -> Pixels:
        """The map in colours over the picture, uint8 RGB [H', W', 3], its shortest side at least 224 pixels."""
        return overlay(self.picture, self.map)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Writes a PNG, whole or not at all: the picture, the overlay beside it, the caption below."""
        check_png(file)
        image = draw_pair(self.picture, self.map, self._title, self.method)
        with writing(file), replace_file(file) as part:
            image.save(part, format="PNG", optimize=True)

    @property
    def _title(self) -> str:
        if self.class_name is None or self.probability is None:
            return "embedding"
        return f"{self.class_name}, {100 * self.probability:.1f} %"


def explain_picture(
    module: ImageModel,
    card: Card,
    picture: Picture,
    *,
    target: int | str | None = None,
    method: str = "auto",
    allow_urls: bool = True,
) -> Explanation:
    """Why `module` answers as it does: `target` is a class's name or index, None the predicted class.

    `card` says how pictures become pixels and what the classes are called. Methods and errors as `maps.explain`;
    ImageError for a picture that can't be used.
    """
    pixels = read_pixels(card, picture, allow_urls=allow_urls)
    return explain_pixels(module, card, pixels, target=target, method=method)[0]


def explain_pixels(
    module: ImageModel,
    card: Card,
    pixels: Tensor,
    *,
    target: int | str | Sequence[int] | None = None,
    method: str = "auto",
) -> list[Explanation]:
    """As `explain_picture`, for a batch of normalised pixels [B, C, H, W]; `target` may be a class for each."""
    preprocess = preprocess_of(card)
    if isinstance(target, str):
        target = find_class(target, card.class_names, module.spec.num_classes)
    maps = explain(module, pixels, target=target, method=method)
    found = []
    for row, values in enumerate(maps.values):
        picture = visible(preprocess, pixels[row])
        if maps.targets is None:
            found.append(Explanation(values, maps.method, picture))
            continue
        index = int(maps.targets[row])
        name = card.class_names[index] if card.class_names else str(index)
        chance = _probability(maps.outputs[row], index, card.scores)
        found.append(Explanation(values, maps.method, picture, index, name, chance))
    return found


def read_pixels(card: Card, picture: Picture, *, allow_urls: bool = True) -> Tensor:
    """One picture as the model takes it, normalised: float32 [1, C, H, W]. ImageError for one that can't be used."""
    preprocess = preprocess_of(card)
    rgb = decode(picture, channels=preprocess.channels, value_range=preprocess.value_range, allow_urls=allow_urls)
    try:
        return torch.from_numpy(apply(preprocess, rgb))[None]
    except ImageError as error:
        raise ImageError(f"{describe(picture)}: {error}") from None


def find_class(text: str, class_names: Sequence[str] | None, num_classes: int) -> int:
    """The index of the class called `text`: a whole name, one of its synonyms ("tench, Tinca tinca"), or an index.

    Upper and lower case are alike. Raises ConfigError naming what is nearest, or all that are meant.
    """
    names = [name.casefold() for name in class_names or ()]
    wanted = text.strip().casefold()
    whole = [index for index, name in enumerate(names) if name == wanted]
    part = [index for index, name in enumerate(names) if wanted in (word.strip() for word in name.split(","))]
    for found in (whole, part):
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"class {text!r} is the name of the classes {', '.join(map(str, found))}; give an index")
    if wanted.isdecimal() and int(wanted) < num_classes:
        return int(wanted)
    words = [word.strip() for name in class_names or () for word in name.split(",")]
    allowed = f"a class name or an index from 0 to {num_classes - 1}" if num_classes else "none: there is no head"
    raise ConfigError(f"class {text!r} is unknown; allowed: {allowed}{nearest(text, words)}")


def restore(preprocess: Preprocess, pixels: Tensor) -> Pixels:
    """Normalised pixels [C, H, W] as uint8 [H, W, C]: those they came from, rounded where these were deeper."""
    mean, std = (
        torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (preprocess.mean, preprocess.std)
    )
    unit = pixels.detach().cpu().double() * std + mean
    return (unit * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def visible(preprocess: Preprocess, pixels: Tensor) -> Pixels:
    """As `restore`; of other than 1 or 3 channels, which no picture can show, their mean, [H, W, 1]."""
    picture = restore(preprocess, pixels)
    if picture.shape[2] not in (1, 3):
        picture = np.asarray(picture.mean(axis=2, keepdims=True).round(), np.uint8)
    return picture


def check_png(file: str | os.PathLike[str]) -> None:
    """Raises ConfigError for a file name that isn't a PNG's."""
    if not os.fspath(file).lower().endswith(".png"):
        raise ConfigError(f"can't write {os.fspath(file)!r}: drawings are PNG files; let its name end in .png")


def preprocess_of(card: Card) -> Preprocess:
    """The card's preprocessing; ConfigError where it has none."""
    if card.preprocess is None:
        raise ConfigError("the model's preprocessing is unknown; load it with preprocess=vitkit.Preprocess(...)")
    return card.preprocess


def _probability(logits: NDArray[np.float32], index: int, scores: str) -> float:
    """In float64, as the Predictor's."""
    values = logits.astype(np.float64)
    if scores == "sigmoid":
        return float(np.exp(-np.logaddexp(0, -values[index])))
    chances = np.exp(values - values.max())
    return float(chances[index] / chances.sum())
