"""vitkit check: what is wrong with a set of labelled pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli import options

if TYPE_CHECKING:
    from vitkit.api.check import Checkup

LINES = 10
"""Findings of one kind, and classes, that are printed."""


def check(
    data: Annotated[str, typer.Argument(help="What vitkit train takes: a folder of class folders, a CSV, digits.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Judge labels by this model's embeddings: Hub id, folder, file.")
    ] = None,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Judge labels by fine-tuning the model on them: much slower.")
    ] = False,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Write a page with the pictures to this .html file.")
    ] = None,
    suspects: Annotated[int | None, typer.Option(help="Suspected labels to name at most. [100]", min=0)] = None,
    as_json: options.Json = False,
    batch_size: options.BatchSize = None,
    *,
    loading: options.Loading,
) -> int:
    """Find what is wrong with labelled pictures before training on them.

    Unreadable files, duplicates and near duplicates, leaks between the parts, labels that look wrong, classes missing
    or misspelt. Exit code 0: no fault (suspicions and notes may be left to look at); 1: faults, each named.
    """
    from vitkit.api.check import SUSPECTS, check
    from vitkit.cli.output import Progress
    from vitkit.engine.predict import BATCH_SIZE

    with Progress() as progress:

        def tell(done: int, total: int) -> None:
            progress.total = total
            progress.advance()

        checkup = check(
            data,
            model=model,
            batch_size=batch_size or BATCH_SIZE,
            fine_tune=fine_tune,
            suspects=SUSPECTS if suspects is None else suspects,
            output=output,
            **loading,
            on_progress=tell,
        )
    typer.echo(json.dumps(checkup.to_dict()) if as_json else "\n".join(summary(checkup)))
    if output is not None and not as_json:
        typer.echo(f"report: {output}")
    return 0 if checkup.clean else 1


def summary(checkup: Checkup) -> Iterator[str]:
    """What was found, kind by kind, faults first; the verdict last."""
    from vitkit.api.check_report import verdict
    from vitkit.data.doctor.findings import KINDS

    samples = checkup.survey.samples
    yield f"{samples.name}: {len(samples):,} pictures in {samples.num_classes:,} classes"
    for part, counts in zip(checkup.survey.part_names, checkup.survey.counts().tolist(), strict=True):
        sizes = [f"{name} {count:,}" for name, count in zip(samples.class_names, counts, strict=True)]
        shown = ", ".join(sizes[:LINES]) + (f", and {len(sizes) - LINES:,} more" if len(sizes) > LINES else "")
        yield f"  {part + ': ' if part else ''}{shown}"
    for kind, about in KINDS.items():
        if found := checkup.of_kind(kind):
            yield f"\n{about.level}: {about.title} ({len(found):,}). {about.advice}"
            yield from (f"  {finding.message}" for finding in found[:LINES])
            if len(found) > LINES:
                yield f"  and {len(found) - LINES:,} more (all of them: --json, or the page of -o)"
    yield f"\n{checkup.judgement}"
    yield verdict(checkup)
