"""Labelled pictures, wherever they come from (`data/sources`), and their split; every fault is said at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitkit.errors import DataError, ImageError, list_faults
from vitkit.image.decode import Blob, Picture, describe

__all__ = [
    "DatasetPictures",
    "MapDataset",
    "Samples",
    "Splits",
    "as_labels",
    "check_trainable",
    "note_absent",
]

logger = logging.getLogger("vitkit")


class MapDataset(Protocol):
    """What a map-style torch.utils.data.Dataset answers to."""

    def __getitem__(self, index: Any) -> Any: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Samples:
    """Pictures and the class of each, or the classes of each (multi-label), in a fixed order."""

    pictures: Sequence[Picture]
    labels: NDArray[Any]
    """int64 [n], each in 0..K-1; of several labels bool [n, K], True for each class that a picture bears."""
    class_names: tuple[str, ...]
    """[K]."""
    name: str
    """Where they come from, for errors and reports."""

    def __post_init__(self) -> None:
        faults = []
        if len(self.pictures) != len(self.labels):
            faults.append(f"there are {len(self.pictures)} pictures and {len(self.labels)} labels")
        if len(set(self.class_names)) != len(self.class_names):
            faults.append(f"class names repeat: {', '.join(self.class_names)}")
        if not self.multi_label:
            beyond = np.flatnonzero((self.labels < 0) | (self.labels >= self.num_classes))
            faults += [f"label {self.labels[at]} of picture {at} isn't in 0..{self.num_classes - 1}" for at in beyond]
        elif self.labels.shape[1] != self.num_classes:
            faults.append(f"the labels have {self.labels.shape[1]} columns and there are {self.num_classes} classes")
        if faults:
            raise DataError(f"{self.name}: {list_faults(faults)}")

    def __len__(self) -> int:
        """n."""
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def multi_label(self) -> bool:
        """Whether a picture bears any number of classes."""
        return self.labels.ndim == 2

    @property
    def lazy(self) -> bool:
        """True where pictures come from a user's Dataset, which may be slow and may not bear several threads."""
        return isinstance(self.pictures, DatasetPictures)

    @property
    def held_bytes(self) -> int:
        """How many bytes of pictures it holds in memory, which each worker process would copy."""
        if isinstance(self.pictures, DatasetPictures):
            return 0
        return sum(_held_bytes(picture) for picture in self.pictures)

    def counts(self) -> NDArray[np.int64]:
        """How many pictures bear each class, int64 [K]."""
        if self.multi_label:
            return np.asarray(self.labels.sum(axis=0), np.int64)
        return np.bincount(self.labels, minlength=self.num_classes)

    def classes_of(self, at: int) -> NDArray[np.int64]:
        """The classes that picture `at` bears."""
        return np.flatnonzero(self.labels[at]) if self.multi_label else self.labels[at : at + 1]

    def label_text(self, at: int) -> str:
        """The names of the classes that picture `at` bears, with " | " between several; "none" for none."""
        return " | ".join(self.class_names[label] for label in self.classes_of(at)) or "none"

    def describe(self, at: int) -> str:
        """The name of picture `at` for errors and reports: its path where it has one."""
        picture = None if self.lazy else self.pictures[at]
        return describe(picture) if isinstance(picture, str | os.PathLike | Blob) else f"{self.name}[{at}]"

    def subset(self, indices: NDArray[np.int64], name: str) -> Samples:
        """The pictures at `indices`, in that order, with all class names."""
        if isinstance(self.pictures, DatasetPictures):
            return Samples(self.pictures.subset(indices), self.labels[indices], self.class_names, name)
        return Samples(tuple(self.pictures[at] for at in indices), self.labels[indices], self.class_names, name)


