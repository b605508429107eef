"""train: data of every kind, settings in layers, and runs that go on to the same bits, whoever decodes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import Dataset

import vitkit
from small import picture_file, small_folder
from vitkit.api import batch_size, loaders
from vitkit.api.runs import RunSpec
from vitkit.api.train import train
from vitkit.data import loader, store
from vitkit.data.augment import AUGMENTS, AugmentSpec
from vitkit.data.samples import Splits
from vitkit.data.sources.arrays import read_arrays
from vitkit.data.workers import Workers
from vitkit.errors import ConfigError, Interrupted
from vitkit.image.decode import Decoded
from vitkit.training.log import CLOCK_FIELDS, read_log
from vitkit.training.memory import MemoryPlan
from vitkit.training.objective import Classification
from vitkit.training.state import Progress, find_checkpoint


def flowers(folder: Path, *, count: int = 18, size: int = 40) -> Path:
    for number in range(count):
        picture_file(folder / "abc"[number % 3] / f"{number}.png", size, size, seed=number)
    return folder


def interrupt_at(step: int) -> Callable[..., None]:
    def on_step(progress: Progress, row: dict[str, float]) -> None:
        if progress.step == step:
            signal.raise_signal(signal.SIGINT)

    return on_step


def figures(count: int, *, size: int = 8) -> np.ndarray[Any, Any]:
    """Left halves bright or dark, by turns: [n, H, W]."""
    pixels = np.random.default_rng(0).integers(0, 60, (count, size, size), dtype=np.uint8)
    pixels[::2, :, : size // 2] += 150
    return pixels


def ending(run: Path) -> dict[str, Any]:
    """What a run has come to: all tensors and all numbers but those of the clock."""
    last = find_checkpoint(run / "checkpoints")
    assert last is not None
    files = [*last.glob("*.safetensors"), run / "model" / "model.safetensors"]
    tensors = {f"{file.stem}/{name}": value for file in files for name, value in load_file(file).items()}
    state = json.loads((last / "state.json").read_text())
    del state["seconds"]
    rows = [{k: v for k, v in row.items() if k not in CLOCK_FIELDS} for row in read_log(run / "log.jsonl")]
    results = json.loads((run / "results.json").read_text())
    return {"files": sorted(file.name for file in files), "state": state, "rows": rows, "results": results, **tensors}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value, name


def test_a_run_resumes_without_repeating_its_settings(tmp_path: Path) -> None:
    settings = {
        "epochs": 2,
        "batch_size": 8,
        "augment": {"name": "randaugment", "erase": 0.5, "blur": 0.5},
        "repeats": 2,
        "optimizer": "muon",
        "gradient_checkpointing": True,
    }
    first = train(
        flowers(tmp_path / "data"),
        image_size=8,
        split_seed=3,
        val_fraction=0.3,
        settings=settings,
        output=tmp_path / "run",
    )
    weights = (first.model / "model.safetensors").read_bytes()
    last = find_checkpoint(first.folder / "checkpoints")
    assert last is not None
    shutil.rmtree(last)  # as if it had been killed before its end
    again = train(resume=first.folder)
    assert (again.model / "model.safetensors").read_bytes() == weights and again.scores == first.scores
    with pytest.raises(vitkit.ConfigError, match=r"started otherwise: split_seed: 3, now 4; train.lr: 0.004, now 0.1"):
        train(resume=first.folder, split_seed=4, settings={"lr": 0.1})
    with pytest.raises(vitkit.ConfigError, match="goes on in its own folder"):
        train(resume=first.folder, output=tmp_path / "other")


def test_a_run_goes_on_with_other_workers_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held in memory without a stop, against streamed, stopped twice and decoded by none, two and one processes."""
    data = flowers(tmp_path / "data")
    # Everything on that draws random numbers.
    settings = {
        "epochs": 3,
        "batch_size": 4,
        "drop_path": 0.2,
        "augment": {"crop_scale": [0.3, 1.0], "flip": 0.5, "rotate": 9.0, "brightness": 0.3},
        "mix": {"mixup": 0.4, "cutmix": 1.0},
    }
    train(data, image_size=32, settings=settings, output=tmp_path / "whole")
    started: list[int] = []

    class Counted(Workers):
        def __init__(self, store: store.Store, count: int) -> None:
            started.append(count)
            super().__init__(store, count)

    monkeypatch.setattr(loader, "Workers", Counted)
    monkeypatch.setattr(store, "memory_limit", lambda: 0)
    run = tmp_path / "cut"
    with pytest.raises(Interrupted):
        train(data, image_size=32, settings=settings, output=run, on_step=interrupt_at(4))
    with pytest.raises(Interrupted):
        train(resume=run, workers=2, on_step=interrupt_at(7))
    train(resume=run, workers=1)
    assert started == [2, 1]
    assert_same(ending(run), ending(tmp_path / "whole"))


