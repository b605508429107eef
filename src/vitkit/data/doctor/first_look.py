"""What training says of its pictures before it begins: from names, and the bytes of files that could be equal."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np

from vitkit.data.doctor.classes import check_classes
from vitkit.data.doctor.duplicates import check_same
from vitkit.data.doctor.findings import KINDS
from vitkit.data.doctor.survey import Survey, survey
from vitkit.data.samples import Samples, Splits
from vitkit.data.sources.tar import Stretch
from vitkit.data.split import digest_pictures
from vitkit.errors import list_faults
from vitkit.image.decode import Picture

__all__ = ["warn"]

logger = logging.getLogger("vitkit")

TOLD = ("spelling", "typo", "same_across_parts")
"""Kinds of findings that training doesn't refuse, and would suffer from."""


def warn(data: Samples | Splits) -> None:
    """Logs doubtful class names, and files that stand in several of the parts given; a user's Dataset isn't fetched."""
    parts = [data] if isinstance(data, Samples) else [data.train, *data.held_out()]
    if any(part.lazy for part in parts):
        return
    found = survey(data)
    findings = check_classes(found)
    if len(parts) > 1:
        findings += check_same(found, _digests(found))
    for kind in TOLD:
        messages = [finding.message for finding in findings if finding.kind == kind]
        if messages:
            about = KINDS[kind]
            logger.warning(
                "%s: %s. %s vitkit check shows them", about.title, list_faults(messages, first=3), about.advice
            )


def _digests(found: Survey) -> list[bytes]:
    """Of the pictures whose size is met in several parts; of others nothing, so that few files are read."""
    sizes = [_size(picture) for picture in found.samples.pictures]
    parts = defaultdict(set)
    for size, part in zip(sizes, found.parts.tolist(), strict=True):
        parts[size].add(part)
    at = [place for place, size in enumerate(sizes) if len(parts[size]) > 1]
    candidates = found.samples.subset(np.array(at, np.int64), found.samples.name)
    known = dict(zip(at, digest_pictures(candidates), strict=True))
    return [known.get(place, b"") for place in range(len(sizes))]


def _size(picture: Picture) -> int:
    """Bytes, where they are known without reading them; else -1."""
    if isinstance(picture, str | os.PathLike):
        with suppress(OSError):  # what reads it next will name it
            return Path(picture).stat().st_size
    return picture.size if isinstance(picture, Stretch) else -1
