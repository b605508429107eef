"""Tables that list pictures and their classes."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from vitkit.data.samples import Samples
from vitkit.data.sources.rows import samples_of_rows
from vitkit.errors import DataError, list_faults, nearest
from vitkit.image.fetch import is_url

__all__ = ["read_csv"]


def read_csv(path: str | os.PathLike[str]) -> Samples:
    """A UTF-8 file with `path` and `label` in its header, other columns ignored; paths count from the file's folder.

    What the labels say become the class names, sorted; by value where all are digits.
    """
    file = Path(path)
    faults: list[str] = []
    rows: list[tuple[str, str]] = []
    lines: dict[str, int] = {}
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            for line, picture, label in _cells(file, text, faults):
                if picture in lines:
                    faults.append(f"line {line} lists {picture!r} again, after line {lines[picture]}")
                lines[picture] = line
                rows.append((str(file.parent / picture), label))
                if is_url(picture):
                    faults.append(f"line {line}: {picture!r} is a URL; download what is to be learnt from")
                elif not os.path.isfile(rows[-1][0]):  # noqa: PTH113 -- three times as fast
                    faults.append(f"line {line}: {rows[-1][0]!r} isn't there; paths count from the file's folder")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{file} isn't a CSV file in UTF-8 ({error}); save it as one, path,label in its header"
        ) from None
    except OSError as error:
        raise DataError(f"{file} can't be read: {error.strerror}; check the path and its permissions") from None
    if faults or not rows:
        faults = faults or ["it lists no picture; below its header goes one line for each, path,label"]
        raise DataError(f"{file}: {list_faults(faults)}")
    return samples_of_rows(rows, str(file))


def _cells(file: Path, text: Iterator[str], faults: list[str]) -> Iterator[tuple[int, str, str]]:
    """Yields (line, path, label) of each whole row; notes the others in `faults`."""
    reader = csv.reader(text, skipinitialspace=True, strict=True)
    header = [name.strip() for name in next(reader, [])]
    for column in ("path", "label"):
        if header.count(column) != 1:
            raise DataError(
                f"{file} has {header.count(column)} columns {column!r} in its header ({', '.join(header)})"
                f"{nearest(column, header)}; one path and one label are needed, separated by commas"
            )
    for cells in reader:
        row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        if cells and len(cells) != len(header):
            faults.append(
                f"line {reader.line_num} has {len(cells)} cells under {len(header)} columns (a comma needs quotes)"
            )
        elif cells and not (row["path"] and row["label"]):
            faults.append(f"line {reader.line_num} has no {'label' if row['path'] else 'path'}")
        elif cells:
            yield reader.line_num, row["path"], row["label"]
