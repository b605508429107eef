"""The loop: plans that end in time, signals, the best step, losses that aren't finite, and what it says on the way."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vitkit import DataError, Preprocess, VisionTransformer
from vitkit.data.batch import Batch
from vitkit.data.loader import Loader
from vitkit.data.store import MemoryStore
from vitkit.errors import Interrupted
from vitkit.training import loop, planning
from vitkit.training.log import read_log
from vitkit.training.loop import Fitted, fit
from vitkit.training.objective import Classification, Loss, Objective
from vitkit.training.schedule import lr_scale
from vitkit.training.spec import TrainSpec
from vitkit.training.state import Progress, find_checkpoint

STEPS_PER_EPOCH = 5


class Slow:
    """A loader whose every batch takes its time."""

    def __init__(self, loader: Loader, wait: Callable[[], None]) -> None:
        self.steps_per_epoch = loader.steps_per_epoch
        self._loader = loader
        self._wait = wait

    def batches(self, start: int, stop: int, **early: Any) -> Iterator[Batch]:
        for batch in self._loader.batches(start, stop, **early):
            self._wait()
            yield batch


def pictures(*, training: bool) -> Loader:
    rng = np.random.default_rng(0)
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(size=(8, 8), resize="none", crop="none", interpolation="bicubic", mean=half, std=half)
    store = MemoryStore(rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))
    labels = np.arange(20) % 2
    return Loader(store, labels, 2, preprocess, batch_size=4, shuffle=training, drop_last=training)


def train(
    folder: Path,
    spec: TrainSpec,
    *,
    data: Any = None,
    validation: Any = None,
    objective: Objective | None = None,
    on_step: Callable[[Progress, dict[str, float]], None] | None = None,
) -> Fitted:
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=8, patch_size=4, num_classes=2, embed_dim=8, depth=1, num_heads=2, mlp_dim=8, drop_path=0.1
    )
    return fit(
        model,
        objective or Classification(),
        data or pictures(training=True),
        validation,
        spec,
        folder,
        device=torch.device("cpu"),
        dtype=torch.float32,
        on_step=on_step,
    )


def step_rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_log(folder / "log.jsonl") if row["kind"] == "step"]


# --- a budget in minutes


class FakeTime:
    """A clock that only moves when it is told to, and writing a checkpoint that takes `saving` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, saving: float) -> None:
        self.now = 0.0
        save = loop.save_checkpoint
        for module in (loop, planning):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
            monkeypatch.setattr(module, "save_checkpoint", lambda *arguments: (self.pass_(saving), save(*arguments))[1])

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("step", "evaluation", "saving"), [(0.3, 0.0, 0.0), (0.3, 0.0, 0.4), (0.3, 0.05, 0.0), (2.0, 0.5, 0.4)]
)
def test_a_training_ends_within_its_minutes_with_the_whole_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float, evaluation: float, saving: float
) -> None:
    clock = FakeTime(monkeypatch, saving=saving)
    spec = TrainSpec(epochs=10_000, minutes=1, lr=0.01, final_lr=0.001)
    first = iter([step + 2, step + 0.5])  # caches are cold

    def work() -> None:
        clock.pass_(next(first, step))

    data = Slow(pictures(training=True), work)
    validation = Slow(pictures(training=False), lambda: clock.pass_(evaluation)) if evaluation else None
    progress = train(tmp_path, spec, data=data, validation=validation).progress
    assert progress.seconds == pytest.approx(clock.now)
    assert 0.75 * 60 < progress.seconds <= 60
    rows = step_rows(tmp_path)
    assert len(rows) == progress.steps
    count = len(rows)
    scales = [lr_scale(at, steps=count, warmup_steps=round(0.1 * count), final=0.001) for at in range(count)]
    assert [row["lr"] for row in rows] == pytest.approx([0.01 * scale for scale in scales])
    assert rows[-1]["lr"] == min(row["lr"] for row in rows) < 0.02 * 0.01


