"""What training says of its pictures before it begins: from names and bytes alone, in seconds."""

from __future__ import annotations

import logging

from vitkit.data.doctor.classes import check_classes
from vitkit.data.doctor.duplicates import check_same
from vitkit.data.doctor.findings import KINDS
from vitkit.data.doctor.survey import survey
from vitkit.data.samples import Samples, Splits
from vitkit.data.split import digest_pictures
from vitkit.errors import list_faults

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
        findings += check_same(found, digest_pictures(found.samples))
    for kind in TOLD:
        messages = [finding.message for finding in findings if finding.kind == kind]
        if messages:
            about = KINDS[kind]
            logger.warning(
                "%s: %s. %s vitkit check shows them", about.title, list_faults(messages, first=3), about.advice
            )
