"""Data sets of the Hub on disk: folders of `datasets.save_to_disk`, and Parquet files of pictures.

Their layout is that of datasets 4 (features.py, arrow_dataset.py): a picture is a struct of bytes and path; Arrow files
are streams; the features stand in dataset_info.json, or under "huggingface" in the Parquet file's own metadata.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from vitkit.data.samples import Samples, Splits
from vitkit.data.sources.arrays import read_words
from vitkit.data.sources.parts import group_files, name_parts, read_parts
from vitkit.errors import ConfigError, DataError
from vitkit.image.decode import Blob

__all__ = ["find_hub_files", "read_hub", "read_saved"]

LABELS = ("label", "labels", "fine_label", "class", "target")
"""Columns of the label where no feature says that it is one."""
KEPT_BYTES = 2**28
"""Of a data set's groups of rows that stay decoded, in each process: threads read neighbours."""


class Groups:
    """The groups of rows of Parquet files that were read last, of all files of a data set; each process has its own."""

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Groups, ()

    def get(self, file: str, group: int) -> Any:
        """The column of that group; None where it isn't kept."""
        with self._lock:
            if (file, group) in self._groups:
                self._groups.move_to_end((file, group))
            return self._groups.get((file, group))

    def keep(self, file: str, group: int, column: Any) -> None:
        """Lets go of those that weren't read for longest; one stays, however large."""
        with self._lock:
            self._groups[file, group] = column
            self._bytes += column.nbytes
            while self._bytes > KEPT_BYTES and len(self._groups) > 1:
                self._bytes -= self._groups.popitem(last=False)[1].nbytes


@dataclass(eq=False)
class Column:
    """The pictures of one Arrow or Parquet file, opened when they are asked for, in whichever process."""

    file: str
    name: str
    kept: Groups
    ends: tuple[int, ...] = ()
    """Where each group of rows of a Parquet file ends, counted in rows from the file's beginning."""
    _table: Any = field(default=None, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Column, (self.file, self.name, self.kept, self.ends)

    def cell(self, row: int) -> Mapping[str, Any]:
        """Bytes and path of one row."""
        with self._lock:
            if _is_stream(Path(self.file)):
                if self._table is None:
                    self._table = _open(Path(self.file)).column(self.name)
                column = self._table
            else:
                group = bisect_right(self.ends, row)
                column, row = self._group(group), row - (0, *self.ends)[group]
        cell: Mapping[str, Any] = column[row].as_py()
        return cell

    def _group(self, group: int) -> Any:
        column = self.kept.get(self.file, group)
        if column is None:
            with _open(Path(self.file)) as opened:
                column = opened.read_row_group(group, columns=[self.name]).column(self.name)
            self.kept.keep(self.file, group, column)
        return column


@dataclass(frozen=True, slots=True)
class Cell(Blob):
    """One row's picture."""

    name: str
    column: Column
    row: int

    def read(self) -> bytes:
        """Its bytes, or those of the file that it names; OSError where there are neither."""
        cell = self.column.cell(self.row)
        content: bytes | None = cell.get("bytes")
        if content is None and cell.get("path"):
            return (Path(self.column.file).parent / str(cell["path"])).read_bytes()
        if content is None:
            raise OSError("it has neither bytes nor a path")
        return content


def read_saved(folder: Path) -> Samples | Splits | None:
    """A folder of `save_to_disk`, of one data set or of one per split; None for any other folder."""
    if (folder / "dataset_dict.json").is_file():
        words = name_parts(str(folder), _json(folder / "dataset_dict.json").get("splits", []))
        return _read({part: _arrow_files(folder / word) for part, word in words.items()}, str(folder))
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return _read({"train": _arrow_files(folder)}, str(folder))
    return None


def find_hub_files(folder: Path) -> list[Path]:
    """The Parquet files in a folder or in data/ in it, sorted, as the Hub has data sets."""
    for place in (folder, folder / "data"):
        found = sorted(file for file in place.glob("*") if file.suffix.lower() == ".parquet")
        if found:
            return found
    return []


def read_hub(files: Sequence[Path], name: str) -> Samples | Splits | None:
    """Parquet files of pictures, train-00000-of-00002.parquet and so on; None where they hold no pictures' bytes."""
    if not _pictures(_schema(files[0])):
        return None
    return _read(group_files(name, files), name)


def _read(parts: Mapping[str, Sequence[Path]], name: str) -> Samples | Splits:
    kept = Groups()
    readers = {
        part: partial(_read_part, files, kept, name if len(parts) == 1 else f"{name} ({part})")
        for part, files in parts.items()
    }
    return read_parts(name, readers)


def _read_part(files: Sequence[Path], kept: Groups, name: str) -> Samples:
    cells: list[Cell] = []
    labels: list[Any] = []
    class_names: list[str] | None = None
    for file in files:
        schema = _schema(file)
        pictures = _pictures(schema)
        features = _features(file, schema)
        label, class_names = _label(schema.names, features, name)
        if len(pictures) != 1:
            raise DataError(f"{file} has {len(pictures)} columns of pictures ({', '.join(schema.names)}); keep one")
        opened = _open(file)
        if _is_stream(file):
            column, table = Column(str(file), pictures[0], kept), opened
        else:
            sizes = (opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups))
            column = Column(str(file), pictures[0], kept, tuple(accumulate(sizes)))
            table = opened.read(columns=[label])
        found = table.column(label).to_pylist()
        cells += [Cell(f"{file}[{row}]", column, row) for row in range(len(found))]
        labels += found
    return read_words(cells, labels, name, class_names)


