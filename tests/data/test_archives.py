"""Arrays and data sets of the Hub are the same pictures and labels as in a folder."""

from __future__ import annotations

import gzip
import json
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from archives import contents, hub_table, jpeg
from vitkit.data.samples import Samples, Splits
from vitkit.data.sources import hub
from vitkit.data.sources.open import open_data
from vitkit.errors import DataError

CODES = {"u1": 0x08, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D}


def idx_file(path: Path, array: NDArray[Any], dtype: str = "u1") -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, CODES[dtype], array.ndim, *array.shape)
    content = header + array.astype(dtype).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def figures(count: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 8, 8), dtype=np.uint8), (np.arange(count) % 3 + 1).astype(np.uint8)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_are_read_as_they_are_published(ending: str, tmp_path: Path) -> None:
    for part, count in (("train", 30), ("t10k", 9)):
        pictures, labels = figures(count, seed=count)
        idx_file(tmp_path / f"{part}-images-idx3-ubyte{ending}", pictures)
        idx_file(tmp_path / f"{part}-labels-idx1-ubyte{ending}", labels)
    data = open_data(tmp_path)
    assert isinstance(data, Splits) and data.val is None and data.test is not None
    assert data.train.class_names == ("1", "2", "3")
    for samples, count in ((data.train, 30), (data.test, 9)):
        pictures, labels = figures(count, seed=count)
        assert np.array_equal(np.stack(samples.pictures), pictures)  # type: ignore[arg-type]
        assert np.array_equal(samples.labels, labels - 1)


def test_deep_idx_files_keep_their_values(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).normal(size=(6, 4, 4)).astype(np.float32)
    idx_file(tmp_path / "train-images-idx3-ubyte", pictures, ">f4")
    idx_file(tmp_path / "train-labels-idx1-ubyte", np.arange(6) % 2)
    data = open_data(tmp_path)
    assert isinstance(data, Samples) and np.array_equal(np.stack(data.pictures), pictures)  # type: ignore[arg-type]


def test_every_broken_idx_file_is_named(tmp_path: Path) -> None:
    pictures, labels = figures(9)
    for part in ("train", "t10k"):
        idx_file(tmp_path / f"{part}-images-idx3-ubyte", pictures)
        idx_file(tmp_path / f"{part}-labels-idx1-ubyte.gz", labels)
    whole = (tmp_path / "train-images-idx3-ubyte").read_bytes()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(whole[:-1])
    whole = (tmp_path / "t10k-labels-idx1-ubyte.gz").read_bytes()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(whole[:-12])
    with pytest.raises(DataError, match=r"holds \[9, 8, 8\], 576 bytes, and has 575.*t10k-labels.*can't be read"):
        open_data(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"text")
    with pytest.raises(DataError, match=r"is no IDX file: it begins with 74 65 78 74.*has no labels beside it"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("x_train", "y_train", "x_test", "y_test"), ("train", "test")),
        (("train_images", "train_labels", "val_images", "val_labels"), ("train", "val")),
        (("images", "labels"), ("train",)),
        (("X", "y"), ("train",)),
    ],
)
@pytest.mark.parametrize("column", [False, True])  # MedMNIST has labels [n, 1]
def test_npz_arrays_by_their_usual_names(
    names: tuple[str, ...], parts: tuple[str, ...], column: bool, tmp_path: Path
) -> None:
    pictures, labels = figures(12)
    arrays = {name: pictures if at % 2 == 0 else labels[:, None] if column else labels for at, name in enumerate(names)}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    data = open_data(tmp_path / "a.npz")
    found = {"train": data} if isinstance(data, Samples) else {"train": data.train, "val": data.val, "test": data.test}
    assert {part for part, samples in found.items() if samples is not None} == set(parts)
    for part in parts:
        samples = found[part]
        assert samples is not None and np.array_equal(np.stack(samples.pictures), pictures)  # type: ignore[arg-type]
        assert np.array_equal(samples.labels, labels - 1) and samples.class_names == ("1", "2", "3")


def test_npz_of_several_labels_and_of_named_classes(tmp_path: Path) -> None:
    pictures, _ = figures(4)
    several = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    np.savez(tmp_path / "a.npz", images=pictures, labels=several, class_names=["cat", "dog"])
    data = open_data(tmp_path / "a.npz")
    assert isinstance(data, Samples) and data.multi_label
    assert data.class_names == ("cat", "dog") and np.array_equal(data.labels, several.astype(bool))
    np.savez(tmp_path / "b.npz", images=pictures, labels=[1, 0, 0, 1], class_names=["dog", "cat"])
    data = open_data(tmp_path / "b.npz")
    assert isinstance(data, Samples) and data.class_names == ("dog", "cat") and data.labels.tolist() == [1, 0, 0, 1]
    np.savez(tmp_path / "c.npz", pixels=pictures)
    with pytest.raises(DataError, match="holds pixels; give images and labels"):
        open_data(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", images=pictures, labels=np.array([{}] * 4))
    with pytest.raises(DataError, match="can't be read as arrays of numbers"):
        open_data(tmp_path / "d.npz")


def test_npz_files_that_are_none_are_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"

    def refused(content: bytes) -> str:
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npz can't be read as arrays of numbers \([^\n]+\)$") as refusal:
            open_data(path)
        return str(refusal.value)

    np.savez_compressed(path, images=np.random.default_rng(0).integers(0, 9, (99, 8, 8)), labels=np.arange(99))
    whole = path.read_bytes()
    assert "while decompressing data" in refused(whole[:300] + b"\xff" * 300 + whole[600:])
    # Bit 0 of the flags, in a member's central header (PKWARE's APPNOTE, 4.3.12 and 4.4.4).
    assert "encrypted" in refused(re.sub(rb"(PK\x01\x02.{4})\x00", b"\\1\x01", whole, flags=re.DOTALL))
    np.save(path.with_suffix(".npy"), np.zeros((4, 8, 8)))
    assert "not a zip file" in refused(path.with_suffix(".npy").read_bytes())
    assert "not a zip file" in refused(b"")


def save_to_disk(folder: Path, tables: list[pa.Table]) -> None:
    """As datasets 4 writes a data set: Arrow streams, state.json, dataset_info.json."""
    folder.mkdir(parents=True)
    files = [f"data-{at:05d}-of-{len(tables):05d}.arrow" for at in range(len(tables))]
    for name, table in zip(files, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files]}))
    info = json.loads(tables[0].schema.metadata[b"huggingface"])["info"]
    (folder / "dataset_info.json").write_text(json.dumps(info))


