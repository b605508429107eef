"""vitkit check: what it prints, and which exit codes it ends with."""

import json
from pathlib import Path

import pytest
from PIL import Image

import vitkit
from small import picture, picture_file, small_folder
from vitkit.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of five pictures, with nothing wrong."""
    for number in range(5):
        picture_file(tmp_path / f"data/rose/{number}.png", 64, 70, seed=number)
        picture_file(tmp_path / f"data/tulip/{number}.png", 64, 70, seed=10 + number)
    return tmp_path / "data"


def test_a_clean_set_ends_with_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "10 pictures in 2 classes" in out and "rose 5, tulip 5" in out
    assert out.endswith("Clean: 0 faults, 0 suspicions, 0 notes.\n")


def test_a_suspicion_ends_with_0_and_a_fault_with_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(64, 70, seed=1).save(folder / "rose/again.png")
    assert main(["check", str(folder)]) == 0
    assert "suspicion: The same file more than once (1)." in capsys.readouterr().out
    (folder / "rose/empty.jpg").touch()
    assert main(["check", str(folder), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(vitkit.check(folder).to_dict()))
    assert not told["clean"] and told["levels"] == {"fault": 1, "suspicion": 1, "note": 0}
    fault = told["findings"][0]
    assert fault["kind"] == "unreadable" and fault["pictures"] == [str(folder / "rose/empty.jpg")]
    assert "is empty (0 bytes)" in fault["message"]


def test_many_findings_are_cut_in_print_and_whole_in_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(13):
        (folder / f"rose/{number}.jpg").touch()
    assert main(["check", str(folder)]) == 1
    assert "  and 3 more (all of them: --json, or the page of -o)" in capsys.readouterr().out
    assert main(["check", str(folder), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["findings"]) == 13


def test_wrong_calls_end_with_2_before_any_picture_is_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        [str(tmp_path / "absent")],
        [str(folder), "-o", str(tmp_path / "nowhere/check.html")],
        [str(folder), "-m", str(tmp_path / "no-model")],
    ):
        assert main(["check", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and len(captured.err.splitlines()) == 1


@pytest.fixture
def coloured(tmp_path: Path) -> Path:
    """Twenty red roses and yellow tulips each, and a rose among the tulips: swapped.png."""
    folder = tmp_path / "coloured"
    for number in range(20):
        for name, colour in {"rose": "red", "tulip": "yellow"}.items():
            image = Image.blend(picture(64, 70, seed=100 + number), Image.new("RGB", (70, 64), colour), 0.7)
            (folder / name).mkdir(parents=True, exist_ok=True)
            image.save(folder / name / f"{colour}-{number}.png")
    (folder / "rose/red-3.png").rename(folder / "tulip/swapped.png")
    return folder


def test_a_model_judges_labels_and_the_page_shows_them(
    coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_folder(tmp_path / "model")
    assert main(["check", str(coloured), "-m", str(model), "-o", str(tmp_path / "check.html"), "--suspects", "3"]) == 0
    out = capsys.readouterr().out
    assert "swapped.png: 'tulip', rather 'rose'?" in out and "a model's embeddings" in out
    page = (tmp_path / "check.html").read_text()
    assert "tulip/swapped.png: rather rose?" in page and page.count("data:image/png") >= 1


def test_a_fine_tuned_model_judges_labels_and_leaves_nothing_behind(
    coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, kept = small_folder(tmp_path / "model"), tmp_path / "temporary"
    (coloured / "rose/empty.png").touch()
    picture_file(coloured / "lily/alone.png", 64, 70)
    kept.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(kept))
    assert main(["check", str(coloured), "-m", str(model), "--fine-tune", "--json"]) == 1  # the empty file
    told = json.loads(capsys.readouterr().out)
    assert "fine-tuned" in told["labels"]
    first = next(finding for finding in told["findings"] if finding["kind"] == "label")
    assert first["pictures"] == [str(coloured / "tulip/swapped.png")] and first["class_name"] == "rose"
    assert list(kept.iterdir()) == []


def test_fine_tuning_needs_a_model_and_its_own_way(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder), "--fine-tune", "--parity", "timm"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "name one (--model)" in told and "parity is 'timm'" in told