def test_a_machine_that_slows_down_gets_a_shorter_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch, saving=0.1)
    paces = itertools.chain([0.25] * 60, itertools.repeat(0.4))
    data = Slow(pictures(training=True), lambda: clock.pass_(next(paces)))
    plans: list[int] = []
    train(
        tmp_path,
        TrainSpec(epochs=10_000, minutes=1, lr=0.01),
        data=data,
        on_step=lambda progress, row: plans.append(progress.steps),
    )
    assert 0.9 * 60 < clock.now <= 60
    assert plans[0] > 1.2 * plans[-1] and plans[-1] == len(plans) and plans == sorted(plans, reverse=True)
    rates = [row["lr"] for row in step_rows(tmp_path)]
    assert rates[-1] < 0.02 * 0.01
    # Never a jump: the warm-up's slope is the steepest there is.
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) <= 0.01 / (0.1 * plans[0]) + 1e-9


def test_a_training_with_more_time_than_it_needs_does_its_epochs(tmp_path: Path) -> None:
    assert train(tmp_path, TrainSpec(epochs=2, minutes=60)).progress.steps == 2 * STEPS_PER_EPOCH
    assert train(tmp_path / "inf", TrainSpec(epochs=2, minutes=float("inf"))).progress.steps == 2 * STEPS_PER_EPOCH


def test_planning_changes_nothing_but_the_number_of_steps(tmp_path: Path) -> None:
    planned = train(tmp_path / "a", TrainSpec(epochs=2, minutes=60), validation=pictures(training=False))
    plain = train(tmp_path / "b", TrainSpec(epochs=2), validation=pictures(training=False))
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, planned.model.state_dict()[name]), name


def test_a_resumed_training_keeps_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch, saving=0)
    spec = TrainSpec(epochs=10_000, minutes=1)
    with pytest.raises(Interrupted):
        train(tmp_path, spec, data=Slow(pictures(training=True), lambda: clock.pass_(1)), on_step=interrupt_at(3))
    last = find_checkpoint(tmp_path / "checkpoints")
    assert last is not None
    planned = json.loads((last / "state.json").read_text())["steps"]
    assert 45 < planned < 60
    resumed = train(tmp_path, spec, data=Slow(pictures(training=True), lambda: clock.pass_(0.1)))
    assert resumed.progress.step == resumed.progress.steps == planned == len(step_rows(tmp_path))


# --- signals


def interrupt_at(step: int, signum: signal.Signals = signal.SIGINT) -> Callable[..., None]:
    def on_step(progress: Progress, row: dict[str, float]) -> None:
        if progress.step == step:
            signal.raise_signal(signum)

    return on_step


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_training_after_its_step(tmp_path: Path, signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted, match="^stopped after step 3; go on with vitkit train --resume ") as caught:
        train(tmp_path, TrainSpec(epochs=2), on_step=interrupt_at(3, signum))
    assert caught.value.signum == signum and signal.getsignal(signum) == before
    assert str(caught.value).endswith(f" {tmp_path}")
    assert find_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-3"
    assert len(step_rows(tmp_path)) == 3


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    def twice(progress: Progress, row: dict[str, float]) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, TrainSpec(epochs=2), on_step=twice)


def test_a_signal_at_the_last_step_finds_the_training_done(tmp_path: Path) -> None:
    fitted = train(tmp_path, TrainSpec(epochs=1), on_step=interrupt_at(STEPS_PER_EPOCH))
    assert fitted.progress.step == STEPS_PER_EPOCH


# --- the best step


class Scripted(Classification):
    """Scores as written down; remembers the weights it was shown."""

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.scores = list(scores)
        self.shown: list[dict[str, torch.Tensor]] = []

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        assert not model.training and sum(len(batch) for batch in batches) == 20
        self.shown.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"accuracy": self.scores.pop(0)}


@pytest.mark.parametrize(("decay", "weights"), [(0.9, "ema"), (0.0, "model")])
def test_best_names_the_step_and_its_folder_holds_the_weights_that_were_scored(
    tmp_path: Path, decay: float, weights: str
) -> None:
    objective = Scripted(0.2, 0.9, 0.5, 0.9, 0.4)
    spec = TrainSpec(epochs=5, ema_decay=decay)
    fitted = train(tmp_path, spec, validation=pictures(training=False), objective=objective)
    folder = tmp_path / "checkpoints"
    assert (folder / "best").read_text() == "step-10\n"  # the first of equals
    assert sorted(path.name for path in folder.iterdir()) == ["best", "step-10", "step-20", "step-25"]
    stored = load_file(folder / "step-10" / f"{weights}.safetensors")
    assert stored.keys() == objective.shown[1].keys()
    assert all(torch.equal(stored[name], value) for name, value in objective.shown[1].items())
    assert (folder / "step-10" / "ema.safetensors").exists() == (weights == "ema")
    # What is handed back is the last step's all the same.
    assert fitted.weights == ("ema" if decay else "raw")
    assert all(torch.equal(fitted.model.state_dict()[name], value) for name, value in objective.shown[-1].items())


