"""Files of classes: what Python says, in each form; failures in their place; what an interrupted run goes on with."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import vitkit
from small import NAMES, picture_file, small_folder, small_model
from vitkit import ConfigError, Predictor
from vitkit.api.classify import classify_to_file
from vitkit.api.written import Written

ENDINGS = (".csv", ".jsonl", ".parquet")
Row = tuple[str, int | None, str | None, int | None, float | None, bool]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return vitkit.load(small_folder(tmp_path_factory.mktemp("model") / "m"), device="cpu")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    names = ["a.png", "b,'\".png", "c\nd.png", "e\r.png", "日本.png"]
    found = [
        str(picture_file(tmp_path / "p.png", seed=seed).rename(tmp_path / name)) for seed, name in enumerate(names)
    ]
    return [*found[:2], str(tmp_path / "missing.png"), *found[2:]]


def read(file: Path) -> list[Row]:
    """(picture, rank, class_name, index, probability, failed) of each row, by the format's own library."""
    if file.suffix == ".jsonl":
        rows: list[Row] = []
        for line in file.read_text().splitlines():
            record = json.loads(line)
            found = record.get("predictions") or [dict.fromkeys(("class_name", "index", "probability"))]
            for rank, p in enumerate(found, start=1):
                at = None if p["index"] is None else rank
                rows.append((record["picture"], at, p["class_name"], p["index"], p["probability"], "error" in record))
        return rows
    if file.suffix == ".parquet":
        table = pq.read_table(file).to_pylist()
    else:
        with open(file, encoding="utf-8", newline="") as lines:
            kinds: dict[str, Any] = {"rank": int, "index": int, "probability": float}
            table = [{k: kinds.get(k, str)(v) if v else None for k, v in row.items()} for row in csv.DictReader(lines)]
    assert list(table[0]) == [
        *("picture", "rank", "class_name", "class_id", "index", "probability", "error", "model", "engine")
    ]
    return [
        (*(r[k] for k in ("picture", "rank", "class_name", "index", "probability")), bool(r["error"])) for r in table
    ]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_holds_what_python_says_in_order(vit: Predictor, tmp_path: Path, paths: list[str], ending: str) -> None:
    expected: list[Row] = []
    for path in paths:
        if path.endswith("missing.png"):
            expected.append((path, None, None, None, None, True))
        else:
            found = vit.classify([path], top=2)[0]
            expected += [(path, n, p.class_name, p.index, p.probability, False) for n, p in enumerate(found, start=1)]
    done = classify_to_file(vit, iter(paths), tmp_path / f"x{ending}", top=2, batch_size=1)
    assert done == Written(count=6, failed=1)
    assert read(tmp_path / f"x{ending}") == expected


