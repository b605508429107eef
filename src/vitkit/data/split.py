"""A stratified split that depends on the pictures' bytes and the seed alone, and never tears equal pictures apart."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from vitkit.data.digests import digest_of
from vitkit.data.keys import uniform
from vitkit.data.samples import Samples, Splits, check_trainable, note_absent
from vitkit.errors import ConfigError, DataError, ImageError, list_faults

__all__ = ["check_fractions", "digest_pictures", "split", "thin"]


def split(data: Samples | Splits, *, val_fraction: float = 0.2, seed: int = 0) -> Splits:
    """Holds out `val_fraction` of each class's pictures, drawn by (seed, content); Splits that have a `val` keep it.

    Pictures whose bytes are equal stay on one side. Those that stand under several classes are learnt from and never
    held out: no answer to them could be right. A class is on both sides where at least two different pictures bear it
    and one of them bears no other; else it is only in train, which is logged. Of several labels, pictures of equal
    bytes must bear the same ones, and a class may be off its fraction by what rarer ones chose. Neither file names nor
    their order matter, and adding pictures moves few others.

    Raises DataError for files that can't be read, and as `Splits`; ConfigError for a fraction outside 0..1.
    """
    check_fractions(val_fraction, None)
    if isinstance(data, Splits):
        if data.val is not None:
            return data
        return replace(split(data.train, val_fraction=val_fraction, seed=seed), test=data.test)
    samples = data
    check_trainable(samples)
    digests = digest_pictures(samples)
    # What the digest says, shortened to the 64 bits that a key has.
    words = np.array([int.from_bytes(digest[:8], "little", signed=True) for digest in digests], np.int64)
    draws = uniform(seed, 0, words, "split")
    bearers: dict[bytes, list[int]] = {}
    for at, digest in enumerate(digests):
        bearers.setdefault(digest, []).append(at)
    groups = sorted(bearers.values(), key=lambda group: (draws[group[0]], digests[group[0]]))
    inside = np.zeros(len(samples), bool)
    inside[_held_out(groups, _memberships(samples), val_fraction)] = True
    if not inside.any():
        raise DataError(f"{samples.name} has no two different pictures of any class, so none can be held out; add some")
    train = samples.subset(np.flatnonzero(~inside), f"{samples.name} (train)")
    splits = Splits(train, samples.subset(np.flatnonzero(inside), f"{samples.name} (held out)"))
    note_absent(splits)
    return splits


def check_fractions(val_fraction: float | None, train_fraction: float | None) -> None:
    """Raises ConfigError for a part to hold out, or to learn from, that is none."""
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise ConfigError(f"val_fraction is {val_fraction}; give a fraction between 0 and 1, both excluded")
    if train_fraction is not None and not 0 < train_fraction <= 1:
        raise ConfigError(f"train_fraction is {train_fraction}; give a fraction above 0, and at most 1")


def thin(samples: Samples, fraction: float, *, seed: int = 0) -> Samples:
    """A part of each class's pictures, at least one, drawn by (seed, place); it lies within every larger part.

    Raises ConfigError for a fraction that isn't above 0 and at most 1.
    """
    check_fractions(None, fraction)
    bearers: dict[int, list[int]] = {}
    order = np.argsort(uniform(seed, 0, np.arange(len(samples)), "thin"))
    memberships = _memberships(samples)
    for at in order.tolist():
        for label in memberships[at]:
            bearers.setdefault(label, []).append(at)
    kept = {at for places in bearers.values() for at in places[: max(1, round(fraction * len(places)))]}
    return samples.subset(np.array(sorted(kept), np.int64), samples.name)


def _memberships(samples: Samples) -> list[tuple[int, ...]]:
    """The classes of each picture; bearing none is a class of its own, K."""
    if not samples.multi_label:
        return [(label,) for label in samples.labels.tolist()]
    return [tuple(np.flatnonzero(row).tolist()) or (samples.num_classes,) for row in samples.labels]


def _held_out(groups: list[list[int]], classes: list[tuple[int, ...]], fraction: float) -> list[int]:
    """The pictures to hold out, of groups of equal ones: of each class its fraction, the rarest class choosing first.

    With one label each the classes don't meet. With several this is the order of Sechidis, Tsoumakas and Vlahavas, On
    the Stratification of Multi-Label Data (2011): what a rare class needs is settled before a frequent one takes it.
    """
    count = Counter(label for labels in classes for label in labels)
    pure: dict[int, list[list[int]]] = {label: [] for label in count}
    for group in groups:
        if len({classes[at] for at in group}) == 1:
            for label in classes[group[0]]:
                pure[label].append(group)
    held: Counter[int] = Counter()
    settled: set[int] = set()  # the first of each group whose side is known
    chosen: list[int] = []
    for label in sorted(count, key=lambda label: (len(pure[label]), label)):
        wanted = min(max(1, round(fraction * count[label])), count[label] - 1)
        open_groups = [group for group in pure[label] if group[0] not in settled]
        smallest = min(map(len, open_groups), default=0)
        for group in open_groups:
            room = wanted - held[label] if held[label] or smallest <= wanted else smallest
            # Of no class may all pictures be held out.
            if len(group) <= room and all(held[each] + len(group) < count[each] for each in classes[group[0]]):
                held.update({each: len(group) for each in classes[group[0]]})
                chosen += group
            settled.add(group[0])
    return chosen


def digest_pictures(samples: Samples) -> list[bytes]:
    """The SHA-256 of each picture's bytes, in order. DataError names all that can't be read."""
    faults: list[str] = []

    def digest(at: int) -> bytes:
        try:
            return digest_of(samples.pictures[at])
        except (OSError, ImageError) as error:
            faults.append(f"{samples.describe(at)} ({getattr(error, 'strerror', None) or error})")
            return b""

    with ThreadPoolExecutor(1 if samples.lazy else 8) as pool:
        digests = list(pool.map(digest, range(len(samples))))
    if faults:
        raise DataError(f"{samples.name}: {len(faults)} pictures can't be read: {list_faults(sorted(faults))}")
    return digests