def test_as_many_workers_as_may_copy_what_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[int] = []

    class Counted(Workers):
        def __init__(self, store: store.Store, count: int) -> None:
            started.append(count)
            super().__init__(store, 0)

        def take(self, batches: Iterable[NDArray[np.int64]]) -> Iterator[Decoded]:
            return map(self._store.take, batches)

    monkeypatch.setattr(loader, "Workers", Counted)
    monkeypatch.setattr(store, "memory_limit", lambda: 0)
    pixels = figures(20)
    data = read_arrays(pixels, np.arange(20) % 2, ["bright", "dark"])
    splits = Splits(data, data.subset(np.arange(4), "val"))
    settings = {"epochs": 1, "batch_size": 8}
    for limit, wanted in ((2 * pixels.nbytes, 2), (9 * pixels.nbytes, 3)):
        monkeypatch.setattr(loaders, "memory_limit", lambda limit=limit: limit)
        train(splits, workers=3, settings=settings, output=tmp_path / str(wanted))
        assert started.pop() == wanted
    assert caplog.text.count("2 workers instead of 3") == 1


def test_the_printed_scores_are_those_of_the_saved_model(tmp_path: Path) -> None:
    for part, count in (("train", 18), ("val", 9), ("test", 15)):
        flowers(tmp_path / "data" / part, count=count, size=12)
    result = train(tmp_path / "data", image_size=8, settings={"epochs": 3, "batch_size": 6}, output=tmp_path / "run")
    assert result.scores == {"accuracy": vitkit.evaluate(result.model, tmp_path / "data" / "val").top1}
    assert result.test_scores == {"accuracy": vitkit.evaluate(result.model, tmp_path / "data" / "test").top1}
    assert result.scores != result.test_scores


def test_held_out_pictures_are_scored_only_at_the_end_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(*arguments: Any) -> dict[str, float]:
        raise AssertionError("held-out pictures were scored on the way")

    monkeypatch.setattr(Classification, "validate", scored)
    data = read_arrays(figures(20), np.arange(20) % 2, ["bright", "dark"])
    result = train(data, settings={"epochs": 3, "batch_size": 8, "evaluate_every": 0}, output=tmp_path / "run")
    assert {row["kind"] for row in read_log(tmp_path / "run" / "log.jsonl")} == {"step"}
    assert not (tmp_path / "run" / "checkpoints" / "best").exists()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["top1"] == result.scores["accuracy"]


class Own(Dataset[Any]):
    """One's own pictures: PIL images of two classes, and which were fetched."""

    classes = ("bright", "dark")

    def __init__(self, count: int) -> None:
        self.pictures = [Image.fromarray(pixels) for pixels in figures(count)]
        self.targets = [at % 2 for at in range(count)]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, at: int) -> tuple[Any, int]:
        return self.pictures[at], self.targets[at]


def test_a_fine_tuned_model_sees_whole_pictures_where_its_checkpoint_cut_a_margin_off(tmp_path: Path) -> None:
    start = small_folder(tmp_path / "start")
    result = train(
        flowers(tmp_path / "data"), model=start, image_size=24, settings={"epochs": 1}, output=tmp_path / "run"
    )
    before, after = (
        json.loads((each / "vitkit.json").read_text())["card"]["preprocess"] for each in (start, result.model)
    )
    assert (before["size"], before["resize_size"]) == ([32, 32], [36, 36])
    assert after == {**before, "size": [24, 24], "resize_size": [24, 24]}


def test_ones_own_dataset_is_learnt_and_its_classes_named(tmp_path: Path) -> None:
    own = Own(40)
    result = vitkit.train(own, image_size=8, settings={"epochs": 12, "batch_size": 8}, output=tmp_path / "run")
    assert result.scores == {"accuracy": 1.0}
    vit = vitkit.load(result.model)
    assert [vit.classify(own[at][0])[0].class_name for at in range(4)] == ["bright", "dark", "bright", "dark"]
    weights = (result.model / "model.safetensors").read_bytes()
    again = vitkit.train(own, resume=result.folder)
    assert (again.model / "model.safetensors").read_bytes() == weights
    with pytest.raises(vitkit.ConfigError, match=r"started otherwise: pictures: \(32, 8\), now \(34, 8\)"):
        vitkit.train(Own(42), resume=result.folder)


