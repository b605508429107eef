"""Balanced sampling: classes come equally often, pictures of a class as often as each other, all by (seed, epoch)."""

from __future__ import annotations

import numpy as np
import pytest

from small import PREPROCESS
from vitkit.data.augment import Augmentation, AugmentSpec
from vitkit.data.balance import Balance
from vitkit.data.loader import Loader
from vitkit.data.store import MemoryStore

LABELS = np.array([0] * 40 + [1] * 7 + [2] * 3)


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_class_comes_equally_often(epoch: int) -> None:
    drawn, _ = Balance(LABELS).draw(0, epoch)
    counts = np.bincount(LABELS[drawn])
    assert counts.sum() == len(LABELS) and counts.max() - counts.min() <= 1


def test_no_picture_comes_again_before_all_of_its_class_have_come() -> None:
    balance = Balance(LABELS)
    row = np.concatenate([balance.draw(3, epoch)[0] for epoch in range(12)])
    assert np.abs(np.bincount(LABELS[row]) - len(row) / 3).max() <= 1
    for label in range(3):
        members, of_class = np.flatnonzero(label == LABELS), row[LABELS[row] == label]
        for start in range(0, len(of_class) - len(members) + 1, len(members)):
            assert sorted(of_class[start : start + len(members)]) == members.tolist()
    rounds = row[LABELS[row] == 0][:80].reshape(2, 40)
    assert not np.array_equal(*rounds)  # another order in each round


def test_draws_are_a_function_of_seed_and_epoch() -> None:
    first, again, other = (Balance(LABELS).draw(seed, 5) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first[0], other[0])


def test_of_several_labels_each_class_takes_its_turn_and_so_do_pictures_without_any() -> None:
    labels = np.zeros((60, 2), bool)
    labels[:30, 0] = labels[28:32, 1] = True
    drawn, repeats = Balance(labels).draw(0, 0)
    turns = drawn.reshape(20, 3)
    assert labels[turns[:, 0], 0].all() and labels[turns[:, 1], 1].all() and not labels[turns[:, 2]].any()
    assert len(set(zip(drawn.tolist(), repeats.tolist(), strict=True))) == 60


@pytest.mark.parametrize("labels", [np.array([1]), np.array([[True, True, True]])], ids=["one", "several"])
def test_fewer_pictures_than_classes(labels: np.ndarray) -> None:  # type: ignore[type-arg]
    assert Balance(labels).draw(0, 3)[0].tolist() == [0]


def test_a_loader_varies_each_repeat_of_a_picture_anew() -> None:
    store = MemoryStore(np.random.default_rng(0).integers(0, 256, (50, 36, 36, 3), dtype=np.uint8))
    view = Augmentation(AugmentSpec(crop_scale=(0.3, 1.0), flip=0.5), (36, 36), PREPROCESS.size)
    options = {"batch_size": 50, "seed": 4, "shuffle": True, "balanced": True, "augment": (view,)}
    loader = Loader(store, LABELS, 3, PREPROCESS, **options)
    batch = loader.batch(1)
    assert np.array_equal(batch.index, loader.indices(1)) and np.array_equal(
        batch.targets["label"], LABELS[batch.index]
    )
    counts = np.bincount(batch.targets["label"])
    assert counts.max() - counts.min() <= 1
    rare = int(np.bincount(batch.index).argmax())
    same = batch.views[0][batch.index == rare]
    assert len(same) > 4 and all(not same[0].equal(other) for other in same[1:])
    assert sorted(loader.plain().indices(0).tolist()) == list(range(50))
