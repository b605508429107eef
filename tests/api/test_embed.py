"""Embedding files: a row per picture in input order, what the last linear layer reads, failures named and NaN."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import vitkit
from small import PREPROCESS, picture, picture_file, small_folder, small_model
from vitkit import ConfigError, Predictor
from vitkit.api.embed import EMBEDDING_FORMATS, check_embedding_file, embed_to_file
from vitkit.api.written import Written
from vitkit.engine.predict import Answer


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return vitkit.load(small_folder(tmp_path_factory.mktemp("model") / "m"), device="cpu", exact=True)


def read(file: Path) -> tuple[np.ndarray[Any, Any], list[str], list[str]]:
    """(embeddings [n, D], pictures, errors) by the format's own library."""
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            assert sorted(arrays.files) == ["embeddings", "engine", "errors", "model", "pictures"]
            return arrays["embeddings"], arrays["pictures"].tolist(), arrays["errors"].tolist()
    if file.suffix == ".jsonl":
        found = [json.loads(line) for line in file.read_text().splitlines()]
        rows = np.array([row.get("embedding", [np.nan] * 32) for row in found], np.float32)
        return rows, [row["picture"] for row in found], [row.get("error", "") for row in found]
    table = pq.read_table(file)
    assert table.column_names == ["picture", "embedding", "error"]
    rows = np.array(table["embedding"].to_pylist(), np.float32)
    return rows, table["picture"].to_pylist(), [error or "" for error in table["error"].to_pylist()]


