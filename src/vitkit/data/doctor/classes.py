"""Names and numbers of classes: what is missing, misspelt, rare."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from vitkit.data.doctor.findings import Finding
from vitkit.data.doctor.survey import Survey
from vitkit.errors import nearest

__all__ = ["check_classes", "spelt_alike"]

FEW = 5
"""Pictures to learn a class from."""
UNEVEN = 10
"""How many times the smallest class's pictures the largest has."""
SHORTEST = 5
"""Letters: shorter names that differ in one are rarely misspellings."""
RARER = 5
"""How many times as many pictures the right spelling has at least."""


def check_classes(survey: Survey) -> list[Finding]:
    """What the names and numbers of classes tell, part by part."""
    return [*_names(survey), *_parts(survey), *_sizes(survey)]


def spelt_alike(names: Sequence[str]) -> list[list[str]]:
    """Groups of names that differ in case, spaces, hyphens, dots or underscores alone; single letters don't count."""
    groups = defaultdict(list)
    for name in names:
        if len(name) > 1:
            groups[re.sub(r"[\s_.\-]+", "", name.casefold())].append(name)
    return [group for folded, group in groups.items() if folded and len(group) > 1]


def _names(survey: Survey) -> Iterator[Finding]:
    samples = survey.samples
    count = dict(zip(samples.class_names, samples.counts().tolist(), strict=True))
    if len(count) < (1 if samples.multi_label else 2):  # as `check_trainable`
        yield Finding("classes", f"{samples.name} has {len(count)} class ({', '.join(count)})")
    for group in spelt_alike(samples.class_names):
        told = " and ".join(f"{name!r} ({_pictures(count[name])})" for name in group)
        yield Finding("spelling", f"{told} look like one name")
    for left, right in _one_letter_apart(samples.class_names):
        rare, usual = sorted((left, right), key=lambda name: count[name])
        if RARER * count[rare] <= count[usual]:
            yield Finding(
                "typo", f"{rare!r} ({_pictures(count[rare])}) is one letter away from {usual!r} ({count[usual]:,})"
            )


def _one_letter_apart(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names of which one becomes the other by a letter more, less, other or moved; numbers are no letters.

    Such names are equal once each has lost one letter or none (W. Garbe's SymSpell, 2012): no pair is compared
    with every other.
    """
    left_over = defaultdict(list)
    for name in names:
        if len(name) >= SHORTEST:
            folded = name.casefold()
            for rest in {folded, *(folded[:at] + folded[at + 1 :] for at in range(len(folded)))}:
                left_over[rest].append(name)
    pairs = {(a, b) for group in left_over.values() for a in group for b in group if a < b}
    alike = {name: number for number, group in enumerate(spelt_alike(names)) for name in group}
    return sorted((a, b) for a, b in pairs if _digits(a) == _digits(b) and (alike.get(a, -1) != alike.get(b, -2)))


def _digits(name: str) -> str:
    return re.sub(r"\D", "", name)


def _parts(survey: Survey) -> Iterator[Finding]:
    """Classes that stand on one side of the split alone."""
    names = survey.samples.class_names
    learnt, *held_out = survey.counts()
    known = [name for name, count in zip(names, learnt, strict=True) if count]
    for part, counts in enumerate(held_out, start=1):
        for name, here, there in zip(names, counts.tolist(), learnt.tolist(), strict=True):
            if here and not there:
                hint = nearest(name, known)
                yield Finding(
                    "stranger", f"{survey.part_names[part]} has class {name!r} ({_pictures(here)}), train hasn't{hint}"
                )
            elif there and not here:
                yield Finding("absent", f"{survey.part_names[part]} has no picture of class {name!r}, train {there:,}")


def _sizes(survey: Survey) -> Iterator[Finding]:
    names, counts = survey.samples.class_names, survey.counts()[0]
    sizes = sorted((int(count), name) for name, count in zip(names, counts, strict=True) if count)
    for count, name in sizes:
        if count < FEW:
            yield Finding("few", f"class {name!r} has {_pictures(count)} to learn from")
    if sizes and sizes[-1][0] >= UNEVEN * sizes[0][0]:
        (least, rare), (most, usual) = sizes[0], sizes[-1]
        times = f"{most / least:.0f} times as many"
        yield Finding("imbalance", f"{usual!r} has {most:,} pictures to learn from, {rare!r} {least:,}: {times}")


def _pictures(count: int) -> str:
    return f"{count:,} picture" if count == 1 else f"{count:,} pictures"
