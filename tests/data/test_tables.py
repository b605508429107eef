"""Tables of every format say the same, and all their faults with their lines."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from small import picture_file
from vitkit.data.samples import Samples, Splits
from vitkit.data.sources.open import open_data
from vitkit.data.sources.table import read_table
from vitkit.errors import ConfigError, DataError

ROWS = [
    {"file_name": "p/1.png", "labels": ["10", "9"], "split": "train"},
    {"file_name": "p/2.png", "labels": ["9"], "split": "Training"},
    {"file_name": "p/3.png", "labels": [], "split": "train"},
    {"file_name": "p/4.png", "labels": ["10"], "split": "validation"},
    {"file_name": "p/5.png", "labels": ["9", "10", "9"], "split": "TEST"},
]


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path) -> None:
    for number in range(1, 6):
        picture_file(tmp_path / "p" / f"{number}.png", 8, 9, seed=number)


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    if file.suffix == ".csv":
        cells = [["|".join(cell) if isinstance(cell, list) else str(cell) for cell in row.values()] for row in rows]
        file.write_text("\n".join(map(",".join, [list(rows[0]), *cells])) + "\n", "utf-8")
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
    return file


def refused(file: Path, text: str | None = None) -> str:
    if text is not None:
        file.write_text(text, "utf-8")
    with pytest.raises(DataError) as caught:
        open_data(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["list.csv", "metadata.jsonl", "list.PARQUET"])
def test_several_labels_and_a_split(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name.lower(), ROWS).rename(tmp_path / name)
    splits = open_data(file)
    assert isinstance(splits, Splits) and splits.val is not None and splits.test is not None
    assert splits.train.class_names == splits.val.class_names == splits.test.class_names == ("9", "10")
    assert splits.train.labels.tolist() == [[True, True], [True, False], [False, False]]
    assert splits.val.labels.tolist() == [[False, True]] and splits.test.labels.tolist() == [[True, True]]
    assert splits.train.pictures[1] == str(tmp_path / "p/2.png") and splits.test.name == f"{file} (test)"
    assert [splits.train.label_text(at) for at in range(3)] == ["9 | 10", "9", "none"]
    assert splits.train.counts().tolist() == [2, 1]


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet"])
def test_one_label_as_a_number_without_a_split(tmp_path: Path, name: str) -> None:
    rows = [{"id": 7, "label": label, "path": f"p/{number}.png"} for number, label in enumerate((10, 9, 10), start=1)]
    samples = read_table(write(tmp_path / name, rows))
    assert isinstance(samples, Samples) and not samples.multi_label
    assert samples.class_names == ("9", "10") and samples.labels.tolist() == [1, 0, 1]
    assert samples.labels.dtype == np.int64


def test_all_faults_are_told_with_their_lines(tmp_path: Path) -> None:
    lines = [
        '{"path": "p/1.png", "label": "a", "split": "train"}',
        "",
        '{"path": "p/1.png", "label": "b", "split": "train"}',
        '{"path": "p/2.png", "label": ["a", "b"], "split": "train"}',
        '{"path": "p/3.png", "label": 1.5, "split": "train"}',
        '{"path": "p/4.png", "label": "a", "split": "dev set"}',
        '{"label": "a", "split": "train"}',
        '{"path": "p/5.png", "label": null, "split": "train"}',
        '["p/5.png"]',
        '{"path": ',
    ]
    said = refused(tmp_path / "list.jsonl", "\n".join(lines))
    for part in (
        "line 3 lists 'p/1.png' again, after line 1",
        "line 4 has the label ['a', 'b']; give a text or a whole number (labels is the column of several)",
        "line 5 has the label 1.5",
        "line 6 has the split 'dev set'; allowed: train, training, val, valid, validation, dev, test, testing",
        "line 7 has no path",
        "line 8 has no label",
        "line 9 isn't a JSON object",
        "line 10 isn't JSON",
    ):
        assert part in said, part
    rows = [{"path": "p/1.png", "labels": ["a"]}, {"path": "p/9.png", "labels": ["a"]}, {"path": "", "labels": ["a"]}]
    said = refused(write(tmp_path / "list.parquet", rows))
    assert "row 3 has no path" in said and "row 2: " in said and "p/9.png' isn't there" in said
    assert "line 2 has the labels 3" in refused(
        tmp_path / "list.jsonl", '{"path": "p/1.png", "labels": ["a"]}\n{"path": "p/2.png", "labels": 3}\n'
    )


def test_columns_that_are_missing_or_double(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    assert "0 columns 'label' or 'labels'" in refused(file, "path,labelz\np/1.png,a\n")
    assert "2 columns 'label' or 'labels'" in refused(file, "path,label,labels\np/1.png,a,a\n")
    assert "2 columns 'path' or 'file_name'" in refused(file, "path,file_name,label\np/1.png,p/1.png,a\n")


def test_parts_must_hold_train_and_only_its_classes(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    assert "no line has the split train" in refused(file, "path,label,split\np/1.png,a,val\np/2.png,b,test\n")
    said = refused(file, "path,label,split\np/1.png,a,train\np/2.png,bee,train\np/3.png,beee,val\n")
    assert "classes that aren't in train: val: beee; nearest: bee" in said


@pytest.mark.parametrize("name", ["list.parquet", "list.jsonl"])
def test_a_file_of_another_kind(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((tmp_path / "p" / "1.png").read_bytes())
    assert "isn't a Parquet file" in refused(tmp_path / name) or "isn't JSON lines" in refused(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    assert refused(tmp_path / name)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "list.parquet", ROWS)
    ordinary = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return ordinary(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'vitkit\[parquet\]'"):
        read_table(file)
