"""learning_curve: equal work on parts of the pictures that lie in each other, kept and gone on with."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitkit
from small import picture_file
from vitkit.api.learning_curve import learning_curve
from vitkit.cli import main
from vitkit.data.samples import Samples
from vitkit.data.split import thin
from vitkit.errors import ConfigError, Interrupted
from vitkit.training.state import Progress

SIZES = {
    "vit": "[model]\npatch_size = 4\nembed_dim = 16\ndepth = 1\nnum_heads = 1\nmlp_dim = 16\n",
    "cnn": '[model]\narch = "resnet"\nblock = "basic"\nwidth = 4\ndepths = [1]\n',
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(50):
        picture_file(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", 12, 12, seed=number)
    for name, text in SIZES.items():
        Path(f"{name}.toml").write_text(f"epochs = 2\nbatch_size = 4\n{text}")
    return tmp_path


def curve(place: Path, **options: Any) -> Any:
    made: dict[str, Any] = {"recipes": [f"{name}.toml" for name in SIZES], "fractions": [0.25, 1.0], "image_size": 8}
    return learning_curve(**{"data": place / "data", "output": place / "out", **made, **options})


def test_every_run_has_equal_steps_and_the_same_held_out_pictures(place: Path) -> None:
    started: list[str] = []
    found = curve(place, on_start=lambda run, folder: started.append(folder.name))
    assert [run.name for run in found.runs] == started == ["vit-25", "cnn-25", "vit-100", "cnn-100"]
    assert [run.pictures for run in found.runs] == [(10, 10), (10, 10), (40, 10), (40, 10)]
    assert [run.steps for run in found.runs] == [20, 20, 20, 20]  # whole batches of 4: 2 of 10 pictures, 10 times
    assert all(pair.same_set for pair in found.paired) and len(found.paired) == 3
    assert {run.model for run in found.runs} == {"ViT", "ResNet"}
    assert "More pictures" in (place / "out" / "compare.html").read_text()
    again = curve(place, on_start=lambda run, folder: started.append(folder.name))
    assert len(started) == 4 and again == found
    with pytest.raises(ConfigError, match="vit-25 was made otherwise: train.lr: 0.004, now 0.5; choose another output"):
        curve(place, settings={"lr": 0.5})


def test_runs_of_other_data_parts_or_recipes_are_neither_kept_nor_gone_on_with(place: Path) -> None:
    recipe = Path("vit.toml")
    plain = recipe.read_text()
    recipe.write_text(f"clip_norm = 0.5\n{plain}")
    made: dict[str, Any] = {"val_fraction": 0.3, "split_seed": 1}
    curve(place, **made)
    shutil.copytree(place / "data", place / "other")
    for said, difference in (
        ({"data": place / "other"}, "data: .*data, now .*other"),
        ({"val_fraction": 0.2}, "val_fraction: 0.3, now 0.2"),
        ({"split_seed": 2}, "split_seed: 1, now 2"),
        ({"image_size": 12}, r"spec.spec.image_size: \(8, 8\), now \(12, 12\)"),
    ):
        with pytest.raises(ConfigError, match=f"vit-25 was made otherwise: .*{difference}"):
            curve(place, **{**made, **said})
    recipe.write_text(plain)  # what it no longer says is a difference as well, finished or not
    for _ in range(2):
        with pytest.raises(ConfigError, match="vit-25 was made otherwise: train.clip_norm: 0.5, now 1.0"):
            curve(place, **made)
        (place / "out" / "vit-25" / "results.json").unlink(missing_ok=True)


def test_runs_that_would_share_a_folder_are_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"isn't above 0.*called vit-25; .*called vit-50; say each"):
        curve(place, recipes=["vit", "vit.toml"], fractions=[0.5, 0.25, 2.0])
    with pytest.raises(ConfigError, match="several runs would be called vit-50"):
        curve(place, recipes=["vit.toml"], fractions=[0.5, 0.5, 1.0])
    assert not (place / "out").exists()


def test_a_stopped_curve_goes_on_where_it_stood(place: Path) -> None:
    started: list[Path] = []

    def stop(progress: Progress, row: dict[str, float]) -> None:
        if len(started) == 3 and progress.step == 18:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        curve(place, on_start=lambda run, folder: started.append(folder), on_step=stop)
    steps: list[int] = []
    found = curve(place, on_step=lambda progress, row: steps.append(progress.step))
    assert steps == [19, 20, *range(1, 21)] and all(run.finished for run in found.runs)


def test_the_command_prints_the_comparison(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--recipe", "vit.toml", "--fraction", "0.5", "--fraction", "1", "--epochs", "1", "--image-size", "8"]
    assert main(["learning-curve", "data", "-o", "out", *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("vit-50 ") and lines[2].startswith("vit-100 ") and lines[-1] == "page: out/compare.html"
    assert json.loads(Path("out/vit-50/run.json").read_text())["run"]["train_fraction"] == 0.5
    assert main(["learning-curve", "data", "-o", "out", "--fraction", "1.5"]) == 2
    assert "fraction 1.5 isn't above 0 and at most 1" in capsys.readouterr().err


def samples(counts: tuple[int, ...]) -> Samples:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    names = tuple(f"c{label}" for label in range(len(counts)))
    return Samples(tuple(f"{at}.png" for at in range(len(labels))), labels, names, "made")


def test_a_part_of_the_pictures_keeps_the_classes_shares_and_lies_within_a_larger_part() -> None:
    whole = samples((100, 20, 3))
    parts = {fraction: thin(whole, fraction, seed=1) for fraction in (0.1, 0.3, 1.0)}
    assert parts[0.1].counts().tolist() == [10, 2, 1] and parts[0.3].counts().tolist() == [30, 6, 1]
    assert set(parts[0.1].pictures) < set(parts[0.3].pictures) < set(parts[1.0].pictures)
    assert parts[1.0].pictures == whole.pictures
    assert set(thin(whole, 0.1, seed=2).pictures) != set(parts[0.1].pictures)


def test_the_front_door_has_it() -> None:
    assert vitkit.learning_curve is learning_curve
