"""Steps of copies, tried before a training: what they cost is known, and nothing has changed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from small import small_model
from vitkit.data.batch import Batch
from vitkit.training.objective import Classification
from vitkit.training.spec import TrainSpec
from vitkit.training.trial import pace, try_steps

CPU = torch.device("cpu")


class Slow:
    """Batches of two pictures, each of which takes its seconds."""

    steps_per_epoch = 2

    def __init__(self, *seconds: float) -> None:
        self.seconds = seconds
        self.given = 0

    def batches(self, start: int, stop: int, stride: int = 1, **_: object) -> Iterator[Batch]:
        for seconds in self.seconds[start:stop:stride]:
            time.sleep(seconds)
            self.given += 1
            yield Batch((torch.randn(2, 3, 32, 32),), {"label": torch.tensor([0, 1])}, torch.arange(2), torch.ones(2))


def test_a_trial_changes_nothing() -> None:
    model = small_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = Slow(0, 0, 0)
    for _ in try_steps(model, Classification(), data, TrainSpec(lr=1.0), 3, device=CPU, dtype=torch.float32):
        pass
    assert data.given == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("seconds", "limit_s", "given", "least", "most"),
    [
        ((0.5, 0, 0, 0, 0.3, 0.3, 0.3, 0.3), 60.0, 8, 0.3, 0.45),  # warm: the second half
        ((0.0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3), 0.0, 2, 0.3, 0.45),
    ],
)
def test_the_pace_is_that_of_warm_steps(
    seconds: tuple[float, ...], limit_s: float, given: int, least: float, most: float
) -> None:
    data = Slow(*seconds)
    spec = TrainSpec(batch_size=2)
    found = pace(small_model(), Classification(), data, spec, limit_s=limit_s, device=CPU, dtype=torch.float32)
    assert data.given == given
    assert least <= found <= most