@dataclass(frozen=True, eq=False)
class Splits:
    """Pictures to learn from and pictures held out, under the same classes; a class in train may be absent elsewhere.

    `val` is read on the way; where it is None, `split` takes it from train. `test` is read once, at the end.
    Raises DataError where class names differ, where train isn't fit to learn from, or where a held-out part is empty.
    """

    train: Samples
    val: Samples | None
    test: Samples | None = None

    def __post_init__(self) -> None:
        check_trainable(self.train)
        known = self.train.class_names
        faults = []
        for part in self.held_out():
            if part.class_names != known:
                only = [repr(name) for name in part.class_names if name not in known]
                said = f"holds classes that train doesn't: {list_faults(only)}" if only else "orders them differently"
                faults.append(f"class names of {part.name} aren't those of {self.train.name}: it {said}")
            elif not len(part):
                faults.append(f"{part.name} holds no picture; at least one must be held out")
        if faults:
            raise DataError(list_faults(faults))

    def held_out(self) -> list[Samples]:
        """Those there are of val and test."""
        return [part for part in (self.val, self.test) if part is not None]


class DatasetPictures(Sequence[Picture]):
    """The pictures of a user's Dataset, fetched when asked for."""

    def __init__(self, dataset: MapDataset, indices: NDArray[np.int64]) -> None:
        self._dataset = dataset
        self._indices = indices

    def __len__(self) -> int:
        """n."""
        return len(self._indices)

    def __getitem__(self, at: Any) -> Any:
        """Picture `at`; ImageError where the dataset doesn't give it."""
        item = int(self._indices[at])
        try:
            return self._dataset[item][0]
        except Exception as error:  # a user's Dataset raises what it likes
            said = " ".join(str(error).split())
            raise ImageError(f"item {item} of the dataset can't be fetched ({type(error).__name__}: {said})") from error

    def subset(self, indices: NDArray[np.int64]) -> DatasetPictures:
        """The pictures at `indices`, still unfetched."""
        return DatasetPictures(self._dataset, self._indices[indices])


def _held_bytes(picture: Picture) -> int:
    if isinstance(picture, Blob):
        return picture.held_bytes
    if isinstance(picture, bytes):
        return len(picture)
    return picture.nbytes if isinstance(picture, np.ndarray) else 0


def check_trainable(samples: Samples) -> None:
    """Raises DataError unless every class has a picture, and there are two classes or more (of several labels one)."""
    names, counts = samples.class_names, samples.counts()
    faults = []
    if len(names) < (1 if samples.multi_label else 2):
        faults.append(f"it has {len(names)} class ({', '.join(names)}); learning to tell needs two or more")
    if 0 < len(samples) < len(names) and not samples.multi_label:
        faults.append(f"it has fewer pictures ({len(samples)}) than classes ({len(names)})")
    absent = [repr(name) for name, count in zip(names, counts, strict=True) if not count]
    if absent:
        faults.append(f"no picture of class {list_faults(absent)}; add some, or leave the class out")
    if faults:
        raise DataError(f"{samples.name}: {list_faults(faults)}")


def note_absent(splits: Splits) -> None:
    """Logs which classes can't be judged because no picture of theirs is held out."""
    for part in splits.held_out():
        absent = [name for name, count in zip(part.class_names, part.counts(), strict=True) if not count]
        if absent:
            logger.warning("%s holds no picture of class %s: they are only learnt", part.name, list_faults(absent))


def as_labels(labels: Sequence[Any] | NDArray[Any], name: str) -> NDArray[Any]:
    """Labels as Samples has them: from whole numbers [n], or from 0 and 1 (or booleans) [n, K] for several labels."""
    values = np.asarray(labels)
    if values.ndim == 2 and np.isin(values, (0, 1)).all():
        return values.astype(bool)
    if values.size and (values.dtype.kind not in "iu" or values.ndim != 1):
        raise DataError(
            f"{name}: labels are {values.dtype} {list(values.shape)}; give one whole number per picture, "
            "or 0 and 1 for each class"
        )
    return values.astype(np.int64)
