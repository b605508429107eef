"""vitkit classify: the best classes of each picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vitkit.cli import options
from vitkit.errors import ConfigError


def classify(
    pictures: options.Pictures,
    model: options.Model = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Classes of your own, for CLIP and SigLIP: 'a cat,a dog', or a .txt file with one per line."),
    ] = None,
    templates: Annotated[
        list[str] | None,
        typer.Option("--template", help="Text around a label; several are averaged. [This is a photo of {}.]"),
    ] = None,
    top: Annotated[int | None, typer.Option(help="Classes per picture. [5]", min=1)] = None,
    threshold: Annotated[float | None, typer.Option(help="Leave out classes below this probability.")] = None,
    as_json: options.Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: one row per picture and class.")] = False,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Write to this file instead, by its ending: .csv, .jsonl, .parquet, .txt."),
    ] = None,
    resume: options.GoOn = False,
    batch_size: options.BatchSize = None,
    exact: options.Exact = False,
    *,
    loading: options.Loading,
) -> int:
    """Say what is in pictures: classes, best first."""
    from vitkit.api.classify import classify_to_file
    from vitkit.api.load import load
    from vitkit.api.records import FORMS, form_of, record_of
    from vitkit.checkpoint.presets import DEFAULT_MODEL
    from vitkit.cli.inputs import look_ahead, open_pictures
    from vitkit.cli.output import Progress, complain_of_failures
    from vitkit.engine.predict import BATCH_SIZE
    from vitkit.engine.zero_shot import TEMPLATE
    from vitkit.part import check_part

    if as_json and as_csv:
        raise ConfigError("--json and --csv contradict each other; choose one")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold is {threshold}; allowed: a probability from 0 to 1")
    asked = "jsonl" if as_json else "csv" if as_csv else None
    if output is not None:
        form_of(output, asked)
        check_part(output, resume=resume)
    elif resume:
        raise ConfigError("--resume goes on with a file; name it with --output")
    names = None if labels is None else read_labels(labels)
    if names is None and templates:
        raise ConfigError("--template is the text around --labels; give these too")
    inputs = open_pictures(pictures)
    first, inputs = look_ahead(inputs, loading.get("engine"))
    vit = load(DEFAULT_MODEL if model is None else model, exact=exact, **loading, try_on=first)
    if names is not None:
        vit = vit.with_labels(names, templates=templates or (TEMPLATE,))
    how: Any = {"top": top or 5, "threshold": threshold}
    size = batch_size or BATCH_SIZE
    if output is not None:
        with Progress() as progress:
            tell = progress.tell
            done = classify_to_file(
                vit, inputs, output, form=asked, **how, batch_size=size, resume=resume, on_answer=tell
            )
        return complain_of_failures(done)
    vit.check_classifier()
    form = FORMS[asked or "text"]
    with Progress(results_shown=sys.stdout.isatty()) as progress:
        sys.stdout.write(form.head)
        for answer in vit.answers(inputs, batch_size=size):
            progress.tell(answer)
            sys.stdout.write(form.rows(record_of(vit, answer, **how)))
    return 1 if progress.failed else 0


def read_labels(text: str) -> list[str]:
    """The labels of --labels: separated by commas, or the lines of a .txt file; blanks around them don't count."""
    if not text.endswith(".txt"):
        return [label.strip() for label in text.split(",")]
    try:
        lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--labels {text!r} can't be read as a text file ({error}); one label per line") from error
    return [line.strip() for line in lines if line.strip()]
