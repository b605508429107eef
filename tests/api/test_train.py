"""train: a run goes on with nothing said again, and refuses what is said otherwise."""

import shutil
from pathlib import Path

import pytest

import vitkit
from small import picture_file
from vitkit.api.train import train


def test_a_run_resumes_without_repeating_its_settings(tmp_path: Path) -> None:
    for number in range(18):
        picture_file(tmp_path / f"data/{'abc'[number % 3]}/{number}.png", 40, 40, seed=number)
    settings = {"epochs": 2, "batch_size": 8}
    first = train(
        tmp_path / "data", image_size=32, split_seed=3, val_fraction=0.3, settings=settings, output=tmp_path / "run"
    )
    weights = (first.model / "model.safetensors").read_bytes()
    last = max((first.folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    shutil.rmtree(last)  # as if it had been killed before its end
    again = train(resume=first.folder)
    assert (again.model / "model.safetensors").read_bytes() == weights and again.scores == first.scores
    with pytest.raises(vitkit.ConfigError, match=r"started otherwise: split_seed: 3, now 4; train.lr: 0.001, now 0.1"):
        train(resume=first.folder, split_seed=4, settings={"lr": 0.1})
