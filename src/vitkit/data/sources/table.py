"""Tables that list pictures and their classes: CSV, JSON lines (also the metadata.jsonl of Hub folders), Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitkit.data.samples import Samples, Splits
from vitkit.data.sources.parts import PARTS, join_parts, part_of
from vitkit.data.sources.rows import Listing, Row, samples_of_rows
from vitkit.errors import ConfigError, DataError, list_faults, nearest
from vitkit.image.fetch import is_url

__all__ = ["SPLIT", "TABLES", "find_tables", "list_table", "read_table"]

PATH, LABEL, LABELS, SPLIT = ("path", "file_name"), "label", "labels", "split"
"""The columns that are read; Hub folders say file_name."""
SEPARATOR = "|"
"""Between several labels that are one text, as in CSV."""


Content = tuple[list[str], list[tuple[str, dict[str, Any] | str]]]
"""Names of columns; each line's number in words, with its cells by column or what is wrong with it."""


def read_table(path: str | os.PathLike[str]) -> Samples | Splits:
    """The pictures of a table: columns path (or file_name), label or labels, and maybe split; others are ignored.

    `label` holds one class, `labels` any number: a list, or a text with | between them. `split` says train, val or
    test. Paths count from the file's folder. What the labels say become the class names, sorted; by value where all
    are digits. Raises DataError with all faults and their lines.
    """
    file = Path(path)
    table = list_table(file)
    faults = [*table.faults, *_absent(table.rows)]
    if faults or not table.rows:
        raise DataError(f"{file}: {list_faults(faults) or 'it lists no picture; a line for each says path and label'}")
    parts: dict[str, list[Row]] = {}
    for row in table.rows:
        parts.setdefault(row.part or "train", []).append(row)
    if "train" not in parts:
        raise DataError(f"{file}: no line has the split train; say which pictures are learnt from")
    read = {
        part: samples_of_rows(
            parts[part], str(file) if part == "train" else f"{file} ({part})", multi_label=table.multi_label
        )
        for part in PARTS
        if part in parts
    }
    return read["train"] if len(read) == 1 else join_parts(str(file), read, {part: f"{part}: " for part in read})


def list_table(file: Path) -> Listing:
    """What `file` lists, its paths unchecked. Raises DataError for no such table, ConfigError without pyarrow."""
    read = TABLES.get(file.suffix.lower())
    if read is None:
        raise DataError(f"{file} is no table by its name; let it end in {', '.join(TABLES)}")
    try:
        columns, content = read(file)
    except OSError as error:
        raise DataError(f"{file} can't be read: {error.strerror}; check the path and its permissions") from None
    path, label = _column(file, columns, PATH), _column(file, columns, (LABEL, LABELS))
    rows: list[Row] = []
    faults: list[str] = []
    seen: dict[str, str] = {}
    for where, cells in content:
        try:
            row = _row(file, where, cells, path, label, split=SPLIT in columns)
            if row.picture in seen:
                raise DataError(f"lists {cells[path]!r} again, after {seen[row.picture]}")  # type: ignore[index]
        except DataError as error:
            faults.append(f"{where} {error}")
        else:
            seen[row.picture] = where
            rows.append(row)
    return Listing(rows, faults, multi_label=label == LABELS)


def find_tables(folder: Path) -> list[str]:
    """The tables in `folder`, sorted."""
    return sorted(str(entry) for entry in folder.iterdir() if entry.suffix.lower() in TABLES)


def _absent(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if is_url(row.picture):
            yield f"{row.where}: {row.picture!r} is a URL; download what is to be learnt from"
        elif not os.path.isfile(row.picture):  # noqa: PTH113 -- three times as fast
            yield f"{row.where}: {row.picture!r} isn't there; paths count from the file's folder"


def _column(file: Path, columns: Sequence[str], names: Sequence[str]) -> str:
    """The one column that goes by one of `names`."""
    found = [column for column in columns if column in names]
    if len(found) != 1:
        raise DataError(
            f"{file} has {len(found)} columns {' or '.join(map(repr, names))} in its header ({', '.join(columns)})"
            f"{nearest(names[0], columns)}; one path and one label are needed"
        )
    return found[0]


def _row(file: Path, where: str, cells: Mapping[str, Any] | str, path: str, label: str, *, split: bool) -> Row:
    """The row of those cells; raises DataError, which goes on after `where`, for what is wrong with it."""
    if isinstance(cells, str):
        raise DataError(cells)
    picture = cells.get(path)
    if not isinstance(picture, str) or not picture:
        raise DataError(f"has no {path}")
    labels = _several(cells.get(label)) if label == LABELS else (_word(cells.get(label)),)
    part = part_of(str(cells.get(SPLIT))) if split else ""
    if part is None:
        allowed = ", ".join(word for words in PARTS.values() for word in words)
        raise DataError(f"has the split {cells.get(SPLIT)!r}; allowed: {allowed}")
    return Row(picture if is_url(picture) else str(file.parent / picture), labels, where, part)


def _several(cell: object) -> tuple[str, ...]:
    if isinstance(cell, str):
        cell = cell.split(SEPARATOR) if cell else []
    if not isinstance(cell, list):
        raise DataError(f"has the labels {cell!r}; give a list, or a text with {SEPARATOR} between them")
    return tuple(_word(item) for item in cell)


def _word(cell: object) -> str:
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    if cell is None or cell == "":
        raise DataError("has no label")
    if not isinstance(cell, str):
        raise DataError(f"has the label {cell!r}; give a text or a whole number ({LABELS} is the column of several)")
    return cell.strip()


def _csv(file: Path) -> Content:
    content: list[tuple[str, dict[str, Any] | str]] = []
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, skipinitialspace=True, strict=True)
            header = [name.strip() for name in next(reader, [])]
            for cells in filter(None, reader):
                wrong = f"has {len(cells)} cells under {len(header)} columns (a comma needs quotes)"
                row = {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
                content.append((f"line {reader.line_num}", row if len(cells) == len(header) else wrong))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{file} isn't a CSV file in UTF-8 ({error}); save it as one, path,label in its header"
        ) from None
    return header, content


def _jsonl(file: Path) -> Content:
    content: list[tuple[str, dict[str, Any] | str]] = []
    columns: dict[str, None] = {}
    try:
        with open(file, encoding="utf-8-sig") as text:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    cells = _json_object(line)
                    content.append((f"line {number}", cells))
                    columns |= dict.fromkeys(cells if isinstance(cells, dict) else ())
    except UnicodeDecodeError as error:
        raise DataError(f"{file} isn't JSON lines in UTF-8 ({error}); save it as that") from None
    if content and not columns:
        raise DataError(f"{file} isn't JSON lines: its first line {content[0][1]}")
    return list(columns) or [PATH[0], LABEL], content


def _json_object(line: str) -> dict[str, Any] | str:
    try:
        cells = json.loads(line)
    except ValueError as error:
        return f"isn't JSON ({error})"
    return cells if isinstance(cells, dict) else "isn't a JSON object in braces"


def _parquet(file: Path) -> Content:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"{file}: reading Parquet needs pyarrow: pip install 'vitkit[parquet]'") from None
    try:
        columns = pyarrow.parquet.read_schema(file).names
        wanted = [name for name in columns if name in (*PATH, LABEL, LABELS, SPLIT)]
        rows = pyarrow.parquet.read_table(file, columns=wanted).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{file} isn't a Parquet file ({' '.join(str(error).split())})") from None
    return columns, [(f"row {number}", row) for number, row in enumerate(rows, start=1)]


TABLES: Mapping[str, Callable[[Path], Content]] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
"""The end of a table's name, in small letters, to what reads it."""
