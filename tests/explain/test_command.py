"""The verb and the command: the same explanation, a PNG for each picture, and no picture of the user's overwritten."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import vitkit
from small import NAMES, picture_file, small_folder
from vitkit import ConfigError
from vitkit.api.explain import explain
from vitkit.cli.explain import explain as explain_command

command = partial(explain_command, loading={})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two pictures of the same name, and a broken one."""
    folder = tmp_path_factory.mktemp("desk")
    small_folder(folder / "model")
    picture_file(folder / "a" / "cat.png")
    picture_file(folder / "b" / "cat.jpg", seed=1)
    (folder / "b" / "dog.jpg").write_bytes(b"no picture")
    return folder


def test_a_loaded_model_and_its_name_give_the_same_explanation(folder: Path) -> None:
    vit = vitkit.load(folder / "model", device="cpu")
    file = folder / "a" / "cat.png"
    one, other = explain(vit, file), explain(folder / "model", file, device="cpu")
    assert (one.map == other.map).all() and one.caption == other.caption
    assert one.map.shape == (4, 4) and one.picture.shape == (32, 32, 3)
    chosen = explain(vit, file, target=NAMES[3])
    assert chosen.index == 3 and np.abs(chosen.map - one.map).max() > 1e-3
    with pytest.raises(ConfigError, match="dtype: the model is loaded already"):
        explain(vit, file, dtype="float32")


def test_one_picture_goes_to_one_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, output = str(folder / "a" / "cat.png"), str(tmp_path / "why.png")
    assert command([file], output, str(folder / "model"), target="class b") == 0
    name, caption, place = capsys.readouterr().out.splitlines()
    assert name.endswith("cat.png") and place.strip() == output
    assert caption.startswith("  class b, ") and caption.endswith(" %: gradient-weighted attention")
    assert Path(output).read_bytes().startswith(b"\x89PNG")


def test_several_go_to_a_folder_each_to_its_own_file_and_a_broken_one_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(folder / "a"), str(folder / "b" / "dog.jpg"), str(folder / "b" / "cat.jpg")]
    assert command(files, str(tmp_path / "why"), str(folder / "model"), as_json=True) == 1
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(row.get("output", "")).name for row in rows] == ["cat-why.png", "", "cat-2-why.png"]
    assert "dog.jpg" in err and "dog.jpg" in rows[1]["error"]
    assert sorted(entry.name for entry in (tmp_path / "why").iterdir()) == ["cat-2-why.png", "cat-why.png"]
    assert rows[0]["engine"] == "torch float32 on cpu" and rows[0]["class_name"] in NAMES


def test_wrong_calls_are_refused_before_a_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "cat.png"
    shutil.copy(folder / "a" / "cat.png", own)
    before = own.read_bytes()
    for pictures, output, options, said in [
        ([str(own)], str(own), {}, "is the picture itself"),
        ([str(own)] * 2, str(tmp_path / "why.png"), {}, "one file, but there are several"),
        ([str(own)], str(tmp_path / "why.jpg"), {}, r"allowed: a \.png file"),
        ([str(own)], str(tmp_path / "gone" / "why.png"), {}, "make it first"),
        ([str(own)], str(tmp_path), {"method": "magic"}, "method 'magic' is unknown"),
        ([str(own)], str(tmp_path), {"method": "rollout", "target": "cat"}, "one map for all classes"),
    ]:
        with pytest.raises(ConfigError, match=said):
            command(pictures, output, "no/model", **options)  # type: ignore[arg-type]
    assert own.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
