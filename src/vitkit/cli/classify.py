"""vitkit classify: the best classes of each picture."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from vitkit.cli import options
from vitkit.errors import ConfigError

if TYPE_CHECKING:
    from vitkit.engine.predict import Answer, Prediction, Predictor


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
    output: Annotated[str | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.")] = None,
    batch_size: options.BatchSize = None,
    *,
    loading: options.Loading,
) -> int:
    """Say what is in pictures: classes, best first."""
    from vitkit.api.load import load
    from vitkit.checkpoint.presets import DEFAULT_MODEL
    from vitkit.cli.inputs import open_pictures
    from vitkit.cli.output import Progress, complain, open_output
    from vitkit.engine.predict import BATCH_SIZE
    from vitkit.engine.zero_shot import TEMPLATE
    from vitkit.files import check_new_file

    if as_json and as_csv:
        raise ConfigError("--json and --csv contradict each other; choose one")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold is {threshold}; allowed: a probability from 0 to 1")
    if output is not None:
        check_new_file(output)
    names = None if labels is None else read_labels(labels)
    if names is None and templates:
        raise ConfigError("--template is the text around --labels; give these too")
    inputs = open_pictures(pictures)
    vit = load(DEFAULT_MODEL if model is None else model, **loading)
    if names is not None:
        vit = vit.with_labels(names, templates=templates or (TEMPLATE,))
    vit.check_classifier()
    writer = JsonLines(vit) if as_json else CsvRows(vit) if as_csv else Text(vit)
    shown = output is None and sys.stdout.isatty()
    with open_output(output) as stream, Progress(results_shown=shown) as progress:
        writer.start(stream)
        for answer in vit.answers(inputs, batch_size=batch_size or BATCH_SIZE):
            progress.advance(failed=answer.error is not None)
            if answer.error is not None:
                complain(str(answer.error))
                writer.fail(stream, answer)
                continue
            found = vit.predictions(answer, top=top or 5)
            writer.write(stream, answer, [p for p in found if threshold is None or p.probability >= threshold])
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


class Text:
    """For people: the picture's name, then a line per class."""

    def __init__(self, vit: Predictor) -> None:
        self.vit = vit

    def start(self, stream: TextIO) -> None:
        """Says nothing."""

    def write(self, stream: TextIO, answer: Answer, predictions: list[Prediction]) -> None:
        """The picture and its classes."""
        from vitkit.image.decode import describe

        stream.write(f"{describe(answer.picture)}\n")
        for prediction in predictions:
            stream.write(f"  {prediction.probability:7.2%}  {prediction.class_name}\n")
        if not predictions:
            stream.write("  no class reaches the threshold\n")

    def fail(self, stream: TextIO, answer: Answer) -> None:
        """Nothing: stderr names the failure."""


class JsonLines:
    """A JSON object per picture and line, so that any number of pictures streams."""

    def __init__(self, vit: Predictor) -> None:
        self.common = {"model": vit.report.source, "engine": vit.engine.name}

    def start(self, stream: TextIO) -> None:
        """Says nothing."""

    def write(self, stream: TextIO, answer: Answer, predictions: list[Prediction]) -> None:
        """One object with the predictions."""
        rows: list[dict[str, Any]] = [
            {"class_name": p.class_name, "class_id": p.class_id, "index": p.index, "probability": p.probability}
            for p in predictions
        ]
        self._line(stream, {"picture": answer.picture, "predictions": rows, **self.common})

    def fail(self, stream: TextIO, answer: Answer) -> None:
        """One object with the error."""
        self._line(stream, {"picture": answer.picture, "error": str(answer.error), **self.common})

    @staticmethod
    def _line(stream: TextIO, content: dict[str, Any]) -> None:
        stream.write(json.dumps(content) + "\n")


class CsvRows:
    """A row per picture and class, rank 1 the best; a failed picture has one row with its error."""

    def __init__(self, vit: Predictor) -> None:
        self.common = (vit.report.source, vit.engine.name)

    def start(self, stream: TextIO) -> None:
        """The header."""
        names = ("picture", "rank", "class_name", "class_id", "index", "probability", "error", "model", "engine")
        self._row(stream, *names)

    def write(self, stream: TextIO, answer: Answer, predictions: list[Prediction]) -> None:
        """A row per class."""
        for rank, p in enumerate(predictions, start=1):
            found = (p.class_name, p.class_id, p.index, repr(p.probability))
            self._row(stream, answer.picture, rank, *found, None, *self.common)

    def fail(self, stream: TextIO, answer: Answer) -> None:
        """A row with the error."""
        empty = (None,) * 5
        self._row(stream, answer.picture, *empty, str(answer.error), *self.common)

    @staticmethod
    def _row(stream: TextIO, *cells: str | int | None) -> None:
        # Of what ends a line, the csv module of Python 3.11 and 3.12 quotes "\n" but not a lone "\r".
        hard = any("\r" in str(cell) for cell in cells)
        csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL if hard else csv.QUOTE_MINIMAL).writerow(cells)
