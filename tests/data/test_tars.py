"""Tar archives and shards are the same pictures and labels as in a folder, for any worker; none is read short."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from archives import contents, hub_table, jpeg, shard, tar_file
from small import PREPROCESS, picture_file
from vitkit.data import split
from vitkit.data.samples import Samples, Splits
from vitkit.data.sources import tar
from vitkit.data.sources.open import open_data
from vitkit.data.sources.tar import expand_braces
from vitkit.data.store import make_store
from vitkit.data.workers import Workers
from vitkit.errors import DataError


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


def test_one_shard_by_braces_and_endings_in_capitals(tmp_path: Path) -> None:
    members = {
        f"{n}.{ending}": content
        for n in range(4)
        for ending, content in (("CLS", b"ab"[n % 2 :][:1]), ("JPG", jpeg(n)))
    }
    tar_file(tmp_path / "train-0007.tar", members)
    data = open_data(f"{tmp_path}/train-{{0007..0007}}.tar")
    assert isinstance(data, Samples) and contents(data) == [(jpeg(n), "ab"[n % 2]) for n in range(4)]
    with pytest.raises(DataError, match=r"train-0008.tar isn't there"):
        open_data(f"{tmp_path}/train-{{0008..0008}}.tar")


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


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize("fault", ["header", "appended", "cut"])
def test_an_archive_that_tarfile_reads_short_is_refused(ending: str, fault: str, tmp_path: Path) -> None:
    path = shard(tmp_path / "whole.tar", 0, 9)
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    middle, end = members[8].offset, members[-1].offset_data + -(-members[-1].size // 512) * 512
    content = {
        "header": whole[:middle] + b"\xff" + whole[middle + 1 :],
        "appended": whole + whole,
        "cut": whole[:middle],
    }[fault]
    if fault == "cut" and ending == "tar.gz":
        content = gzip.compress(whole)[:-500]
    elif ending == "tar.gz":
        content = gzip.compress(content)
    assert not any(whole[end:])
    said = {
        "header": f"damaged at byte {middle:,}",
        "appended": f"at byte {end:,}, or another archive was appended",
        "cut": f"cut off at byte {middle:,}" if ending == "tar" else "can't be read",
    }
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said[fault]):
        open_data(path)


def test_shards_in_gzip_share_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at, part in enumerate(("train-0", "train-1", "val-0")):
        shard(tmp_path / f"{part}.tar.gz", 10 * at, 9)
    data = open_data(tmp_path)
    assert isinstance(data, Splits) and data.val is not None
    held = [sum(len(blob.read()) for blob in part.pictures) for part in (data.train, data.val)]  # type: ignore[union-attr]
    assert [data.train.held_bytes, data.val.held_bytes] == held
    labels = 27
    monkeypatch.setattr(tar, "memory_limit", lambda: sum(held) + labels)
    assert isinstance(open_data(tmp_path), Splits)
    monkeypatch.setattr(tar, "memory_limit", lambda: sum(held) + labels - 1)
    with pytest.raises(DataError, match="val-0.tar.gz, archives in gzip hold more than"):
        open_data(tmp_path)
    plain = open_data(shard(tmp_path / "a.tar", 0, 9))
    assert isinstance(plain, Samples) and plain.held_bytes == 0


def test_an_archive_in_gzip_that_is_too_large_for_memory_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar, "memory_limit", lambda: 1000)
    with pytest.raises(DataError, match="more than 1,000 bytes of pictures.*gunzip"):
        open_data(shard(tmp_path / "a.tar.gz", 0, 9))


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
