"""Unreadable pictures end a training before it begins, or are left out and named, here and in a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from small import picture_file
from vitkit.api.train import train
from vitkit.errors import ConfigError, DataError

SETTINGS = {"epochs": 1, "batch_size": 8, "dtype": "float32"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for at in range(24):
        picture_file(tmp_path / "data" / "abc"[at % 3] / f"{at:02d}.png", 32, 32, seed=at)
    whole = (tmp_path / "data" / "a" / "00.png").read_bytes()
    (tmp_path / "data" / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data" / "b" / "text.jpg").write_text("not a picture")
    (tmp_path / "data" / "c" / "empty.png").touch()
    return tmp_path / "data"


def test_bad_files_are_all_named_or_left_out(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = [str(folder / name) for name in ("a/cut.png", "b/text.jpg", "c/empty.png")]
    with pytest.raises(DataError) as refusal:
        train(folder, output=tmp_path / "run", settings=SETTINGS, image_size=32)
    assert all(name in str(refusal.value) for name in bad) and not (tmp_path / "run").exists()
    train(folder, output=tmp_path / "run", settings=SETTINGS, image_size=32, bad_files="skip")
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("left out: ")]
    assert len(said) == 3 and all(name in line for name, line in zip(bad, said, strict=True))
    run = json.loads((tmp_path / "run" / "run.json").read_text())["run"]
    assert run["left_out"] == bad and sum(run["pictures"]) == 24
    train(resume=tmp_path / "run")
    picture_file(folder / "a" / "cut.png", 32, 32, seed=99)
    with pytest.raises(ConfigError, match="left_out"):
        train(resume=tmp_path / "run")


def test_another_word_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="bad_files is 'keep'; allowed: fail, skip"):
        train(folder, bad_files="keep")
