"""The split is stratified, seeded, blind to names and order, and keeps equal pictures together."""

from __future__ import annotations

import logging
import random
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small import picture_file
from vitkit.data.samples import Samples, Splits
from vitkit.data.sources.arrays import read_arrays
from vitkit.data.sources.digits import read_digits
from vitkit.data.sources.open import open_data
from vitkit.data.split import split
from vitkit.errors import ConfigError, DataError
from vitkit.files import sha256_of


def samples_of(contents: list[tuple[int, int]], classes: int) -> Samples:
    """A picture for each (content, label)."""
    pictures = [np.full((1, 1, 1), content, np.uint8) for content, _ in contents]
    return read_arrays(pictures, [label for _, label in contents], [str(at) for at in range(classes)])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=4, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_its_promises(drawn: list[tuple[int, int]], fraction: float, seed: int) -> None:
    contents = [*drawn, *((200 + at, at // 2) for at in range(8))]  # every class has two pictures of its own
    samples = samples_of(contents, 4)
    splits = split(samples, val_fraction=fraction, seed=seed)
    train, val = ({int(picture[0, 0, 0]) for picture in part.pictures} for part in (splits.train, splits.val))  # type: ignore[index]
    assert not train & val and train | val == {content for content, _ in contents}
    assert len(splits.train) + len(splits.val) == len(samples)
    assert (splits.train.counts() > 0).all() and (splits.val.counts() > 0).all()
    labels = defaultdict(set)
    for content, label in contents:
        labels[content].add(label)
    assert all(len(labels[content]) == 1 for content in val)


def test_parts_are_stratified() -> None:
    samples = read_digits()
    splits = split(samples, val_fraction=0.2, seed=3)
    assert np.abs(splits.val.counts() - 0.2 * samples.counts()).max() <= 0.5
    others = split(samples, val_fraction=0.2, seed=4)
    assert not np.array_equal(np.stack(splits.val.pictures), np.stack(others.val.pictures))


def test_it_is_the_same_on_every_machine() -> None:
    first = split(read_digits()).val.pictures[:5]
    assert [int(np.asarray(picture).sum()) for picture in first] == [4080, 5021, 4098, 5724, 4670]  # as first written


def test_names_and_order_do_not_matter(tmp_path: Path) -> None:
    for seed in range(40):
        picture_file(tmp_path / "a" / "ab"[seed % 2] / f"{seed:02}.png", 4, 4, seed=seed)
    names = random.Random(0).sample(range(40), 40)
    for path, name in zip(sorted((tmp_path / "a").rglob("*.png")), names, strict=True):
        copy = tmp_path / "b" / path.parent.name / f"{name}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    held = []
    for folder in ("a", "b"):
        samples = open_data(tmp_path / folder)
        assert isinstance(samples, Samples)
        held.append({sha256_of(Path(str(path))) for path in split(samples, seed=1).val.pictures})
    assert held[0] == held[1] and len(held[0]) == 8


def test_a_class_of_one_picture_is_learnt_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "vitkit"):
        splits = split(samples_of([(1, 0), (2, 0), (3, 1), (3, 1)], 2))
    assert splits.val.counts().tolist() == [1, 0] and splits.train.counts().tolist() == [1, 2]
    assert "holds no picture of class 1" in caplog.text


def test_parts_that_are_there_stay() -> None:
    train, other = samples_of([(at, at % 2) for at in range(10)], 2), samples_of([(20, 0), (21, 1)], 2)
    whole = Splits(train, other, other)
    assert split(whole) is whole
    taken, plain = split(Splits(train, None, other), val_fraction=0.4, seed=1), split(train, val_fraction=0.4, seed=1)
    assert taken.test is other and len(plain.val.labels) == 4
    for mine, theirs in ((taken.train, plain.train), (taken.val, plain.val)):
        assert mine.pictures == theirs.pictures and mine.labels.tolist() == theirs.labels.tolist()


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="val_fraction is 1"):
        split(read_digits(), val_fraction=1)
    with pytest.raises(DataError, match="no two different pictures of any class"):
        split(samples_of([(1, 0), (2, 1)], 2))
    paths = tuple(str(tmp_path / f"{at}.png") for at in range(12))
    gone = Samples(paths, np.arange(12) % 2, ("a", "b"), "gone")
    with pytest.raises(DataError, match=r"gone: 12 pictures can't be read: .*0\.png \(No such file.*and 2 more$"):
        split(gone)


@pytest.mark.shared
def test_equal_flowers_stay_together(shared: Path) -> None:
    samples = open_data(shared / "data" / "flowers")
    assert isinstance(samples, Samples)
    splits = split(samples, seed=0)
    assert np.abs(splits.val.counts() - 0.2 * samples.counts()).max() <= 0.5
    train, val = ([sha256_of(Path(str(path))) for path in part.pictures] for part in (splits.train, splits.val))
    assert not set(train) & set(val)
    assert len(samples) - len({*train, *val}) == 6


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.6), st.integers(1, 4))
def test_its_promises_with_several_labels(seed: int, fraction: float, classes: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.random((40, classes)) < draw.uniform(0.05, 0.9, classes)
    labels[: 2 * classes] = np.repeat(np.eye(classes, dtype=bool), 2, axis=0)  # every class has two pictures of its own
    contents = draw.integers(0, 30, 40)
    contents[: 2 * classes] = 100 + np.arange(2 * classes)
    samples = read_arrays([np.full((1, 1, 1), value, np.uint8) for value in contents], labels, list("abcd")[:classes])
    splits = split(samples, val_fraction=fraction, seed=seed)
    assert splits.val is not None and splits.val.multi_label
    train, val = ({int(picture[0, 0, 0]) for picture in part.pictures} for part in (splits.train, splits.val))  # type: ignore[index]
    assert not train & val and len(splits.train) + len(splits.val) == 40
    assert (splits.train.counts() > 0).all() and (splits.val.counts() > 0).all()
    for content in val:  # whose labels contradict each other is learnt from
        assert len(np.unique(labels[contents == content], axis=0)) == 1


def test_several_labels_are_stratified_the_rarest_first() -> None:
    labels = np.random.default_rng(0).random((1000, 5)) < (0.01, 0.05, 0.2, 0.5, 0.9)
    samples = read_arrays(np.arange(1000, dtype=np.uint16).view(np.uint8).reshape(1000, 1, 2), labels, list("abcde"))
    for seed in range(5):
        splits = split(samples, val_fraction=0.2, seed=seed)
        assert splits.val is not None
        shares = splits.val.counts() / samples.counts()
        assert np.abs(shares - 0.2).max() < 0.05 and splits.val.counts()[0] == round(0.2 * samples.counts()[0])
