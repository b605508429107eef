"""What a check can find, as one table of kinds: what each means, how much it matters, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["KINDS", "Finding", "Kind"]


@dataclass(frozen=True)
class Kind:
    """One kind of finding."""

    level: Literal["fault", "suspicion", "note"]
    """A fault is certain and spoils training or its scores; a suspicion wants a look; a note is good to know."""
    title: str
    advice: str


@dataclass(frozen=True)
class Finding:
    """One thing found."""

    kind: str
    """A key of KINDS."""
    message: str
    """What and where, in one line."""
    pictures: tuple[int, ...] = ()
    """Positions of the pictures it is about."""
    class_name: str | None = None
    """The class that a suspected label should rather be."""


KINDS: Mapping[str, Kind] = {
    "unreadable": Kind("fault", "Files that can't be read", "Replace or remove them."),
    "tiny": Kind("fault", "Pictures of hardly any pixels", "Replace or remove them."),
    "loose": Kind("fault", "Pictures in no class folder", "Put each into the folder of its class."),
    "empty_class": Kind("fault", "Class folders without pictures", "Add pictures, or remove the folder."),
    "classes": Kind("fault", "Too few classes", "Learning to tell needs two or more."),
    "spelling": Kind(
        "fault", "Class names that differ in case, spaces or punctuation alone", "Merge them under one name."
    ),
    "stranger": Kind("fault", "Held-out classes that train doesn't have", "Give every part the same classes."),
    "absent": Kind("fault", "Classes with nothing held out", "Move some of their pictures there."),
    "same_across_parts": Kind(
        "fault", "The same file to learn from and held out", "Keep each in one part: scores would flatter."
    ),
    "same_across_classes": Kind(
        "fault", "The same file under several classes", "Decide which class it is, and remove the others."
    ),
    "same": Kind("suspicion", "The same file more than once", "Keep one of each."),
    "alike_across_parts": Kind(
        "suspicion",
        "Nearly the same picture to learn from and held out",
        "Keep each in one part: scores would flatter.",
    ),
    "alike_across_classes": Kind(
        "suspicion", "Nearly the same picture under several classes", "Decide which class it is."
    ),
    "alike": Kind(
        "suspicion", "Nearly the same picture more than once", "Keep one of each, or all of them in one part."
    ),
    "label": Kind("suspicion", "Labels that look wrong", "Look at each; correct those that are."),
    "typo": Kind("suspicion", "Class names one letter apart", "Merge them if one is a misspelling."),
    "few": Kind("suspicion", "Classes of very few pictures", "Add pictures, or leave the class out."),
    "imbalance": Kind("suspicion", "Classes of very different sizes", "Look at scores class by class."),
    "blank": Kind("suspicion", "Pictures of one colour", "Remove them if nothing was meant to be seen."),
    "small": Kind("suspicion", "Pictures much smaller than the others", "Replace thumbnails by the pictures meant."),
    "huge": Kind("suspicion", "Very large pictures", "Shrink them: reading them slows training down."),
    "turned": Kind(
        "note", "Pictures that EXIF turns", "vitkit turns them upright; other programs may see them lying on a side."
    ),
    "cmyk": Kind("note", "Pictures in CMYK", "vitkit reads them as RGB; other programs may give other colours."),
    "other_file": Kind("note", "Files that are no pictures by name", "They aren't read."),
}
"""In the order in which they are told."""
