"""What a checkpoint says beside its weights: preprocessing, class names, scores, provenance."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Literal

from vitkit.image.preprocess import Preprocess

__all__ = ["Card", "Provenance", "imagenet1k"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where weights come from."""

    source: str
    """A Hub id with its commit, or the name of the file or folder read."""
    layout: str
    """The name table that read them, or "vitkit"."""
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """Everything an answer depends on that isn't a weight. Carried by a loaded module as `.card`."""

    preprocess: Preprocess | None = None
    class_names: tuple[str, ...] | None = None
    class_ids: tuple[str, ...] | None = None
    """Identifiers such as WordNet ids, one per class, where the classes have them."""
    scores: Literal["softmax", "sigmoid"] = "softmax"
    """How logits become probabilities: one class per picture, or any number."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    provenance: Provenance | None = None
    tokenizer: Mapping[str, bytes] = field(default_factory=dict, repr=False, metadata={"aside": True})
    """The files of a text tower's tokenizer: name to content. In a folder they lie beside the weights."""

    def without_classes(self) -> Card:
        """The card of the same weights under another head."""
        return dataclasses.replace(self, class_names=None, class_ids=None, metrics={})


@functools.cache
def imagenet1k() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """WordNet ids and names of ImageNet-1k's classes, in the order of the outputs. Source: WordNet 3.0, see NOTICE."""
    text = (resources.files("vitkit.checkpoint") / "imagenet1k.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()]
    return tuple(wnid for wnid, _ in rows), tuple(name for _, name in rows)
