"""compare: what is said of real runs is what their folders hold, and what can't be compared is said."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from scipy.stats import binomtest

import vitkit
from small import picture_file
from vitkit.api.baseline import read_baseline
from vitkit.cli import main
from vitkit.training.log import read_log


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs on the same pictures: `other` held out others, `slow` learns at another rate."""
    folder = tmp_path_factory.mktemp("runs")
    for number in range(60):
        picture_file(folder / "data" / "abc"[number % 3] / f"{number}.png", 12, 12, seed=number)
    for name, lr, split_seed in (("plain", 4e-3, 0), ("slow", 1e-3, 0), ("other", 4e-3, 1)):
        vitkit.train(
            folder / "data",
            image_size=8,
            settings={"epochs": 3, "batch_size": 16, "lr": lr},
            split_seed=split_seed,
            val_fraction=0.5,
            output=folder / name,
        )
    return folder


def right(run: Path) -> dict[str, bool]:
    with open(run / "predictions.csv", newline="", encoding="utf-8") as file:
        return {row["picture"]: row["class"] == row["said"] for row in csv.DictReader(file)}


def test_runs_are_compared_picture_by_picture_with_the_first(runs: Path) -> None:
    found = vitkit.compare([runs / "plain", runs / "slow"], output=runs / "page.html")
    plain, slow = right(runs / "plain"), right(runs / "slow")
    (pair,) = found.paired
    gained = sum(slow[name] and not plain[name] for name in plain)
    lost = sum(plain[name] and not slow[name] for name in plain)
    assert gained + lost > 0
    assert (pair.run, pair.against, pair.shared, pair.same_set) == ("slow", "plain", len(plain), True)
    assert (pair.only_run, pair.only_against) == (gained, lost)
    assert pair.p == pytest.approx(binomtest(gained, gained + lost).pvalue)
    assert pair.difference == pytest.approx(found.runs[1].scores["accuracy"] - found.runs[0].scores["accuracy"])
    assert found.settings == {"train.lr": (4e-3, 1e-3)} and not found.notes
    page = (runs / "page.html").read_text()
    assert page.count("data:image/png") == 5 and "http" not in page.replace("http-equiv", "")
    for text in ("slow names", "All runs held out the same pictures", "train.lr", "Class by class"):
        assert text in page


def test_a_summary_is_what_the_run_came_to_and_cost(runs: Path) -> None:
    summary = vitkit.compare([runs / "plain", runs / "slow"]).runs[0]
    results = json.loads((runs / "plain" / "results.json").read_text())
    steps = [row for row in read_log(runs / "plain" / "log.jsonl") if row["kind"] == "step"]
    assert summary.scores == {"accuracy": results["top1"], "macro F1": results["macro_f1"]}
    assert summary.intervals == {"accuracy": tuple(results["top1_interval"])}
    assert (summary.steps, summary.finished, sum(summary.pictures)) == (len(steps), True, 60)
    assert summary.seconds == pytest.approx(sum(row["seconds"] for row in steps))
    assert summary.parameters == sum(map(len, map(_flat, load_file(runs / "plain/model/model.safetensors").values())))


def _flat(tensor: Any) -> Any:
    return tensor.flatten()


def test_runs_that_held_out_other_pictures_are_paired_on_common_ones_and_that_is_said(runs: Path) -> None:
    found = vitkit.compare([runs / "plain", runs / "other"])
    (pair,) = found.paired
    shared = right(runs / "plain").keys() & right(runs / "other").keys()
    assert 0 < pair.shared == len(shared) < 30 and not pair.same_set
    assert found.notes == (
        f"other and plain held out different pictures, {len(shared)} in common: only these are paired",
    )


def test_unfinished_runs_and_older_ones_without_answers_are_compared_as_far_as_they_go(
    runs: Path, tmp_path: Path
) -> None:
    for name in ("young", "old"):
        (tmp_path / name).mkdir()
        for file in ("run.json", "log.jsonl", *(["results.json"] if name == "old" else [])):
            (tmp_path / name / file).write_bytes((runs / "plain" / file).read_bytes())
    rows = (tmp_path / "young" / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "young" / "log.jsonl").write_text("".join(rows[:2]))  # the first epoch and its evaluation
    found = vitkit.compare([runs / "plain", tmp_path / "young", tmp_path / "old"], output=tmp_path / "page.html")
    young, old = found.runs[1:]
    first = next(row for row in read_log(runs / "plain" / "log.jsonl") if row["kind"] == "evaluation")
    assert (young.finished, young.steps, young.scores["accuracy"]) == (False, 1, first["accuracy"])
    assert old.scores == found.runs[0].scores and not found.paired
    assert found.notes == (
        "young isn't finished; its last evaluation is shown",
        "young and plain can't be paired: one of them keeps no predictions.csv",
        "old and plain can't be paired: one of them keeps no predictions.csv",
    )


def test_the_command_prints_a_table_or_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(runs / name) for name in ("plain", "slow")]
    assert main(["compare", *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["run", "held-out", "accuracy"] and lines[1].startswith("plain ")
    assert lines[-1].split() == ["train.lr", "0.004", "0.001"]
    assert main(["compare", *given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"] == {"train.lr": [0.004, 0.001]}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plain"], "compare needs two or more runs, and was given 1; name their folders"),
        (["plain", "data", "nowhere"], "data has no run.json; nowhere has no run.json; give the folders of runs"),
        (["plain", "slow", "-o", "nowhere/page.html"], "there is no folder 'nowhere'; make it first"),
    ],
)
def test_a_wrong_call_is_one_line(
    runs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(runs)
    assert main(["compare", *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"top1": 0.', "[]"])
def test_a_damaged_file_of_a_run_is_named(content: str, runs: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(runs / "slow", tmp_path / "damaged")
    results, baseline = damaged / "results.json", damaged / "baseline.json"
    results.write_text(content)
    with pytest.raises(vitkit.ConfigError, match=f"{results}: .*; the file was edited or damaged"):
        vitkit.compare([runs / "plain", damaged])
    assert read_baseline(damaged) is not None
    baseline.write_text(content)
    with pytest.raises(vitkit.ConfigError, match=f"{baseline}: .*; the file was edited or damaged"):
        read_baseline(damaged)
