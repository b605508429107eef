"""What a check found, as one page with the pictures it is about."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vitkit.data.doctor.findings import KINDS, Finding
from vitkit.data.doctor.pictures import visible_pixels
from vitkit.data.samples import Samples
from vitkit.report.html import Block, Cell, Facts, Figure, Figures, Folded, Heading, Note, Paragraph, Table, write_page
from vitkit.report.sheet import tile_picture

if TYPE_CHECKING:
    from vitkit.api.check import Checkup

__all__ = ["write_report"]

SHOWN = 30
"""Findings of one kind that are shown with their pictures; all of them stand in the list below."""
TOGETHER = 4
"""Pictures of one group that are shown."""
SIDE = 160
"""Pixels: the height of pictures side by side."""


def write_report(file: str | os.PathLike[str], checkup: Checkup) -> None:
    """Writes the page: verdict, numbers, classes, then every kind of finding with its pictures."""
    samples = checkup.survey.samples
    told = Counter(finding.kind for finding in checkup.findings)
    blocks: list[Block] = [Note(verdict(checkup))]
    if told:
        rows: list[list[Cell]] = [[KINDS[kind].level, KINDS[kind].title, count] for kind, count in told.items()]
        blocks.append(Table(["", "What was found", "How many"], rows))
    blocks += [Heading("What there is"), Facts(_facts(checkup)), *_classes(checkup)]
    for kind in told:
        blocks += _section(samples, kind, checkup.of_kind(kind))
    blocks += [Heading("How labels were judged"), Paragraph(checkup.judgement)]
    name = Path(samples.name).name or samples.name
    lead = f"{len(samples):,} pictures in {samples.num_classes:,} classes, every one of them read."
    write_page(file, f"Check of {name}", blocks, lead=lead)


def verdict(checkup: Checkup) -> str:
    """One sentence: clean or not, and how much was found."""
    levels = checkup.levels()
    counts = [_count(levels[level], level) for level in ("fault", "suspicion", "note")]
    found = f"{counts[0]}, {counts[1]}, {counts[2]}."
    return f"Clean: {found}" if checkup.clean else f"Not clean: {found}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _facts(checkup: Checkup) -> dict[str, Cell]:
    seen = checkup.look
    sizes = seen.sizes[seen.sizes[:, 0] > 0]
    facts: dict[str, Cell] = {"pictures": len(seen.sizes), "of them readable": len(sizes)}
    if len(sizes):
        ordered = sizes[np.argsort(sizes.prod(axis=1), kind="stable")]
        for name, at in {"smallest": 0, "median": len(sizes) // 2, "largest": -1}.items():
            facts[f"{name}, width x height"] = "{1} x {0}".format(*ordered[at])
    headers = [header for header in seen.headers if header is not None]
    for format, count in Counter(header.format for header in headers if header.format).most_common():
        facts[format] = count
    for mode, count in Counter(header.mode for header in headers).most_common():
        facts[f"in {mode}"] = count
    return facts


def _classes(checkup: Checkup) -> list[Block]:
    survey = checkup.survey
    columns = ["class", *(part or "pictures" for part in survey.part_names)]
    cells = survey.counts().T.tolist()
    rows = [[name, *counts] for name, counts in zip(survey.samples.class_names, cells, strict=True)]
    table = Table(columns, rows)
    return [table] if len(rows) <= SHOWN else [Folded(f"Pictures of each of the {len(rows):,} classes", [table])]


def _section(samples: Samples, kind: str, findings: list[Finding]) -> list[Block]:
    """A kind's findings: its pictures, and all of it in words."""
    blocks: list[Block] = [
        Heading(f"{KINDS[kind].title} ({len(findings):,})"),
        Paragraph(KINDS[kind].advice),
    ]
    figures = [
        Figure(_together(samples, finding.pictures), f"Pictures: {finding.message}", _caption(samples, finding))
        for finding in findings[:SHOWN]
        if finding.pictures and kind != "unreadable"
    ]
    if figures:
        wide = any(len(finding.pictures) > 1 for finding in findings)
        blocks.append(Figures(figures, width=260 if wide else 130))
    listed = Table([KINDS[kind].level], [[finding.message] for finding in findings])
    if figures:
        return [*blocks, Folded("In words" if len(findings) == len(figures) else "All of them, in words", [listed])]
    return [*blocks, listed]


def _caption(samples: Samples, finding: Finding) -> str:
    names = [f"{samples.label_text(at)}/{Path(samples.describe(at)).name}" for at in finding.pictures]
    more = f" and {len(names) - TOGETHER} more" if len(names) > TOGETHER else ""
    rather = f": rather {finding.class_name}?" if finding.class_name else ""
    return " | ".join(names[:TOGETHER]) + more + rather


def _together(samples: Samples, pictures: tuple[int, ...]) -> bytes:
    """The first pictures of a group side by side, of one height; a single one as it is."""
    shown = [visible_pixels(samples.pictures[at]) for at in pictures[:TOGETHER]]
    if len(shown) == 1:
        return tile_picture(shown[0])
    row = [Image.fromarray(pixels) for pixels in shown]
    row = [image.resize((max(1, round(image.width * SIDE / image.height)), SIDE)) for image in row]
    gap = SIDE // 20
    sheet = Image.new("RGB", (sum(image.width + gap for image in row) - gap, SIDE), "white")
    left = 0
    for image in row:
        sheet.paste(image, (left, 0))
        left += image.width + gap
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()