def test_faults_of_ones_own_dataset_are_named_before_a_run_is_made(tmp_path: Path) -> None:
    class Broken(Own):
        def __getitem__(self, at: int) -> tuple[Any, int]:
            if at == 3:
                raise ValueError("the tape\nis torn")
            return super().__getitem__(at)

    with pytest.raises(
        vitkit.DataError, match=r"1 pictures can't be read: dataset\[3\] \(item 3 .* \(ValueError: the tape is torn"
    ):
        vitkit.train(Broken(20), image_size=8, output=tmp_path / "run")
    few = Own(3)
    few.classes = ("a", "b", "c", "d")  # type: ignore[assignment]
    with pytest.raises(vitkit.DataError, match=r"fewer pictures \(3\) than classes \(4\)"):
        vitkit.train(few, image_size=8, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("shape", "channels"), [((8, 8), 1), ((8, 10, 3), 3), ((8, 8, 4), 3), ((8, 8, 5), 5)])
def test_small_arrays_are_learnt_at_their_own_size(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, *shape), dtype=np.uint8)
    told: list[tuple[RunSpec, Path]] = []
    result = train(
        read_arrays(pixels, np.arange(12) % 2, ["x", "y"]),
        settings={"epochs": 1, "batch_size": 4},
        output=tmp_path / "run",
        on_start=lambda run, folder: told.append((run, folder)),
    )
    (run, folder), spec = told[0], told[0][0].spec.spec
    assert (spec.image_size, spec.in_channels) == (shape[:2], channels)
    assert folder == result.folder and run.pictures == (10, 2)
    assert vitkit.load(result.model).classify(pixels[0])[0].class_name in ("x", "y")


def test_settings_go_over_the_recipe_and_the_recipe_over_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("lr = 0.5\nwarmup = 0.25\n[augment]\nrotate = 3.0\n")
    data = read_arrays(figures(20), np.arange(20) % 2, ["bright", "dark"])

    def stop(run: RunSpec, folder: Path) -> None:
        spec = run.train
        assert (spec.lr, spec.warmup, spec.epochs) == (0.125, 0.25, 180)
        assert (spec.augment.rotate, spec.augment.flip, spec.augment.shear) == (3.0, 0.5, 4.0)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train(
            data,
            recipe=tmp_path / "r.toml",
            settings={"lr": 0.125, "augment": {"flip": 0.5}},
            output=tmp_path / "run",
            on_start=stop,
        )