def test_a_pointer_that_a_kill_left_behind_is_set_right(tmp_path: Path) -> None:
    whole = pictures(training=False)
    with pytest.raises(Interrupted):
        train(tmp_path, TrainSpec(epochs=4), validation=whole, objective=Scripted(0.2, 0.9), on_step=interrupt_at(12))
    # As if killed between the checkpoint of the second epoch and its pointer, and at other times before.
    folder = tmp_path / "checkpoints"
    (folder / "best").write_text("step-5\n")
    (folder / ".part-a").write_text("step-")
    (folder / ".part-b").mkdir()
    (folder / ".old-step-5").mkdir()
    train(tmp_path, TrainSpec(epochs=4), validation=whole, objective=Scripted(0.5, 0.6))
    assert (folder / "best").read_text() == "step-10\n"
    assert sorted(path.name for path in folder.iterdir()) == ["best", "step-10", "step-15", "step-20"]


def test_evaluations_come_as_often_as_asked_and_at_the_end(tmp_path: Path) -> None:
    said: list[dict[str, float]] = []
    train(
        tmp_path,
        TrainSpec(epochs=5, evaluate_every=2),
        validation=pictures(training=False),
        objective=Scripted(0.25, 0.5, 0.75),
        on_step=lambda progress, row: said.append(row),
    )
    rows = [row for row in read_log(tmp_path / "log.jsonl") if row["kind"] == "evaluation"]
    assert [(row["step"], row["accuracy"]) for row in rows] == [(10, 0.25), (20, 0.5), (25, 0.75)]
    # Each step hears of the last evaluation, its own included.
    assert [row.get("held-out accuracy") for row in said] == [None] * 9 + [0.25] * 10 + [0.5] * 5 + [0.75]
    assert all(row["images_per_s"] > 0 and row["loss"] > 0 and row["lr"] > 0 for row in said)


# --- a loss that isn't finite


class Failing(Classification):
    """Not a number from a step on."""

    def __init__(self, step: int, *, gradient_only: bool = False) -> None:
        super().__init__()
        self.step, self.gradient_only = step, gradient_only

    def forward(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        loss = super().forward(model, batch, step)
        if step < self.step:
            return loss
        if self.gradient_only:
            loss.total.register_hook(lambda gradient: gradient * torch.nan)
            return loss
        return Loss(loss.total * torch.nan, {})


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.parametrize(
    ("step", "kept"), [(0, "no step was good"), (3, "step-0"), (5, "step-0"), (7, "step-5"), (10, "step-5")]
)
def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_the_last_good_state(
    tmp_path: Path, step: int, kept: str, gradient_only: bool
) -> None:
    failing = Failing(step, gradient_only=gradient_only)
    says = rf"^step {step}: the loss is .*, the gradient's norm nan, at learning rate 0\.000\d+ and pictures \d+, "
    with pytest.raises(DataError, match=says) as first:
        train(tmp_path, TrainSpec(epochs=3), objective=failing)
    assert "start anew with a lower --lr; " in str(first.value) and kept in str(first.value)
    assert len(step_rows(tmp_path)) == step
    # A checkpoint of the very weights that gave this loss isn't called good; resumed, the run ends in the same place.
    with pytest.raises(DataError) as second:
        train(tmp_path, TrainSpec(epochs=3), objective=failing)
    assert str(second.value) == str(first.value)
    good = find_checkpoint(tmp_path / "checkpoints", before=step)
    assert (good is None) == (step == 0)
    if good is not None:
        assert good.name == kept
        assert all(value.isfinite().all() for value in load_file(good / "model.safetensors").values())


def test_time_between_checkpoints_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime(monkeypatch, saving=0)
    written: list[str] = []
    save = loop.save_checkpoint

    def note(folder: Path, state: Any) -> Path:
        written.append(save(folder, state).name)
        return folder

    monkeypatch.setattr(loop, "save_checkpoint", note)
    data = Slow(pictures(training=True), lambda: clock.pass_(10))
    train(tmp_path, TrainSpec(epochs=2, save_every_s=25), data=data)
    assert written == ["step-0", "step-3", "step-5", "step-8", "step-10"]
