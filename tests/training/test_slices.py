"""A step is the same step however its batch is cut into slices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.mae_sketch import MaskedAutoencoder
from training.sliced import loader, numbers, train
from vitkit import VisionTransformer
from vitkit.data.batch import Batch
from vitkit.data.slices import Slices
from vitkit.model.block import DropPath, dropping_as_one

CLOSE = {torch.float32: 1e-5, torch.float64: 1e-9}


@pytest.fixture(scope="module", params=CLOSE, ids=str)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.dtype, Path]:
    folder = tmp_path_factory.mktemp("whole")
    train(folder, slices=Slices(), dtype=request.param)
    return request.param, folder


@pytest.mark.parametrize("accumulate", [2, 4, 5])
def test_accumulation_gives_the_same_training(whole: tuple[torch.dtype, Path], accumulate: int, tmp_path: Path) -> None:
    dtype, folder = whole
    train(tmp_path, slices=Slices(accumulate=accumulate), dtype=dtype)
    for name, count in (("loss", 52), ("grad_norm", 50), ("accuracy", 2)):
        expected, found = numbers(folder, name), numbers(tmp_path, name)
        assert len(expected) == count and found == pytest.approx(expected, rel=0, abs=CLOSE[dtype]), name
    assert min(numbers(folder, "grad_norm")) < 0.5 < max(numbers(folder, "grad_norm"))


@pytest.mark.parametrize("step", [0, 4])
@pytest.mark.parametrize("total", [2, 3, 7])
@pytest.mark.parametrize("augment", ["photos", "three_augment"])
def test_slices_hold_what_the_batch_holds(augment: str, total: int, step: int) -> None:
    whole = loader(training=True, slices=Slices(), augment=augment).batch(step)
    seen = torch.zeros(len(whole))
    for process in range(total):
        [batch] = loader(training=True, slices=Slices(process, total), augment=augment).batches(step, step + 1)
        assert batch.part is not None and batch.whole_size == len(whole)
        if batch.share == 0:  # more slices than pairs: something to compute that doesn't count
            assert len(batch) == 1
            continue
        rows = batch.part.rows
        seen[rows] += 1
        assert batch.share == len(rows) / len(whole)
        torch.testing.assert_close(batch.views[0], whole.views[0][rows])
        torch.testing.assert_close(batch.targets["label_weights"], whole.targets["label_weights"][rows])
        assert torch.equal(batch.index, whole.index[rows])
    assert torch.equal(seen, torch.ones(len(whole)))


def in_slices(compute: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
    """What `compute` says of each of three slices of the first batch, each times its share."""
    total = torch.zeros(())
    for process in range(3):
        [part] = loader(training=True, slices=Slices(process, 3)).batches(0, 1)
        torch.manual_seed(5)
        total = total + compute(part) * part.share
    return total


def test_an_objective_that_draws_for_the_whole_batch_is_cut_exactly() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(image_size=8, patch_size=2, num_classes=0, embed_dim=16, depth=1, num_heads=2, mlp_dim=32)
    objective = MaskedAutoencoder(model.spec)
    batch = loader(training=True, slices=Slices()).batch(0)
    torch.manual_seed(5)
    expected = objective(model, batch, 0).total
    torch.testing.assert_close(in_slices(lambda part: objective(model, part, 0).total), expected)


def test_drop_path_of_several_views_at_once_keeps_to_its_pictures() -> None:
    path = DropPath(0.5)
    x = torch.randn(2 * 10, 3, 4)  # two views of ten pictures
    torch.manual_seed(5)
    expected = path(x)
    for rows in (torch.tensor([0, 1, 8, 9]), torch.arange(2, 8)):
        torch.manual_seed(5)
        with dropping_as_one(path, rows, 10):
            found = path(x.view(2, 10, 3, 4)[:, rows].flatten(0, 1))
        assert torch.equal(found, expected.view(2, 10, 3, 4)[:, rows].flatten(0, 1))
    assert path.rows is None