def test_an_augmentation_has_a_name_and_what_stands_beside_it_goes_over_it(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[augment]\nname = "randaugment"\nerase = 0.25\n')
    (tmp_path / "wrong.toml").write_text('augment = "randaugmnet"\n')
    data = read_arrays(figures(20), np.arange(20) % 2, ["bright", "dark"])

    def started(**options: Any) -> AugmentSpec:
        found = []

        def stop(run: RunSpec, folder: Path) -> None:
            found.append(run.train.augment)
            raise InterruptedError

        with pytest.raises(InterruptedError):
            train(data, output=tmp_path / f"run-{len(list(tmp_path.iterdir()))}", on_start=stop, **options)
        return found[0]

    named = dataclasses.replace(AUGMENTS["randaugment"], erase=0.25)
    assert started(recipe=tmp_path / "r.toml") == named
    over = {"settings": {"augment": {"magnitude": 5}}}
    assert started(recipe=tmp_path / "r.toml", **over) == dataclasses.replace(named, magnitude=5.0)
    assert started(recipe=tmp_path / "r.toml", settings={"augment": "photos"}) == AUGMENTS["photos"]
    with pytest.raises(vitkit.ConfigError, match=r"wrong.toml: augment 'randaugmnet' is unknown; nearest: randaugment"):
        train(data, recipe=tmp_path / "wrong.toml", output=tmp_path / "run")


def test_a_batch_that_fits_is_written_down_and_a_resume_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_arrays(figures(170), np.arange(170) % 2, ["bright", "dark"])
    plans: list[MemoryPlan] = []
    settings = {"batch_size": "auto", "epochs": 1, "warmup": 0.2}
    first = train(data, settings=settings, output=tmp_path / "run", baseline=False, on_memory_plan=plans.append)
    written = json.loads((first.folder / "run.json").read_text())["run"]["train"]
    assert (written["batch_size"], plans[0].batch_size) == (8, 8)  # 136 pictures to learn from, 16 steps or more
    assert written["lr"] == pytest.approx(4e-3 * (8 / 16) ** 0.5)  # the recipe takes 16 of so few
    again = train(data, resume=first.folder, settings=settings, on_memory_plan=plans.append)
    assert again.scores == first.scores and len(plans) == 1
    monkeypatch.setattr(batch_size, "free_memory", lambda device: int(plans[0].step_bytes / 0.7))
    said = {**settings, "lr": 1e-3}
    small = train(data, settings=said, output=tmp_path / "small", baseline=False, on_memory_plan=plans.append)
    written = json.loads((small.folder / "run.json").read_text())["run"]["train"]
    assert written["batch_size"] == plans[1].batch_size < 8 and written["lr"] == 1e-3
    monkeypatch.setattr(batch_size, "free_memory", lambda device: None)
    with pytest.raises(vitkit.ConfigError, match="needs to know the free memory"):
        train(data, settings=settings, output=tmp_path / "none")


def test_splits_in_memory_are_taken_as_they_are(tmp_path: Path) -> None:
    pixels, names = figures(24), ["bright", "dark"]
    parts = [read_arrays(pixels[at::3], np.arange(24)[at::3] % 2, names, name=f"part {at}") for at in range(3)]
    result = train(Splits(*parts), settings={"epochs": 1, "batch_size": 4}, output=tmp_path / "run")
    stored = json.loads((result.folder / "run.json").read_text())["run"]
    assert (stored["data"], stored["pictures"]) == ("part 0", [8, 8, 8]) and result.test_scores.keys() == {"accuracy"}


def test_the_baseline_is_measured_once_before_the_first_step(tmp_path: Path) -> None:
    data = read_arrays(figures(60), [0, 1] * 30, ["left", "right"])
    told: list[Any] = []
    settings = {"epochs": 1, "batch_size": 16}

    def stop(progress: Progress, row: dict[str, float]) -> None:
        assert told
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(data, settings=settings, output=tmp_path / "run", on_baseline=told.append, on_step=stop)
    train(data, resume=tmp_path / "run", on_baseline=told.append)
    assert told[0] == told[1]  # to the clock: it was read, not measured again
    assert (told[0].features, told[0].knn, told[0].probe, told[0].learnt, told[0].judged) == ("pixels", 1, 1, 48, 12)
    assert "What it had to beat" in (tmp_path / "run" / "report.html").read_text()

    start = tmp_path / "run" / "model"
    train(data, model=start, settings=settings, output=tmp_path / "tuned", on_baseline=told.append)
    assert told[2].features == "model"


def test_held_out_pictures_that_shall_be_read_once_are_in_no_baseline(tmp_path: Path) -> None:
    data = read_arrays(figures(40), [0, 1] * 20, ["left", "right"])
    for name, settings, baseline in (("once", {"evaluate_every": 0}, True), ("off", {}, False)):
        train(data, settings={"epochs": 1} | settings, output=tmp_path / name, baseline=baseline)
        assert not (tmp_path / name / "baseline.json").exists()


def test_training_small_at_first_ends_at_the_models_size_and_resumes_to_the_bit(tmp_path: Path) -> None:
    data = flowers(tmp_path / "data", count=40)
    settings = {"epochs": 3, "batch_size": 8, "early_size": 16, "late": 0.4, "save_every_s": 1e9}
    seen: list[int] = []

    def train_into(name: str, **more: Any) -> Path:
        train(data, image_size=32, settings=settings, output=tmp_path / name, baseline=False, **more)
        return tmp_path / name

    take = Classification.forward

    def spy(self: Classification, model: Any, batch: Any, step: int) -> Any:
        seen.append(batch.views[0].shape[-1])
        return take(self, model, batch, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classification, "forward", spy)
        whole = train_into("whole")
    assert seen == [16] * 5 + [32] * 4
    with pytest.raises(Interrupted):
        train_into("cut", on_step=interrupt_at(4))
    train(resume=tmp_path / "cut", baseline=False)
    assert_same(ending(tmp_path / "cut"), ending(whole))


def test_an_early_size_that_the_model_cannot_take_is_said_before_the_pictures_are_read(tmp_path: Path) -> None:
    def unread(done: int, total: int) -> None:
        raise AssertionError

    with pytest.raises(ConfigError, match=r"early_size 15 isn't for this model: .* multiples of the patch size 4"):
        train(flowers(tmp_path / "data"), image_size=32, settings={"early_size": 15}, on_read=unread)


def test_what_no_picture_can_mend_is_said_before_any_is_looked_at(tmp_path: Path) -> None:
    for options, said in (
        ({"train_fraction": 10}, "train_fraction is 10"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0"),
        ({"settings": {"tune": "head"}}, "name one with --model"),
        ({"settings": {"objective": "distillation"}}, "teacher"),
    ):
        with pytest.raises(ConfigError, match=said):
            train(tmp_path / "isn't there", **options)


def test_early_sizes_need_random_crops(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"early_size 16 makes random crops smaller, and augment has none"):
        train(flowers(tmp_path / "data"), image_size=32, settings={"early_size": 16, "augment": "none"})
