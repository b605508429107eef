"""Labelled pictures from folders, CSV files, arrays, the bundled digits or a Dataset; every fault is said at once."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitkit.errors import ConfigError, DataError, list_faults, nearest
from vitkit.image.decode import Picture, describe
from vitkit.image.fetch import is_url
from vitkit.image.listing import EXTENSIONS, list_pictures

__all__ = [
    "Samples",
    "Splits",
    "check_trainable",
    "note_absent",
    "open_data",
    "read_arrays",
    "read_csv",
    "read_dataset",
    "read_digits",
    "read_folder",
]

logger = logging.getLogger("vitkit")

HELD_OUT = {"val": ("val", "valid", "validation"), "test": ("test",)}
"""The names by which folders beside train/ go."""


class MapDataset(Protocol):
    """What a map-style torch.utils.data.Dataset answers to."""

    def __getitem__(self, index: Any) -> Any: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Samples:
    """Pictures and the class of each, in a fixed order."""

    pictures: Sequence[Picture]
    labels: NDArray[np.int64]
    """[n], each in 0..K-1."""
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
        beyond = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.class_names)))
        faults += [f"label {self.labels[at]} of picture {at} isn't in 0..{len(self.class_names) - 1}" for at in beyond]
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
    def lazy(self) -> bool:
        """True where pictures come from a user's Dataset, which may be slow and may not bear several threads."""
        return isinstance(self.pictures, DatasetPictures)

    def counts(self) -> NDArray[np.int64]:
        """How many pictures each class has, [K]."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def describe(self, at: int) -> str:
        """The name of picture `at` for errors and reports: its path where it has one."""
        picture = None if self.lazy else self.pictures[at]
        return describe(picture) if isinstance(picture, str | os.PathLike) else f"{self.name}[{at}]"

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
        """Picture `at`; an error of the dataset itself passes through."""
        return self._dataset[int(self._indices[at])][0]

    def subset(self, indices: NDArray[np.int64]) -> DatasetPictures:
        """The pictures at `indices`, still unfetched."""
        return DatasetPictures(self._dataset, self._indices[indices])


def open_data(source: str | os.PathLike[str]) -> Samples | Splits:
    """The labelled pictures that `source` stands for, ready to be learnt from.

    "digits" are the bundled ones (./digits is a folder of that name); a file is a CSV file; a folder with train/ and
    val/ (or valid/, validation/), test/ or both is Splits; any other folder holds a folder per class and is Samples,
    for `split`.

    Raises DataError, all faults of a kind at once, and ConfigError where the digits aren't installed.
    """
    if source == "digits":
        return read_digits()
    path = Path(source)
    if path.is_file():
        samples = read_csv(path)
    elif not path.is_dir():
        raise DataError(f"{str(path)!r} isn't there; give a folder of class folders, a CSV file, or digits")
    else:
        parts = _find_parts(path)
        if parts:
            return _read_splits(path, parts)
        samples = read_folder(path)
    check_trainable(samples)
    return samples


def read_folder(path: str | os.PathLike[str]) -> Samples:
    """One folder per class, with that class's pictures in it and below; sorted classes, pictures as `list_pictures`."""
    folder = Path(path)
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} can't be listed: {error.strerror}; give a folder of class folders") from None
    if not any(entry.is_dir() for entry in entries):
        lists = [str(entry) for entry in entries if entry.suffix.lower() == ".csv"]
        remedy = f"; give {lists[0]} if that lists the labels" if lists else "; or list path and label in a CSV file"
        raise DataError(f"{folder} has no class folders; put each picture in the folder of its class{remedy}")
    rows: list[tuple[str, str]] = []
    faults = []
    for entry in entries:
        if entry.is_dir():
            try:
                rows += [(picture, entry.name) for picture in list_pictures([str(entry)])]
            except DataError as error:
                faults.append(str(error))
        elif entry.suffix.lower() in EXTENSIONS:
            faults.append(f"{entry.name!r} lies in no class folder")
    if faults:
        raise DataError(f"{folder}: {list_faults(faults)}")
    return _from_rows(rows, str(folder))


def read_csv(path: str | os.PathLike[str]) -> Samples:
    """A UTF-8 file with `path` and `label` in its header, other columns ignored; paths count from the file's folder.

    What the labels say become the class names, sorted; by value where all are digits.
    """
    file = Path(path)
    faults: list[str] = []
    rows: list[tuple[str, str]] = []
    lines: dict[str, int] = {}
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            for line, picture, label in _cells(file, text, faults):
                if picture in lines:
                    faults.append(f"line {line} lists {picture!r} again, after line {lines[picture]}")
                lines[picture] = line
                rows.append((str(file.parent / picture), label))
                if is_url(picture):
                    faults.append(f"line {line}: {picture!r} is a URL; download what is to be learnt from")
                elif not os.path.isfile(rows[-1][0]):  # noqa: PTH113 -- three times as fast
                    faults.append(f"line {line}: {rows[-1][0]!r} isn't there; paths count from the file's folder")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{file} isn't a CSV file in UTF-8 ({error}); save it as one, path,label in its header"
        ) from None
    except OSError as error:
        raise DataError(f"{file} can't be read: {error.strerror}; check the path and its permissions") from None
    if faults or not rows:
        faults = faults or ["it lists no picture; below its header goes one line for each, path,label"]
        raise DataError(f"{file}: {list_faults(faults)}")
    return _from_rows(rows, str(file))