def test_a_saved_data_set_of_the_hub(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["dog", "cat"]
    save_to_disk(tmp_path / "all" / "train", [hub_table(0, 9, names=names), hub_table(9, 5, names=names)])
    save_to_disk(tmp_path / "all" / "test", [hub_table(50, 6, names=names)])
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    data = open_data(tmp_path / "all")
    assert isinstance(data, Splits) and data.test is not None and data.train.class_names == ("dog", "cat")
    assert contents(data.train) == [(jpeg(n), names[n % 2]) for n in range(14)]
    assert contents(data.test) == [(jpeg(n), names[n % 2]) for n in range(50, 56)]
    save_to_disk(tmp_path / "all" / "unsupervised", [hub_table(60, 6, names=names)])
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test", "unsupervised"]}')
    assert isinstance(open_data(tmp_path / "all"), Splits) and "isn't read: unsupervised" in caplog.text
    alone = open_data(tmp_path / "all" / "train")
    assert isinstance(alone, Samples) and contents(alone) == contents(data.train)


@pytest.mark.parametrize("names", [["dog", "cat"], None])
@pytest.mark.parametrize("under", ["", "data"])
def test_parquet_files_of_the_hub(names: list[str] | None, under: str, tmp_path: Path) -> None:
    (tmp_path / under).mkdir(exist_ok=True)
    for part, first in (("train-00000-of-00002", 0), ("train-00001-of-00002", 30), ("validation-00000-of-00001", 60)):
        pq.write_table(hub_table(first, 30, names=names), tmp_path / under / f"{part}.parquet", row_group_size=4)
    data = open_data(tmp_path)
    assert isinstance(data, Splits) and data.val is not None
    said = names or ["0", "1"]
    assert contents(data.train) == [(jpeg(n), said[n % 2]) for n in range(60)]
    assert contents(data.val) == [(jpeg(n), said[n % 2]) for n in range(60, 90)]
    one = open_data(tmp_path / under / "train-00000-of-00002.parquet")
    assert isinstance(one, Samples) and contents(one) == contents(data.train)[:30]


def test_parquet_files_of_any_number_take_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of 1 MB, three to a file, twelve in all, of which three may stay."""
    monkeypatch.setattr(hub, "KEPT_BYTES", 3 * 2**20 + 2**16)
    wanted = [bytes([n]) * 2**19 for n in range(24)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for part in range(4):
        cells = [{"bytes": content, "path": None} for content in wanted[6 * part : 6 * part + 6]]
        table = pa.table({"image": pa.array(cells, kind), "label": [0, 1] * 3})
        pq.write_table(table, tmp_path / f"{('train', 'val')[part // 3]}-{part}.parquet", row_group_size=2)
    data = open_data(tmp_path)
    del table, cells
    assert isinstance(data, Splits) and data.val is not None
    for splits in (data, pickle.loads(pickle.dumps(data))):
        pictures = [*splits.train.pictures, *splits.val.pictures]
        before = pa.total_allocated_bytes()
        assert [blob.read() for blob in pictures] == wanted
        assert 2 * 2**20 < pa.total_allocated_bytes() - before < 8 * 2**20  # the reader's threads let go a little later
    for file in tmp_path.iterdir():
        file.unlink()
    assert [blob.read() for blob in pictures[-6:]] == wanted[-6:]  # still kept
    with pytest.raises(DataError, match="can be read"):
        pictures[0].read()
    monkeypatch.setattr(hub, "KEPT_BYTES", 1)
    kept = hub.Groups()
    for group in range(2):
        kept.keep("a", group, pa.chunked_array([[group]]))
    assert kept.get("a", 0) is None and kept.get("a", 1) is not None


@pytest.mark.shared
def test_fashion_mnist_and_the_archive_of_cifar_are_read_whole(shared: Path) -> None:
    fashion = open_data(shared / "data" / "fashion-mnist")
    assert isinstance(fashion, Splits) and fashion.test is not None
    assert fashion.train.counts().tolist() == [6000] * 10 and fashion.test.counts().tolist() == [1000] * 10
    cifar = open_data(shared / "data" / "cifar10-jpeg.tar.gz")
    assert isinstance(cifar, Splits) and cifar.test is not None and cifar.train.class_names[0] == "airplane"
    assert cifar.train.counts().tolist() == [5000] * 10 and cifar.test.counts().tolist() == [1000] * 10
