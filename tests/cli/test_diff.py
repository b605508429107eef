"""What `vitkit diff` prints, as text and as JSON, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import vitkit
from small import PREPROCESS, picture_file, small_folder, small_model
from vitkit.cli import main


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Result:
        code = main(["diff", *(str(argument) for argument in arguments)])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_folder(tmp_path / "a")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The same weights with another eps."""
    vitkit.save(small_model(norm_eps=1e-3), tmp_path / "b", preprocess=PREPROCESS)
    return tmp_path / "b"


def test_equal_models_are_told_in_two_lines_and_exit_with_0(run: Run, folder: Path, tmp_path: Path) -> None:
    shown = picture_file(tmp_path / "p.png")
    code, out, err = run(folder, folder, shown)
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.startswith(f"{folder} against {folder}: 33 stages agree; the largest difference is 0 at ")
    assert second == "the same class for 5 of 5 pictures"


def test_a_departure_is_told_with_its_neighbours_and_exits_with_1(run: Run, folder: Path, other: Path) -> None:
    code, out, err = run(folder, other)
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{folder} against {other}: departs first at blocks.0.norm1: ")
    assert lines[0].endswith("everything before agrees to 0. LayerNorm eps: 1e-06 against 0.001")
    rows = [line.split() for line in lines[1:-1]]
    names = [row[1] if row[0] == ">" else row[0] for row in rows]
    assert names == ["patch_embed", "embedded", "blocks.0.norm1", "blocks.0.attn.q", "blocks.0.attn.k", "logits"]
    assert [row[-1] for row in rows] == ["agrees", "agrees", "departs", "departs", "departs", "departs"]
    assert [row[0] for row in rows].count(">") == 1


def test_all_prints_every_stage(run: Run, folder: Path, other: Path) -> None:
    found = vitkit.diff(folder, other)
    lines = run(folder, other, "--all").out.splitlines()
    assert len(lines) == len(found.stages) + 2 == 35
    assert [line[2:].split()[0] for line in lines[1:-1]] == [stage.name for stage in found.stages]
    assert len(run(folder, folder, "--all").out.splitlines()) == 35


def test_json_holds_what_python_gives(run: Run, folder: Path, other: Path) -> None:
    found = vitkit.diff(folder, other)
    code, out, _ = run(folder, other, "--json")
    data = json.loads(out)
    assert code == 1
    assert (data["a"], data["b"], data["agrees"]) == (found.a, found.b, False)
    assert data["departures"] == [{"stage": "blocks.0.norm1", "cause": found.hint}]
    assert (data["same_top1"], data["pictures"], data["unnamed"]) == (found.same_top1, 4, [])
    assert [(s["name"], s["absolute"], s["relative"], s["limit"], s["agrees"]) for s in data["stages"]] == [
        (s.name, s.absolute, s.relative, s.limit, s.agrees) for s in found.stages
    ]


def test_other_sizes_are_null_in_json_and_a_dash_in_text(run: Run, folder: Path) -> None:
    def strict(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    data = json.loads(run(folder, folder, "--image-size-b", "48x40", "--json").out, parse_constant=strict)
    resized = data["stages"][1]
    assert [departure["stage"] for departure in data["departures"]] == [resized["name"]] == ["resized"]
    assert (resized["shape_a"], resized["shape_b"]) == ([32, 32, 3], [48, 40, 3])
    assert (resized["absolute"], resized["relative"]) == (None, None)
    row = next(line for line in run(folder, folder, "--image-size-b", "48x40").out.splitlines() if line[0] == ">")
    assert row.split() == [">", "resized", "[32,", "32,", "3],", "[48,", "40,", "3]", "-", "-", "departs"]


def test_a_lower_precision_and_another_limit(run: Run, folder: Path) -> None:
    assert run(folder, folder, "--dtype-b", "bfloat16").code == 0
    assert run(folder, folder, "--dtype-b", "bfloat16", "--rtol", "1e-6").code == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["A"], "Missing argument 'B'"),
        (["A", "nowhere"], "'nowhere' is neither a file or folder"),
        (["A", "A", "nothing.png"], "nothing.png"),
        (["A", "A", "--rtol", "-1"], "rtol is -1.0; it must be larger than 0"),
        (["A", "A", "--image-size-a", "big"], "'big'"),
        (["A", "A", "--dtype-a", "int8"], "dtype 'int8' is unknown"),
        (["A", "A", "--parity-b", "keras"], "'keras'"),
    ],
)
def test_wrong_calls_exit_with_2_in_a_line(run: Run, folder: Path, arguments: list[str], says: str) -> None:
    code, out, err = run(*(str(folder) if argument == "A" else argument for argument in arguments))
    assert (code, out) == (2, "")
    assert says in err and err.count("\n") == 1 and err.startswith("vitkit: ")
