"""Arrays, archives and data sets of the Hub are the same pictures and labels as in a folder, for any worker."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from small import PREPROCESS, picture, picture_file
from vitkit.data import split
from vitkit.data.samples import Samples, Splits
from vitkit.data.sources import tar
from vitkit.data.sources.open import open_data
from vitkit.data.sources.tar import expand_braces
from vitkit.data.store import make_store
from vitkit.data.workers import Workers
from vitkit.errors import DataError

CODES = {"u1": 0x08, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D}


def idx_file(path: Path, array: NDArray[Any], dtype: str = "u1") -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, CODES[dtype], array.ndim, *array.shape)
    content = header + array.astype(dtype).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def figures(count: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 8, 8), dtype=np.uint8), (np.arange(count) % 3 + 1).astype(np.uint8)


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(40, 50, seed=seed).save(buffer, "JPEG")
    return buffer.getvalue()


def tar_file(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def shard(path: Path, first: int, count: int, label: str = "cls") -> Path:
    members: dict[str, bytes] = {}
    for number in range(first, first + count):
        said = {"cls": str(number % 3).encode(), "json": json.dumps({"label": "abc"[number % 3], "w": 1}).encode()}
        members |= {f"{number:06d}.{label}": said[label], f"{number:06d}.jpg": jpeg(number)}
    return tar_file(path, members)


def contents(samples: Samples) -> list[tuple[Any, str]]:
    """Every picture's bytes, also as another process reads them, and its class."""
    found = []
    for at, blob in enumerate(samples.pictures):
        content = blob.read()  # type: ignore[union-attr]
        assert pickle.loads(pickle.dumps(blob)).read() == content
        found.append((content, samples.label_text(at)))
    return found


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


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize("top", ["", "./", "pets/"])
def test_a_tar_of_class_folders_is_that_folder(ending: str, top: str, tmp_path: Path) -> None:
    files = {f"{part}/{'ab'[n % 2]}/{n}.jpg": jpeg(n) for n in range(8) for part in ("train", "test")}
    path = tar_file(tmp_path / f"a.{ending}", {f"{top}{name}": content for name, content in files.items()})
    data = open_data(path)
    assert isinstance(data, Splits) and data.test is not None and data.train.class_names == ("a", "b")
    for part, samples in (("train", data.train), ("test", data.test)):
        wanted = [(files[f"{part}/{'ab'[n % 2]}/{n}.jpg"], "ab"[n % 2]) for n in range(8)]
        assert contents(samples) == wanted
    assert data.train.describe(3) == f"{path}/{top}train/b/3.jpg"
    assert len(split.split(data, seed=0).val or ()) == 2


def test_folders_of_an_archive_that_are_no_part_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {f"{part}/{label}/1.jpg": jpeg(0) for part in ("Training", "Testing", "extra") for label in "ab"}
    data = open_data(tar_file(tmp_path / "a.tar", files))
    assert isinstance(data, Splits) and data.train.class_names == ("a", "b") and data.test is not None
    assert len(data.train) == len(data.test) == 2 and "isn't read: extra" in caplog.text
    with pytest.raises(DataError, match="Testing and test; which one is meant"):
        open_data(tar_file(tmp_path / "b.tar", files | {"test/a/2.jpg": jpeg(0)}))


