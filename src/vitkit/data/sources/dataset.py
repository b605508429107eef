"""A user's own map-style Dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vitkit.data.samples import DatasetPictures, MapDataset, Samples, as_labels

__all__ = ["read_dataset"]


def read_dataset(dataset: MapDataset, class_names: Sequence[str] | None = None, *, name: str = "dataset") -> Samples:
    """A map-style Dataset of (picture, label): a path, PIL image, uint8 array or tensor, before any random transform.

    A label is a whole number, or of several 0 or 1 for each class. They are the dataset's `targets` where it has them
    as torchvision's do and no transform changes them, else every item is fetched once. Names are `class_names`, else
    its `classes`, else the labels in digits. Pictures are fetched when they are needed.
    """
    targets = getattr(dataset, "targets", None)
    if targets is None or len(targets) != len(dataset) or _changes_targets(dataset):
        targets = [dataset[at][1] for at in range(len(dataset))]
    labels = as_labels(targets, name)
    names = class_names or getattr(dataset, "classes", None)
    if names is None:
        names = list(map(str, range(labels.shape[1] if labels.ndim == 2 else int(labels.max(initial=-1)) + 1)))
    return Samples(DatasetPictures(dataset, np.arange(len(labels))), labels, tuple(map(str, names)), name)


def _changes_targets(dataset: MapDataset) -> bool:
    """Whether a transform may: torchvision keeps one of pictures and targets together as `transforms` alone."""
    together = getattr(dataset, "transforms", None) is not None and getattr(dataset, "transform", None) is None
    return together or getattr(dataset, "target_transform", None) is not None