@pytest.mark.parametrize("ending", sorted(EMBEDDING_FORMATS))
def test_rows_keep_the_order_and_failures_are_named_and_nan(vit: Predictor, tmp_path: Path, ending: str) -> None:
    paths = [str(picture_file(tmp_path / f"{name}.png", seed=seed)) for seed, name in enumerate("dacb")]
    paths.insert(2, str(tmp_path / "missing.png"))
    (tmp_path / "empty.png").write_bytes(b"")
    paths.append(str(tmp_path / "empty.png"))
    told: list[Answer] = []
    done = embed_to_file(vit, iter(paths), tmp_path / f"x{ending}", batch_size=3, on_answer=told.append)
    assert done == Written(count=6, failed=2)
    assert [answer.picture for answer in told] == paths
    rows, pictures, errors = read(tmp_path / f"x{ending}")
    assert rows.dtype == np.float32 and rows.shape == (6, 32)
    assert pictures == paths
    assert [bool(error) for error in errors] == [False, False, True, False, False, True]
    assert "missing.png doesn't exist" in errors[2] and "empty.png is empty" in errors[5]
    assert np.isnan(rows[[2, 5]]).all()
    whole = [paths[at] for at in (0, 1, 3, 4)]
    np.testing.assert_allclose(rows[[0, 1, 3, 4]], vit.embed(whole), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{}, {"pool": "mean", "final_norm": "pooled", "class_token": False}, {"num_classes": 0}, {"pre_logits_dim": 24}],
    ids=["class token", "mean pooled", "without a head", "hidden layer"],
)
def test_a_row_is_what_the_last_linear_layer_reads(tmp_path: Path, changes: dict[str, Any]) -> None:
    small_model(**changes).save_pretrained(tmp_path / "m", preprocess=PREPROCESS)
    vit = vitkit.load(tmp_path / "m", device="cpu", exact=True)
    paths = [str(picture_file(tmp_path / f"{seed}.png", seed=seed)) for seed in range(3)]
    read_by_head: list[torch.Tensor] = []

    def watch(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        read_by_head.append(inputs[0])

    hook = vit.module.head.register_forward_pre_hook(watch)
    with torch.inference_mode():
        vit.module(torch.stack([vit.preprocess(path) for path in paths]))
    hook.remove()
    embed_to_file(vit, paths, tmp_path / "x.npz")
    rows, _, _ = read(tmp_path / "x.npz")
    assert rows.shape == (3, changes.get("pre_logits_dim", 32))
    expected = read_by_head[0].numpy()
    assert np.abs(rows - expected).max() <= 1e-5 * np.abs(expected).max()
    np.testing.assert_array_equal(rows, vit.embed(paths))


@pytest.mark.parametrize("ending", sorted(EMBEDDING_FORMATS))
def test_files_name_the_model_and_the_engine(vit: Predictor, tmp_path: Path, ending: str) -> None:
    embed_to_file(vit, [picture()], tmp_path / f"x{ending}")
    if ending == ".jsonl":
        row = json.loads((tmp_path / "x.jsonl").read_text())
        facts = {name: row[name] for name in ("model", "engine")}
    elif ending == ".npz":
        with np.load(tmp_path / "x.npz", allow_pickle=False) as arrays:
            facts = {"model": str(arrays["model"]), "engine": str(arrays["engine"])}
    else:
        metadata = pq.read_schema(tmp_path / "x.parquet").metadata
        facts = {name: metadata[name.encode()].decode() for name in ("model", "engine")}
    assert facts == {"model": vit.report.source, "engine": vit.engine_name}


@pytest.mark.parametrize("ending", sorted(EMBEDDING_FORMATS))
def test_no_pictures_make_an_empty_file_and_arrays_go_by_their_shape(
    vit: Predictor, tmp_path: Path, ending: str
) -> None:
    assert embed_to_file(vit, [], tmp_path / f"x{ending}").count == 0
    rows, pictures, errors = read(tmp_path / f"x{ending}")
    assert (rows.size, pictures, errors) == (0, [], [])
    embed_to_file(vit, [picture(), np.zeros((5, 4, 3), np.uint8)], tmp_path / f"x{ending}")
    assert read(tmp_path / f"x{ending}")[1] == ["PIL image 50x40 RGB", "array [5, 4, 3] uint8"]


def test_parquet_comes_in_groups_of_rows_and_loses_none(
    vit: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitkit.api.embed.PARQUET_ROWS", 4)
    pictures = [np.full((8, 8, 3), level, np.uint8) for level in range(10)]
    embed_to_file(vit, pictures, tmp_path / "x.parquet", batch_size=3)
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 3
    np.testing.assert_allclose(read(tmp_path / "x.parquet")[0], vit.embed(pictures), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ending", sorted(EMBEDDING_FORMATS))
def test_whatever_stops_it_leaves_the_old_file_and_a_part_to_go_on_with(
    vit: Predictor, tmp_path: Path, ending: str
) -> None:
    output = tmp_path / f"x{ending}"
    output.write_text("old")
    pictures: list[Any] = [np.full((8, 8, 3), level, np.uint8) for level in range(20)]
    pictures[3] = b"no picture"

    def stops() -> Iterator[Any]:
        yield from pictures[:11]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        embed_to_file(vit, stops(), output, batch_size=2)
    [note] = stopped.value.__notes__
    kept = re.fullmatch(rf"(\d+) pictures are kept in '{output}.part': --resume goes on", note)
    assert kept is not None and 0 < int(kept[1]) <= 11
    assert sorted(path.name for path in tmp_path.iterdir()) == [output.name, f"{output.name}.part"]
    assert output.read_text() == "old"
    with pytest.raises(
        ConfigError, match=rf"holds {kept[1]} pictures of a run that didn't end: go on with it \(--resume\), or"
    ):
        embed_to_file(vit, pictures, output)
    assert embed_to_file(vit, pictures, output, batch_size=2, resume=True) == Written(count=20, failed=1)
    embed_to_file(vit, pictures, tmp_path / f"whole{ending}", batch_size=2)
    for resumed, whole in zip(read(output), read(tmp_path / f"whole{ending}"), strict=True):
        np.testing.assert_array_equal(resumed, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"whole{ending}", output.name]


def test_what_cant_be_written_is_told_before_any_picture_is_read(
    vit: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untouched() -> Iterator[Any]:
        raise AssertionError("a picture was asked for")
        yield

    for target, says in (
        (tmp_path / "x.csv", "allowed endings: .npz, .parquet, .jsonl"),
        (tmp_path / "x", "allowed endings"),
        (tmp_path / "nowhere" / "x.npz", "there is no folder"),
    ):
        for call in (check_embedding_file, lambda target: embed_to_file(vit, untouched(), target)):
            with pytest.raises(ConfigError, match=re.escape(says)):
                call(target)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow: pip install 'vitkit\[parquet\]', or write .npz"):
        check_embedding_file(tmp_path / "x.parquet")