def test_names_in_an_archive_are_only_names(tmp_path: Path) -> None:
    names = ["../../a/0.jpg", "../../b/1.jpg", "../../.hidden.jpg", "../../notes.txt"]
    path = tar_file(tmp_path / "a.tar", {name: jpeg(at) for at, name in enumerate(names)})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("../../b/2.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    data = open_data(path)
    assert isinstance(data, Samples) and data.class_names == ("a", "b") and len(data) == 2
    make_store(data, PREPROCESS, training=True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("label", ["cls", "json"])
def test_shards_by_braces_and_by_folder(label: str, tmp_path: Path) -> None:
    for at in range(3):
        shard(tmp_path / f"train-{at:04d}.tar", 10 * at, 10, label)
    shard(tmp_path / "val-0000.tar", 100, 5, label)
    names = "012" if label == "cls" else "abc"
    by_braces = open_data(f"{tmp_path}/train-{{0000..0002}}.tar")
    assert isinstance(by_braces, Samples) and by_braces.class_names == tuple(names)
    assert contents(by_braces) == [(jpeg(n), names[n % 3]) for n in range(30)]
    by_folder = open_data(tmp_path)
    assert isinstance(by_folder, Splits) and by_folder.val is not None
    assert contents(by_folder.train) == contents(by_braces)
    assert contents(by_folder.val) == [(jpeg(n), names[n % 3]) for n in range(100, 105)]


PART_FILES = {
    "imagenet1k": ("imagenet1k-train-0000", "imagenet1k-train-0001", "imagenet1k-validation-00", None),
    "cifar10": ("cifar10_train-0", "cifar10_train-1", None, "cifar10_test"),
    "ing": ("training-0", "training-1", "dev-0", "testing-0"),
    "capitals": ("digitsTrain0", "digitsTrain1", None, "digitsTEST"),
    "first": ("train-0", "train-1", "valid-0", "test-0"),
}


@pytest.mark.parametrize("kind", ["tar", "parquet"])
@pytest.mark.parametrize("names", PART_FILES.values(), ids=PART_FILES)
def test_a_word_anywhere_in_a_files_name_is_its_part(
    names: tuple[str | None, ...], kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for at, name in enumerate((*names, "extra-0")):
        if name and kind == "tar":
            shard(tmp_path / f"{name}.tar", 10 * at, 6)
        elif name:
            pq.write_table(hub_table(10 * at, 6), tmp_path / f"{name}.parquet")
    data = open_data(tmp_path)
    assert isinstance(data, Splits)
    assert [content for content, _ in contents(data.train)] == [jpeg(n) for n in (*range(6), *range(10, 16))]
    for name, samples, first in zip(names[2:], (data.val, data.test), (20, 30), strict=True):
        found = samples and [content for content, _ in contents(samples)]
        assert found == (name and [jpeg(n) for n in range(first, first + 6)])
    assert f"isn't read: extra-0.{kind}" in caplog.text


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train-0", "more-0"), "more-0.tar is of no part, beside files of train"),
        (("more-0", "test-0"), "more-0.tar is of no part, beside files of test"),
        (("train-0", "train-test-0"), "train-test-0.tar is called train and test"),
        (("train-0", "val-0", "valid-0"), "val and valid; which one is meant"),
        (("val-0", "test-0"), "holds val, test, and no part called train"),
    ],
)
def test_shards_of_no_clear_part_are_refused(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    for at, name in enumerate(names):
        shard(tmp_path / f"{name}.tar", 10 * at, 6)
    with pytest.raises(DataError, match=said):
        open_data(tmp_path)


def test_shards_of_one_part_are_what_was_asked_for(tmp_path: Path) -> None:
    for at in range(2):
        shard(tmp_path / f"test-{at}.tar", 10 * at, 6)
    for asked in (f"{tmp_path}/test-{{0..1}}.tar", tmp_path):
        data = open_data(asked)
        assert isinstance(data, Samples) and len(data) == 12


def test_braces_are_as_in_a_shell() -> None:
    assert expand_braces("a-{08..11}-{0..1}.tar")[:3] == ["a-08-0.tar", "a-08-1.tar", "a-09-0.tar"]
    assert len(expand_braces("a-{08..11}-{0..1}.tar")) == 8 and expand_braces("a.tar") == ["a.tar"]


def test_shards_with_lists_have_several_labels(tmp_path: Path) -> None:
    said = [["a", "b"], ["b"], []]
    members = {
        f"{n}.{kind}": json.dumps({"labels": said[n]}).encode() if kind == "json" else jpeg(n)
        for n in range(3)
        for kind in ("json", "jpg")
    }
    data = open_data(tar_file(tmp_path / "a.tar", members))
    assert isinstance(data, Samples) and data.labels.tolist() == [[True, True], [False, True], [False, False]]


def test_every_fault_of_shards_is_named(tmp_path: Path) -> None:
    members = {
        "a/0.jpg": jpeg(0),
        "a/1.cls": b"0",
        "a/2.jpg": jpeg(2),
        "a/2.cls": b"\xff",
        "a/3.jpg": jpeg(3),
        "a/3.json": b'{"caption": "x"}',
        "a/4.jpg": jpeg(4),
        "a/4.png": jpeg(4),
        "a/4.cls": b"1",
    }
    tar_file(tmp_path / "train-0.tar", members)
    with pytest.raises(DataError) as refusal:
        open_data(f"{tmp_path}/train-{{0..2}}.tar")
    for said in (
        "train-1.tar isn't there",
        "train-2.tar isn't there",
        "a/0 has no label (.cls or .json)",
        "a/1 has no picture",
        "a/2.cls says no label",
        "a/3.json says no label (give a text",
        "a/4.png is a second picture",
    ):
        assert said in str(refusal.value), said


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_cut_archive_is_refused_in_one_line(ending: str, tmp_path: Path) -> None:
    path = shard(tmp_path / f"a.{ending}", 0, 9)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DataError, match="can't be read as a tar archive") as refusal:
        open_data(path)
    assert "\n" not in str(refusal.value)
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="can't be read as a tar archive"):
        open_data(path)


