"""What is said of a picture's classes, in each form it is written in: text, JSON lines, CSV, Parquet."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit.api.written import PARQUET_ROWS, pyarrow, utf8
from vitkit.engine.predict import Answer, Predictor
from vitkit.errors import ConfigError
from vitkit.image.decode import describe

__all__ = ["FORMS", "Form", "Record", "form_of", "record_of"]

Record = dict[str, Any]
"""Of one picture: picture, predictions or error, model, engine."""

COLUMNS = ("picture", "rank", "class_name", "class_id", "index", "probability", "error", "model", "engine")
ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True)
class Form:
    """How records are written."""

    rows: Callable[[Record], str]
    """The text of one record."""
    head: str = ""
    pack: Callable[[Path, Path], None] | None = None
    """Makes the output, its second argument, of a file of the texts, where that isn't the output itself."""


def form_of(output: str | Path, asked: str | None = None) -> str:
    """The form that was `asked` for, else that of the file's ending, else text. ConfigError where they contradict."""
    ending = Path(output).suffix.lower()
    told = ENDINGS.get(ending)
    if asked is not None and asked not in FORMS:
        raise ConfigError(f"form {asked!r} is unknown; allowed: {', '.join(FORMS)}")
    if asked and told and asked != told:
        raise ConfigError(f"{str(output)!r} ends in {ending}, which says {told}, not {asked}; leave one of them out")
    form = asked or told or "text"
    if form == "parquet":
        pyarrow(".csv or .jsonl")
    return form


def record_of(predictor: Predictor, answer: Answer, *, top: int, threshold: float | None = None) -> Record:
    """The record of an answer: its `top` classes, best first, without those below `threshold`."""
    common = {"model": predictor.report.source, "engine": predictor.engine_name}
    if answer.error is not None:
        return {"picture": answer.picture, "error": str(answer.error), **common}
    found = [
        {"class_name": p.class_name, "class_id": p.class_id, "index": p.index, "probability": p.probability}
        for p in predictor.predictions(answer, top=top)
        if threshold is None or p.probability >= threshold
    ]
    return {"picture": answer.picture, "predictions": found, **common}


def _text(record: Record) -> str:
    """For people: the picture's name, then a line per class. Of a failure nothing: stderr names it."""
    if "error" in record:
        return ""
    classes = [f"{p['probability']:7.2%}  {p['class_name']}" for p in record["predictions"]]
    lines = [describe(record["picture"]), *(f"  {line}" for line in classes or ["no class reaches the threshold"])]
    return "\n".join(lines) + "\n"


def _json_line(record: Record) -> str:
    return json.dumps(record) + "\n"


def _table_rows(record: Record) -> Iterator[tuple[Any, ...]]:
    """By COLUMNS: a row per class, rank 1 the best; one row where there is none, as of a failure."""
    common = (record.get("error"), record["model"], record["engine"])
    for rank, p in enumerate(record.get("predictions", ()), start=1):
        yield record["picture"], rank, p["class_name"], p["class_id"], p["index"], p["probability"], *common
    if not record.get("predictions"):
        yield record["picture"], *(None,) * 5, *common


def _csv_rows(record: Record) -> str:
    return "".join(map(_csv_row, _table_rows(record)))


def _csv_row(cells: tuple[Any, ...]) -> str:
    text = io.StringIO(newline="")
    # Of what ends a line, the csv module of Python 3.11 and 3.12 quotes "\n" but not a lone "\r".
    hard = any("\r" in cell for cell in cells if isinstance(cell, str))
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if hard else csv.QUOTE_MINIMAL).writerow(cells)
    return text.getvalue()


def _pack_parquet(lines: Path, output: Path) -> None:
    """The rows that the CSV would have, in groups."""
    arrow, parquet = pyarrow()
    name = arrow.dictionary(arrow.int32(), arrow.string())
    kinds = (arrow.string(), arrow.int32(), name, name, arrow.int32(), arrow.float64(), arrow.string(), name, name)
    schema = arrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    with open(lines, encoding="utf-8") as file, parquet.ParquetWriter(output, schema) as writer:
        rows = itertools.chain.from_iterable(_table_rows(json.loads(line)) for line in file)
        while group := list(itertools.islice(rows, PARQUET_ROWS)):
            columns = [
                [utf8(cell) if isinstance(cell, str) else cell for cell in cells] for cells in zip(*group, strict=True)
            ]
            arrays = [arrow.array(cells, kind) for cells, kind in zip(columns, kinds, strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))


FORMS: dict[str, Form] = {
    "text": Form(_text),
    "jsonl": Form(_json_line),
    "csv": Form(_csv_rows, head=_csv_row(COLUMNS)),
    "parquet": Form(_json_line, pack=_pack_parquet),
}
