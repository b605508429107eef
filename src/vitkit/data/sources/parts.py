"""The parts of data that come split: their names, and one order of classes for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from vitkit.data.samples import Samples, Splits, note_absent
from vitkit.errors import DataError, list_faults, nearest

__all__ = ["HELD_OUT", "PART_NAMES", "join_parts", "read_parts"]

HELD_OUT = {"val": ("val", "valid", "validation"), "test": ("test",)}
"""The names by which parts beside train go."""

PART_NAMES = {"train": "train"} | {word: part for part, words in HELD_OUT.items() for word in words}
"""Every name of a part to the part."""


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