def test_an_archive_in_gzip_that_is_too_large_for_memory_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar, "memory_limit", lambda: 1000)
    with pytest.raises(DataError, match="more than 1,000 bytes of pictures.*gunzip"):
        open_data(shard(tmp_path / "a.tar.gz", 0, 9))


def hub_table(first: int, count: int, *, names: list[str] | None = None) -> pa.Table:
    rows = range(first, first + count)
    pictures = pa.array(
        [{"bytes": jpeg(n), "path": f"{n}.jpg"} for n in rows],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"image": pictures, "label": pa.array([n % 2 for n in rows], pa.int64())})
    label = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    features = {"image": {"_type": "Image"}, "label": label}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


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


def test_any_process_reads_the_same_pixels_of_an_archive(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for n in range(6):
        path = picture_file(tmp_path / "folder" / "abc"[n % 3] / f"{n}.png", seed=n)
        files |= {f"{n}.png": path.read_bytes(), f"{n}.cls": b"abc"[n % 3 : n % 3 + 1]}
    data, folder = open_data(tar_file(tmp_path / "a.tar", files)), open_data(tmp_path / "folder")
    assert isinstance(data, Samples) and isinstance(folder, Samples) and data.class_names == folder.class_names
    # The folder goes class by class, the archive number by number.
    wanted = make_store(folder, PREPROCESS, training=False).take(np.array([0, 2, 4, 1, 3, 5]))
    store = make_store(data, PREPROCESS, training=False, memory_limit_bytes=0)
    workers = Workers(store, 1)
    try:
        (pixels,) = workers.take([np.array([0, 1, 2, 3, 4, 5])])
    finally:
        workers.close()
    assert np.array_equal(pixels, wanted)


@pytest.mark.shared
def test_fashion_mnist_and_the_archive_of_cifar_are_read_whole(shared: Path) -> None:
    fashion = open_data(shared / "data" / "fashion-mnist")
    assert isinstance(fashion, Splits) and fashion.test is not None
    assert fashion.train.counts().tolist() == [6000] * 10 and fashion.test.counts().tolist() == [1000] * 10
    cifar = open_data(shared / "data" / "cifar10-jpeg.tar.gz")
    assert isinstance(cifar, Splits) and cifar.test is not None and cifar.train.class_names[0] == "airplane"
    assert cifar.train.counts().tolist() == [5000] * 10 and cifar.test.counts().tolist() == [1000] * 10
