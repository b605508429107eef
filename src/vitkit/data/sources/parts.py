"""The parts of data that come split: their names, and one order of classes for all."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vitkit.data.samples import Samples, Splits, note_absent
from vitkit.errors import DataError, list_faults, nearest

__all__ = ["PARTS", "group_files", "is_split", "join_parts", "name_parts", "part_of", "read_parts"]

logger = logging.getLogger("vitkit")

PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Each part to the words for it, in any case."""
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""One word of a file's name, such as those of cifar10_train.tar and of cifarTrain.tar."""


def part_of(word: str) -> str | None:
    """The part that `word` means; None for any other word."""
    return next((part for part, words in PARTS.items() if word.casefold() in words), None)


def is_split(names: Iterable[str]) -> bool:
    """Whether train and something held out are among `names`."""
    return {part_of(name) for name in names} - {None} > {"train"}


def name_parts(source: str, names: Iterable[str]) -> dict[str, str]:
    """Part -> the one of `names` that means it, train first; the names of no part are logged.

    Raises DataError where two names mean the same part.
    """
    found: dict[str | None, list[str]] = {part: [] for part in (*PARTS, None)}
    for name in sorted(names):
        found[part_of(name)].append(name)
    others = found.pop(None)
    twice = [" and ".join(several) for several in found.values() if len(several) > 1]
    if twice:
        raise DataError(f"{source} holds {list_faults(twice)}; which one is meant? Keep one of them")
    if others:
        logger.warning("%s is split into parts; what is in none of them isn't read: %s", source, list_faults(others))
    return {part: several[0] for part, several in found.items() if part and several}


def group_files(source: str, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Part -> those of `files` whose names hold a word for it; all are train where the names tell nothing apart.

    Raises DataError where a name holds words for two parts, or none beside others that do and aren't split.
    """
    groups: dict[str, list[Path]] = {}
    faults = []
    for file in files:
        words = [word for word in map(str.casefold, WORD.findall(file.name)) if part_of(word)]
        if len({part_of(word) for word in words}) > 1:
            faults.append(f"{file.name} is called {' and '.join(words)}")
        groups.setdefault(words[0] if words else "", []).append(file)
    if len(files) < 2 or (len(groups) == 1 and not faults):
        return {"train": list(files)}
    others = [file.name for file in groups.pop("", [])]
    if others and not is_split(groups):
        faults += [f"{name} is of no part, beside files of {' and '.join(groups)}" for name in others]
    if faults:
        raise DataError(f"{source}: {list_faults(faults)}; name each file after one part: {', '.join(PARTS)}")
    return {part: groups[word] for part, word in name_parts(source, [*groups, *others]).items()}


def read_parts(name: str, readers: Mapping[str, Callable[[], Samples]]) -> Samples | Splits:
    """What each part's reader gives, joined; train alone isn't split. DataError with the faults of all parts."""
    read: dict[str, Samples] = {}
    faults = [] if "train" in readers else [f"{name} holds {', '.join(readers) or 'nothing'}, and no part called train"]
    for part, reader in readers.items():
        try:
            read[part] = reader()
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError(list_faults(faults))
    return read["train"] if len(read) == 1 else join_parts(name, read, {part: f"{part}: " for part in read})


def join_parts(name: str, read: Mapping[str, Samples], spelt: Mapping[str, str]) -> Splits:
    """The parts (train and val, test or both) under train's classes; a class only others have is an error.

    `spelt` is how the source writes each part, before a class's name.
    """
    known = read["train"].class_names
    strangers = [
        f"{spelt[part]}{label}{nearest(label, known)}"
        for part, samples in read.items()
        for label in samples.class_names
        if label not in known
    ]
    if strangers:
        raise DataError(f"{name}: classes that aren't in train: {list_faults(strangers)}; give each the same classes")
    under = {part: _under(samples, known) for part, samples in read.items()}
    splits = Splits(under["train"], under.get("val"), under.get("test"))
    note_absent(splits)
    return splits


def _under(samples: Samples, class_names: tuple[str, ...]) -> Samples:
    """The same pictures, labelled among `class_names`."""
    table = np.array([class_names.index(name) for name in samples.class_names], np.int64)
    if samples.multi_label:
        labels = np.zeros((len(samples), len(class_names)), bool)
        labels[:, table] = samples.labels
    else:
        labels = table[samples.labels]
    return Samples(samples.pictures, labels, class_names, samples.name)