def test_parquet_names_the_model_and_comes_in_groups(
    vit: Predictor, tmp_path: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitkit.api.records.PARQUET_ROWS", 4)
    classify_to_file(vit, paths, tmp_path / "x.parquet", top=2)
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 3  # 5 x 2 + 1 rows
    table = pq.read_table(tmp_path / "x.parquet")
    assert set(table["model"].to_pylist()) == {vit.report.source}
    assert set(table["engine"].to_pylist()) == {vit.engine.name}
    assert set(table["class_name"].to_pylist()) <= {*NAMES, None}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_picture_without_a_likely_class_keeps_its_place(
    vit: Predictor, tmp_path: Path, paths: list[str], ending: str
) -> None:
    classify_to_file(vit, paths[:2], tmp_path / f"x{ending}", threshold=1.0)
    assert read(tmp_path / f"x{ending}") == [(path, None, None, None, None, False) for path in paths[:2]]


@pytest.mark.parametrize(("name", "form"), [("x.csv", "csv"), ("x.JSONL", "jsonl"), ("x.json", "jsonl"), ("x", "text")])
def test_the_ending_says_the_form(vit: Predictor, tmp_path: Path, paths: list[str], name: str, form: str) -> None:
    classify_to_file(vit, paths, tmp_path / name)
    classify_to_file(vit, paths, tmp_path / "asked.out", form=form)
    assert (tmp_path / name).read_bytes() == (tmp_path / "asked.out").read_bytes()


def test_what_cant_be_written_is_told_before_any_picture_is_read(
    vit: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untouched() -> Iterator[Any]:
        raise AssertionError("a picture was asked for")
        yield

    def refused(name: str, **how: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            classify_to_file(vit, untouched(), tmp_path / name, **how)
        assert list(tmp_path.iterdir()) == []
        return str(caught.value)

    assert "ends in .csv, which says csv, not jsonl" in refused("x.csv", form="jsonl")
    assert "form 'xml' is unknown; allowed: text, jsonl, csv, parquet" in refused("x", form="xml")
    assert "top is 0" in refused("x.csv", top=0)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    needs = "needs pyarrow: pip install 'vitkit[parquet]', or write .csv or .jsonl"
    assert needs in refused("x.parquet") and needs in refused("x", form="parquet")


def stops_after(paths: list[str], count: int) -> Iterator[str]:
    yield from paths[:count]
    raise KeyboardInterrupt


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interrupted_run_goes_on_to_the_same_rows(
    vit: Predictor, tmp_path: Path, paths: list[str], ending: str
) -> None:
    for count in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            classify_to_file(vit, stops_after(paths, count), tmp_path / f"x{ending}", batch_size=1, resume=True)
    assert classify_to_file(vit, paths, tmp_path / f"x{ending}", batch_size=1, resume=True) == Written(6, 1)
    classify_to_file(vit, paths, tmp_path / f"whole{ending}", batch_size=1)
    assert read(tmp_path / f"x{ending}") == read(tmp_path / f"whole{ending}")


def test_only_the_same_model_and_options_go_on(tmp_path: Path, paths: list[str]) -> None:
    model = small_folder(tmp_path / "m")
    vit = vitkit.load(model, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        classify_to_file(vit, stops_after(paths, 4), tmp_path / "x.csv", batch_size=1)

    def refused(predictor: Predictor, **how: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            classify_to_file(predictor, paths, tmp_path / "x.csv", resume=True, **how)
        found = re.search(r"x.csv.part' is of another run \((.*)\): give what that one was given", str(caught.value))
        assert found is not None, caught.value
        return found[1]

    assert refused(vit, top=3) == "top is 5 there, 3 here"
    assert refused(vit, threshold=0.5) == "threshold is None there, 0.5 here"
    larger = refused(vitkit.load(model, device="cpu", image_size=48))
    assert "spec.spec.image_size is [32, 32] there, [48, 48] here" in larger and "preprocess.size" in larger
    assert refused(vitkit.load(model, device="cpu", dtype="bfloat16")).startswith(
        "engine is 'torch float32 on cpu' there"
    )
    assert refused(vitkit.load(model, device="cpu", exact=True)) == (
        "engine is 'torch float32 on cpu' there, 'torch float32 on cpu, exact' here"
    )
    other_engine = refused(vitkit.load(model, device="cpu", engine="onnx"))
    assert re.fullmatch("engine is 'torch float32 on cpu' there, 'onnx.* on cpu' here", other_engine)
    labelled = replace(vit.card, class_names=tuple(reversed(NAMES)))
    other_labels = refused(Predictor(vit.module, vit.engine, labelled, vit.report))
    assert re.fullmatch(r"classes is '\w{64}' there, '\w{64}' here", other_labels)
    vit.module.head.bias.data[0] += 1e-3
    assert re.fullmatch(r"weights is '\w{64}' there, '\w{64}' here", refused(vit))
    vit.module.head.bias.data.copy_(small_model().head.bias.data)
    assert classify_to_file(vit, paths, tmp_path / "x.csv", resume=True) == Written(6, 1)
