"""Folders, CSV files, digits, arrays and Datasets become samples, or one line that says every fault."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from torch.utils.data import Dataset

from small import picture_file
from vitkit.data.depth import find_value_range
from vitkit.data.doctor.pictures import look
from vitkit.data.doctor.survey import survey
from vitkit.data.readable import find_unreadable, leave_out
from vitkit.data.samples import Samples, Splits
from vitkit.data.sources.arrays import read_arrays
from vitkit.data.sources.dataset import read_dataset
from vitkit.data.sources.digits import read_digits
from vitkit.data.sources.folder import read_folder
from vitkit.data.sources.open import open_data
from vitkit.data.sources.table import read_table
from vitkit.data.split import digest_pictures
from vitkit.errors import ConfigError, DataError, ImageError


def make(folder: Path, *pictures: str) -> Path:
    for seed, name in enumerate(pictures):
        picture_file(folder / name, 8, 9, seed=seed)
    return folder


def refused(source: Path | str) -> str:
    with pytest.raises(DataError) as caught:
        open_data(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_class_folders_are_sorted_classes(tmp_path: Path) -> None:
    samples = open_data(make(tmp_path, "rose/b.png", "rose/a.png", "daisy/deep/c.png", ".hidden/x.png"))
    assert isinstance(samples, Samples)
    assert samples.class_names == ("daisy", "rose")
    assert [Path(str(path)).name for path in samples.pictures] == ["c.png", "a.png", "b.png"]
    assert samples.labels.tolist() == [0, 1, 1] and samples.counts().tolist() == [1, 2]


def test_folders_of_digits_are_sorted_by_value(tmp_path: Path) -> None:
    assert read_folder(make(tmp_path, "10/a.png", "9/a.png")).class_names == ("9", "10")


def test_faults_of_a_folder(tmp_path: Path) -> None:
    assert "isn't there; give a folder of class folders, a file (.csv, " in refused(tmp_path / "absent")
    assert "has no class folders; put each picture" in refused(make(tmp_path / "flat", "a.png"))
    assert "it has 1 class (rose); learning to tell needs two or more" in refused(make(tmp_path / "one", "rose/a.png"))
    both = make(tmp_path / "both", "rose/a.png", "loose.png")
    (both / "empty").mkdir()
    (both / "words").mkdir()
    (both / "words" / "note.txt").write_text("hello")
    said = refused(both)
    assert re.search(
        r"empty holds no picture \(0 other files\).*'loose.png' lies in no.*words holds no picture \(1", said
    )


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_a_split_folder_is_read_as_it_is_split(tmp_path: Path, val: str, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "train/a/1.png", "train/b/2.png", "train/c/3.png", f"{val}/c/4.png", f"{val}/a/5.png")
    with caplog.at_level(logging.WARNING, "vitkit"):
        splits = open_data(tmp_path)
    assert isinstance(splits, Splits) and splits.val is not None and splits.test is None
    assert splits.val.class_names == ("a", "b", "c") and splits.val.labels.tolist() == [0, 2]
    assert f"{tmp_path / val} holds no picture of class 'b'".replace("'", "") in caplog.text.replace("'", "")


def test_train_val_and_test_are_kept_apart(tmp_path: Path) -> None:
    splits = open_data(make(tmp_path, *(f"{part}/{name}/1.png" for part in ("train", "val", "test") for name in "ab")))
    assert isinstance(splits, Splits) and splits.test is not None
    assert splits.held_out() == [splits.val, splits.test] and splits.test.name == str(tmp_path / "test")


def test_a_test_part_never_stands_for_val(tmp_path: Path) -> None:
    splits = open_data(make(tmp_path, "train/a/1.png", "train/b/2.png", "test/b/3.png"))
    assert isinstance(splits, Splits) and splits.test is not None
    assert splits.val is None and splits.held_out() == [splits.test] and splits.test.labels.tolist() == [1]


def test_faults_of_a_split_folder(tmp_path: Path) -> None:
    make(tmp_path / "s", "train/rose/1.png", "train/lily/1.png", "val/Rose/1.png", "test/lily/1.png", "test/oak/1.png")
    assert "classes that aren't in train: val/Rose; nearest: rose; test/oak" in refused(tmp_path / "s")
    assert "val and valid; which one is meant" in refused(
        make(tmp_path / "t", "train/a/1.png", "val/a/1.png", "valid/a/1.png")
    )
    (make(tmp_path / "u", "train/a/1.png", "train/b/1.png", "val/a/1.png") / "val" / "b").mkdir()
    assert "b holds no picture" in refused(tmp_path / "u")
    assert "it has 1 class (a)" in refused(make(tmp_path / "v", "train/a/1.png", "val/a/1.png"))


@pytest.mark.parametrize(("train", "held_out"), [("Train", "Test"), ("Training", "TESTING"), ("TRAIN", "Validation")])
def test_parts_by_their_other_names_are_no_classes(
    train: str, held_out: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, *(f"{part}/{name}/1.png" for part in (train, held_out, "Extra") for name in "ab"))
    with caplog.at_level(logging.WARNING, "vitkit"):
        splits = open_data(tmp_path)
    assert isinstance(splits, Splits) and splits.train.class_names == ("a", "b")
    assert [part.name for part in splits.held_out()] == [str(tmp_path / held_out)]
    assert "isn't read: Extra" in caplog.text
    assert survey(tmp_path).part_names == (train, held_out)
    assert "Train and train; which one" in refused(
        make(tmp_path / "twice", "Train/a/1.png", "train/b/1.png", "test/a/1.png")
    )


def test_a_folder_called_train_alone_is_a_class(tmp_path: Path) -> None:
    samples = open_data(make(tmp_path, "train/1.png", "plane/1.png"))
    assert isinstance(samples, Samples) and samples.class_names == ("plane", "train")


def test_a_csv_file_names_its_classes(tmp_path: Path) -> None:
    make(tmp_path, "p/1.png", "p/2.png", "p/3.png")
    file = tmp_path / "list.csv"
    file.write_text('id,label,path\n1, "10",p/1.png\n2,9,p/2.png\n\n3,10,p/3.png\n', "utf-8")
    samples = open_data(str(file))
    assert isinstance(samples, Samples)
    assert samples.class_names == ("9", "10") and samples.labels.tolist() == [1, 0, 1]
    assert samples.pictures[0] == str(tmp_path / "p/1.png")
    file.write_text("path,label\np/1.png,10\np/2.png,9\np/3.png,x\n", "utf-8")
    assert read_table(file).class_names == ("10", "9", "x")


def test_faults_of_a_csv_file(tmp_path: Path) -> None:
    make(tmp_path, "1.png")
    file = tmp_path / "list.csv"

    def said(text: str) -> str:
        file.write_text(text, "utf-8")
        return refused(file)

    assert "2 columns" not in said("path,label\n1.png,a\n2.png,b\n")
    many = said("path,label\n1.png,a\n1.png,b\nhttp://x/y.png,c\nq.png,d\n,e\n1.png\n")
    for part in (
        "line 3 lists '1.png' again, after line 2",
        "line 4: 'http://x/y.png' is a URL",
        "line 5: ",
        "isn't there",
        "line 6 has no path",
        "line 7 has 1 cells under 2 columns",
    ):
        assert part in many
    assert "0 columns 'label' or 'labels' in its header (path, lable); nearest: lable" in said("path,lable\n")
    assert "it lists no picture" in said("path,label\n")
    assert "it has 1 class (a)" in said("path,label\n1.png,a\n")
    file.write_bytes(b"path,label\n\xff,1\n")
    assert "isn't a CSV file in UTF-8" in refused(file)


def test_the_digits_are_scikit_learns() -> None:
    samples, bundle = read_digits(), load_digits()
    pixels = np.stack(samples.pictures)
    assert pixels.shape == (1797, 8, 8, 1) and pixels.dtype == np.uint8 and pixels.max() == 255
    assert np.abs(pixels[..., 0] - bundle.images * 255 / 16).max() <= 0.5
    assert (samples.labels == bundle.target).all() and samples.class_names == tuple("0123456789")
    assert samples.describe(3) == "digits[3]"


def test_absent_scikit_learn_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'vitkit\[train\]'"):
        open_data("digits")


def test_faults_of_arrays() -> None:
    pixels = np.zeros((3, 4, 4, 1), np.uint8)
    with pytest.raises(DataError, match=r"picture 1 is array \[4, 4\] bool; give numbers"):
        read_arrays([pixels[0], np.zeros((4, 4), bool)], [0, 1], "ab")
    with pytest.raises(DataError, match="3 pictures and 2 labels; label 5 of picture 1 isn't in 0..1"):
        read_arrays(pixels, [0, 5], "ab")
    with pytest.raises(DataError, match="class names repeat: a, a"):
        read_arrays(pixels, [0, 0, 0], "aa")
    with pytest.raises(DataError, match="labels are float64"):
        read_arrays(pixels, [0.5, 1, 1], "ab")  # type: ignore[list-item]


class Items(Dataset[Any]):
    def __init__(self, items: list[tuple[Any, int]]) -> None:
        self.items = items
        self.fetched: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, at: int) -> tuple[Any, int]:
        self.fetched.append(at)
        return self.items[at]


def test_a_dataset_is_fetched_when_asked() -> None:
    dataset = Items([(np.full((2, 2, 3), at, np.uint8), at % 2) for at in range(4)])
    samples = read_dataset(dataset)
    assert samples.class_names == ("0", "1") and samples.labels.tolist() == [0, 1, 0, 1]
    part = samples.subset(np.array([3, 1]), "part")
    dataset.fetched.clear()
    assert part.pictures[0][0, 0, 0] == 3 and dataset.fetched == [3]  # type: ignore[index]
    dataset.targets, dataset.classes = [1, 0, 1, 0], ["x", "y"]  # type: ignore[attr-defined]
    dataset.fetched.clear()
    told = read_dataset(dataset)
    assert told.labels.tolist() == [1, 0, 1, 0] and told.class_names == ("x", "y") and dataset.fetched == []
    assert read_dataset(dataset, ["p", "q"]).class_names == ("p", "q")


def test_what_a_dataset_does_not_give_is_an_error_and_not_its_end() -> None:
    class Items(list[Any]):
        targets = (0, 1, 0, 1)

        def __getitem__(self, at: Any) -> Any:
            if at == 2:
                raise IndexError("list index out of range")
            return super().__getitem__(at)

    samples = read_dataset(Items((np.zeros((2, 2), np.uint8), 0) for _ in range(4)), name="own")
    with pytest.raises(ImageError, match=r"^item 2 of the dataset can't be fetched \(IndexError: list index"):
        list(samples.subset(np.array([3, 2, 1]), "part").pictures)
    with pytest.raises(DataError, match=r"own: 1 pictures can't be read: own\[2\] \(item 2 .* \(IndexError: list"):
        digest_pictures(samples)
    assert look(samples).errors.keys() == {2}
    assert find_unreadable(samples) == {"": [2]}
    kept, names = leave_out(samples, {"": [2]})
    assert isinstance(kept, Samples) and len(list(kept.pictures)) == 3 and names == ("own[2]",)
    find_value_range(samples)  # of the others


def parity(target: int) -> int:
    return target % 2


def test_labels_are_as_the_transforms_of_a_dataset_leave_them() -> None:
    class Vision(Items):
        """As torchvision's: MNIST and its kin apply `target_transform`; `transforms` wraps what is given apart."""

        transform: Any = None
        target_transform: Any = None
        transforms: Any = None
        targets = (0, 1, 2, 3)

        def __getitem__(self, at: int) -> tuple[Any, int]:
            picture, target = super().__getitem__(at)
            return picture, (self.target_transform or int)(target)

    plain, changed, together = (Vision([(np.zeros((2, 2, 3), np.uint8), at) for at in range(4)]) for _ in range(3))
    plain.transform = plain.transforms = np.asarray
    assert read_dataset(plain).labels.tolist() == [0, 1, 2, 3] and not plain.fetched
    changed.target_transform = changed.transforms = parity
    assert read_dataset(changed).labels.tolist() == [0, 1, 0, 1]
    together.transforms = parity
    assert read_dataset(together).labels.tolist() == [0, 1, 2, 3] and together.fetched == [0, 1, 2, 3]


def test_splits_must_agree() -> None:
    pixels = np.zeros((3, 4, 4, 1), np.uint8)
    train = read_arrays(pixels, [0, 1, 1], "ab", name="train")
    with pytest.raises(
        DataError, match="class names of v aren't those of train: it holds classes that train doesn't: 'c'"
    ):
        Splits(train, read_arrays(pixels, [0, 1, 1], "ac", name="v"))
    with pytest.raises(DataError, match="v .*it orders them differently; t holds no picture"):
        Splits(train, read_arrays(pixels, [0, 1, 1], "ba", name="v"), train.subset(np.arange(0), "t"))
    with pytest.raises(
        DataError, match=r"fewer pictures \(3\) than classes \(5\); no picture of class 'c'; 'd'; 'e'; add"
    ):
        Splits(read_arrays(pixels, [0, 1, 1], "abcde"), train)