def _label(columns: Sequence[str], features: Mapping[str, Any], name: str) -> tuple[str, list[str] | None]:
    """The column of labels, and the names of the classes where the features have them."""

    def class_names(feature: Any) -> list[str] | None:
        if isinstance(feature, list) and feature:  # as datasets 2 wrote a list
            feature = feature[0]
        while isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
            feature = feature["feature"]
        named = isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        return feature.get("names") if named else None

    named = [column for column in columns if class_names(features.get(column))]
    found = [column for column in LABELS if column in (named or columns)] or named
    if not found or (len(found) > 1 and found[0] != "label"):
        raise DataError(f"{name} has no column of labels of its own ({', '.join(columns)}); call it label")
    return found[0], class_names(features.get(found[0]))


def _pictures(schema: Any) -> list[str]:
    """The columns that are structs of bytes and path."""
    return [
        entry.name
        for entry in schema
        if getattr(entry.type, "num_fields", 0) == 2 and {part.name for part in entry.type} == {"bytes", "path"}
    ]


def _features(file: Path, schema: Any) -> Mapping[str, Any]:
    content = (schema.metadata or {}).get(b"huggingface")
    if content is not None:
        features = json.loads(content).get("info", {}).get("features")
    else:
        info = file.parent / "dataset_info.json"
        features = _json(info).get("features") if info.is_file() else None
    return features or {}


def _arrow_files(folder: Path) -> list[Path]:
    entries = _json(folder / "state.json").get("_data_files") or []
    return [folder / Path(entry["filename"]).name for entry in entries]


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} can't be read ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{file} is no description of a data set")
    return content


def _schema(file: Path) -> Any:
    opened = _open(file)
    return opened.schema if _is_stream(file) else opened.schema_arrow


def _is_stream(file: Path) -> bool:
    """Whether it is an Arrow stream by its name, and no Parquet file."""
    return file.suffix.lower() == ".arrow"


def _open(file: Path) -> Any:
    """An Arrow stream as a table that lies in the file, or a Parquet file; ConfigError without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"{file}: reading it needs pyarrow: pip install 'vitkit[parquet]'") from None
    try:
        if not _is_stream(file):
            return pyarrow.parquet.ParquetFile(file)
        with pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))) as stream:
            return stream.read_all()
    except (pyarrow.ArrowException, OSError) as error:
        kind = "an Arrow stream" if _is_stream(file) else "a Parquet file"
        said = " ".join(str(error).split())
        raise DataError(f"{file} isn't {kind} that can be read ({said}); replace it") from None