def read_digits() -> Samples:
    """The 1,797 handwritten digits that scikit-learn bundles: uint8 [8, 8, 1], its 0..16 scaled to 0..255.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), its test part.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigError(
            "the digits come with scikit-learn, which isn't installed; pip install 'vitkit[train]'"
        ) from None
    bundle = load_digits()
    pixels = ((bundle.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)[..., None]
    return read_arrays(pixels, bundle.target, [str(digit) for digit in range(10)], name="digits")


def read_arrays(
    pictures: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
    labels: Sequence[int] | NDArray[Any],
    class_names: Sequence[str],
    *,
    name: str = "arrays",
) -> Samples:
    """Pictures already in memory: uint8 [n, H, W, C] or [n, H, W], or a sequence of [H, W, C] of any sizes."""
    wrong = [
        f"picture {at} is {describe(picture)}; give uint8 [H, W, C] or [H, W]"
        for at, picture in enumerate(pictures)
        if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim in (2, 3))
    ]
    if wrong:
        raise DataError(f"{name}: {list_faults(wrong)}")
    return Samples(tuple(pictures), _whole(labels, name), tuple(class_names), name)


def read_dataset(dataset: MapDataset, class_names: Sequence[str] | None = None, *, name: str = "dataset") -> Samples:
    """A map-style Dataset of (picture, label): a path, PIL image, uint8 array or tensor, before any random transform.

    Labels are its `targets` where it has them as torchvision's datasets do, else every item is fetched once. Names
    are `class_names`, else its `classes`, else the labels in digits. Pictures are fetched when they are needed.
    """
    targets = getattr(dataset, "targets", None)
    if targets is None or len(targets) != len(dataset):
        targets = [dataset[at][1] for at in range(len(dataset))]
    labels = _whole(targets, name)
    names = class_names or getattr(dataset, "classes", None)
    if names is None:
        names = [str(label) for label in range(int(labels.max(initial=-1)) + 1)]
    return Samples(DatasetPictures(dataset, np.arange(len(labels))), labels, tuple(map(str, names)), name)


def check_trainable(samples: Samples) -> None:
    """Raises DataError unless there are two classes or more and every one has a picture."""
    names, counts = samples.class_names, samples.counts()
    faults = []
    if len(names) < 2:
        faults.append(f"it has {len(names)} class ({', '.join(names)}); learning to tell needs two or more")
    if 0 < len(samples) < len(names):
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


def _find_parts(path: Path) -> dict[str, Path]:
    """Part -> folder, of train and what is held out; nothing where the folder isn't split."""
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = {part: [name for name in names if name in folders] for part, names in HELD_OUT.items()}
    if "train" not in folders or not any(found.values()):
        return {}
    if len(found["val"]) > 1:
        raise DataError(f"{path} holds {' and '.join(found['val'])}; which one is held out? Keep one of them")
    parts = {"train": path / "train"} | {part: path / names[0] for part, names in found.items() if names}
    others = [name for name in folders if path / name not in parts.values()]
    if others:
        logger.warning("%s is split into train and held out; other folders aren't read: %s", path, list_faults(others))
    return parts


def _read_splits(path: Path, parts: dict[str, Path]) -> Splits:
    read: dict[str, Samples] = {}
    faults = []
    for part, folder in parts.items():
        try:
            read[part] = read_folder(folder)
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError(list_faults(faults))
    known = read["train"].class_names
    strangers = [
        f"{parts[part].name}/{name}{nearest(name, known)}"
        for part, samples in read.items()
        for name in samples.class_names
        if name not in known
    ]
    if strangers:
        raise DataError(f"{path}: classes that aren't in train: {list_faults(strangers)}; give each the same folders")
    under = {part: _under(samples, known) for part, samples in read.items()}
    splits = Splits(under["train"], under.get("val"), under.get("test"))
    note_absent(splits)
    return splits


def _under(samples: Samples, class_names: tuple[str, ...]) -> Samples:
    """The same pictures, labelled among `class_names`."""
    table = np.array([class_names.index(name) for name in samples.class_names])
    return Samples(samples.pictures, table[samples.labels], class_names, samples.name)


def _from_rows(rows: Sequence[tuple[str, str]], name: str) -> Samples:
    """Samples of (picture, class) rows."""
    pictures, texts = zip(*rows, strict=True)
    class_names = tuple(_sorted(set(texts)))
    label = {text: at for at, text in enumerate(class_names)}
    return Samples(pictures, np.array([label[text] for text in texts], np.int64), class_names, name)


def _sorted(texts: Iterable[str]) -> list[str]:
    """By name, or by value where all are digits: "10" comes after "9"."""
    names = sorted(texts)
    return sorted(names, key=int) if all(name.isascii() and name.isdecimal() for name in names) else names


def _cells(file: Path, text: Iterator[str], faults: list[str]) -> Iterator[tuple[int, str, str]]:
    """Yields (line, path, label) of each whole row; notes the others in `faults`."""
    reader = csv.reader(text, skipinitialspace=True, strict=True)
    header = [name.strip() for name in next(reader, [])]
    for column in ("path", "label"):
        if header.count(column) != 1:
            raise DataError(
                f"{file} has {header.count(column)} columns {column!r} in its header ({', '.join(header)})"
                f"{nearest(column, header)}; one path and one label are needed, separated by commas"
            )
    for cells in reader:
        row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        if cells and len(cells) != len(header):
            faults.append(
                f"line {reader.line_num} has {len(cells)} cells under {len(header)} columns (a comma needs quotes)"
            )
        elif cells and not (row["path"] and row["label"]):
            faults.append(f"line {reader.line_num} has no {'label' if row['path'] else 'path'}")
        elif cells:
            yield reader.line_num, row["path"], row["label"]


def _whole(labels: Sequence[Any] | NDArray[Any], name: str) -> NDArray[np.int64]:
    values = np.asarray(labels)
    if values.size and (values.dtype.kind not in "iu" or values.ndim != 1):
        raise DataError(f"{name}: labels are {values.dtype} {list(values.shape)}; give one whole number per picture")
    return values.astype(np.int64)
