"""vitkit train and demo: what they say, what they refuse in one line, and that whatever stops them loses nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from small import picture_file, small_folder
from vitkit.cli import main
from vitkit.cli.train import StepProgress
from vitkit.training.log import CLOCK_FIELDS, read_log
from vitkit.training.state import Progress, find_checkpoint

VITKIT = [sys.executable, "-W", "error", "-c", "import sys; from vitkit.cli import main; sys.exit(main())"]
SMALL = ("--image-size", "8", "--batch-size", "4")


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]
Refused = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Bits are equal on as many threads: those of the processes that the tests start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(run: Run) -> Refused:
    """Runs a call that is wrong and returns what it says: one line on stderr, and exit code 2."""

    def refused(*arguments: object) -> str:
        result = run(*arguments)
        assert (result.code, result.out) == (2, ""), result
        return one_line(result.err)

    return refused


def one_line(err: str) -> str:
    assert err.startswith("vitkit: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err.removeprefix("vitkit: ").removesuffix("\n")


def last_line(err: str) -> str:
    """What ended a training that had begun: the last line of stderr, without a traceback before it."""
    assert "Traceback" not in err and err.endswith("\n"), err
    return one_line(err.splitlines(keepends=True)[-1])


def names(folder: Path) -> list[str]:
    """Everything there, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def make(folder: Path, *pictures: str) -> Path:
    for seed, name in enumerate(pictures):
        picture_file(folder / name, 12, 12, seed=seed)
    return folder


def flowers(folder: Path, *, each: int = 7) -> Path:
    """Three classes."""
    return make(folder, *(f"{name}/{number}.png" for number in range(each) for name in ("aster", "daisy", "rose")))


def ending(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint."""
    last = find_checkpoint(run / "checkpoints")
    assert last is not None
    files = sorted(last.glob("*.safetensors"))
    assert [file.stem for file in files] == ["ema", "model", "optimizer"]
    return {f"{last.name}/{file.stem}/{name}": value for file in files for name, value in load_file(file).items()}


def rows(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in CLOCK_FIELDS} for row in read_log(run / "log.jsonl")]


def assert_same_run(run: Path, expected: Path) -> None:
    found, wanted = ending(run), ending(expected)
    assert found.keys() == wanted.keys()
    assert [name for name, value in wanted.items() if not torch.equal(found[name], value)] == []
    assert rows(run) == rows(expected)
    for file in ("model/model.safetensors", "results.json"):
        assert (run / file).read_bytes() == (expected / file).read_bytes()


# --- what is wrong is said before anything is made


def without_pictures(folder: Path) -> None:
    make(folder, "rose/a.png", "daisy/b.png")
    (folder / "empty").mkdir()


def one_each(folder: Path) -> None:
    make(folder, "rose/a.png", "daisy/b.png")


def unreadable(folder: Path) -> None:
    flowers(folder)
    (folder / "rose" / "bad.jpg").write_text("hello")
    (folder / "daisy" / "cut.png").write_bytes((folder / "daisy" / "1.png").read_bytes()[:150])


def unreadable_parts(folder: Path) -> None:
    for part in ("train", "val", "test"):
        flowers(folder / part, each=1)
        (folder / part / "rose" / f"{part}.png").write_text("hello")


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda folder: make(folder, "rose/a.png", "rose/b.png"), "it has 1 class (rose); learning to tell needs two"),
        (without_pictures, "empty holds no picture (0 other files)"),
        (lambda folder: make(folder, "a.png", "b.png"), "has no class folders; put each picture in the folder of its"),
        (
            lambda folder: make(folder, "train/rose/1.png", "train/lily/2.png", "val/Rose/3.png", "test/oak/4.png"),
            "classes that aren't in train: val/Rose; nearest: rose; test/oak; give each the same classes",
        ),
        (one_each, "has no two different pictures of any class, so none can be held out; add some"),
        (unreadable, "pictures can't be read; replace or remove them: "),
        (unreadable_parts, "1 of 4 pictures can't be read"),
        (lambda folder: None, "'data' isn't there; give a folder of class folders, a file (.csv, "),
    ],
    ids=["one class", "empty class", "no class", "class only held out", "one each", "unreadable", "in parts", "absent"],
)
def test_data_unfit_to_learn_from_is_one_line_and_no_run(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Callable[[Path], object], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    build(Path("data"))
    before = names(tmp_path)
    said = refused("train", "data", *SMALL)
    assert says in said
    for bad in Path("data").rglob("*"):
        if bad.stem in ("bad", "cut", "train", "val", "test") and bad.is_file():
            assert str(bad) in said
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "train needs pictures: a folder of class folders, a table, or 'digits'; or --resume RUN"),
        (["data", "--image-size", "9"], "image_size 9x9 is not a multiple of 2, the patch of a new model"),
        (["data", "--image-size", "100x128"], "image_size 100x128 is not a multiple of 16"),
        (["data", "-m", "model", "--image-size", "33"], "image_size 33x33 is not a multiple of patch_size 8"),
        (["data", "--recipe", "absent.toml"], "absent.toml: the recipe can't be read"),
        (["data", "--recipe", "broken.toml"], "broken.toml: the recipe can't be read"),
        (["data", "--recipe", "key.toml"], "key.toml: TrainSpec has no key 'epoch'; nearest: epochs"),
        (["data", "--recipe", "objective.toml"], "objective 'clasification' is unknown; nearest: classification"),
        (["data", "--recipe", "range.toml"], "range.toml: warmup is 2.0; allowed: from 0 to below 1; drop_path is 1.5"),
        (["data", "--lr", "-1"], "lr is -1.0; it must be larger than 0"),
        (["data", "--minutes", "nan"], "minutes is nan; it must be larger than 0"),
        (["data", "--epochs", "0"], "'--epochs': Input should be greater than or equal to 1"),
        (["data", "--batch-size", "0"], "batch_size is 0; at least 1"),
        (["data", "--batch-size", "many"], "batch_size is 'many', not a whole number"),
        (["data", "--workers", "-1"], "'--workers': Input should be greater than or equal to 0"),
        (["data", "--dtype", "int8"], "dtype is 'int8', allowed: 'auto', 'float32', 'bfloat16'"),
        (["data", "--val-fraction", "1"], "val_fraction is 1.0; give a fraction between 0 and 1, both excluded"),
        (["data", "--device", "tpu"], "device 'tpu' is unknown; allowed: auto, cpu"),
        (["data", "-m", "nowhere"], "'nowhere' is neither a file or folder here nor a Hub id"),
        (["--resume", "data"], "data is no run to resume: it has no run.json"),
        (["--resume", "nowhere"], "nowhere is no run to resume: it has no run.json"),
        (["data", "-o", "data"], "'data': it exists and isn't empty; choose another name"),
        (["data", "-o", "key.toml"], "'key.toml': a file of that name exists; choose another name"),
        (["--resume", "data", "-o", "new"], "a resumed run goes on in its own folder, data; leave the output new out"),
    ],
)
def test_a_wrong_call_is_one_line_and_no_run(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    flowers(Path("data"), each=2)
    small_folder(Path("model"))
    for name, text in {
        "broken": "epochs = ",
        "key": "epoch = 3",
        "objective": "objective = 'clasification'",
        "range": "warmup = 2.0\ndrop_path = 1.5",
    }.items():
        Path(f"{name}.toml").write_text(text)
    before = names(tmp_path)
    assert says in refused("train", *arguments)
    assert names(tmp_path) == before


def test_a_run_with_no_room_for_its_settings_leaves_nothing(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flowers(Path("data"))
    with disk_with_room(100):
        said = refused("train", "data", *SMALL, "-o", "run")
    assert said == "can't write 'run' (File too large); nothing was left behind"
    assert names(tmp_path) == ["data"]


def test_an_interrupt_while_pictures_are_read_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flowers(Path("data"))
    monkeypatch.setattr(StepProgress, "read", lambda *arguments: signal.raise_signal(signal.SIGINT))
    result = run("train", "data", *SMALL)
    assert (result.code, result.out, one_line(result.err)) == (130, "", "interrupted")
    assert names(tmp_path) == ["data"]


# --- what a run says


def test_a_run_says_its_settings_its_progress_and_its_result(run: Run, tmp_path: Path) -> None:
    data = flowers(tmp_path / "data")
    (tmp_path / "small.toml").write_text("label_smoothing = 0.2\n[augment]\nflip = 0.25\n")
    folder = tmp_path / "run"
    code, out, err = run("train", data, *SMALL, "--recipe", tmp_path / "small.toml", "--epochs", 2, "-o", folder)
    assert code == 0
    lines = err.splitlines()
    assert lines[0] == f"run {folder}: {data}, 3 classes, 18 pictures to learn from, 3 held out"
    settings = " ".join(" ".join(lines[1:-1]).split())
    assert all(len(line) <= 110 and line.startswith("  ") for line in lines[1:-1])
    for part in (
        "model: image_size 8 8,",
        ", patch_size 2,",
        "training: objective classification, epochs 2, minutes none, batch_size 4, lr 0.004,",  # default and flags
        "label_smoothing 0.2,",  # recipe
        "training.augment: crop_scale none, crop_ratio 0.75 1.33333, flip 0.25, rotate 8,",  # both
    ):
        assert part in settings
    assert "training.mix" not in settings  # as usual
    assert re.fullmatch(
        r"step 8 of 8, \d+ images/s, 0 s left, loss \d\.\d{3}, held-out accuracy \d+\.\d\d%, held-out loss [\d.]+, "
        r"lr \d\.\de-\d\d",
        lines[-1],
    )
    held_out = json.loads((folder / "results.json").read_text())["top1"]
    first, *others = out.splitlines()
    assert re.fullmatch(rf"held-out accuracy {held_out:.2%} \(last step, ema weights, \d+ s of training\)", first)
    assert others == [f"model: {folder / 'model'}", f"report: {folder / 'report.html'}"]
    assert "test" not in json.loads((folder / "results.json").read_text())


def test_more_pictures_a_step_than_there_are_are_all_there_are(run: Run, tmp_path: Path) -> None:
    data = flowers(tmp_path / "data", each=3)
    code, _, err = run("train", data, "--image-size", 8, "--epochs", 2, "--batch-size", 64, "-o", tmp_path / "run")
    assert code == 0 and "batch_size 64" in err and "step 2 of 2" in err


def test_a_long_run_says_how_far_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(sys.modules[StepProgress.__module__], "time", SimpleNamespace(monotonic=lambda: now))
    with StepProgress() as progress:
        for done in range(0, 1001, 100):
            progress.read(done, 1000)
            now += 3
        for step in range(1, 1001):
            row = {"loss": 0.5, "lr": 1e-3, "images_per_s": 812.3, **({"held-out accuracy": 0.9} if step > 500 else {})}
            progress.advance(Progress(step=step, steps=1000, seconds=step * 0.1), row)
            now += 0.1
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["400 of 1,000 pictures read", "800 of 1,000 pictures read"]
    steps = lines[2:]
    assert len(steps) == 11  # every ten seconds, and at the end
    assert re.fullmatch(r"step \d\d of 1,000, 812 images/s, 9\d s left, loss 0\.500, lr 1\.0e-03", steps[0])
    assert steps[-1] == "step 1,000 of 1,000, 812 images/s, 0 s left, loss 0.500, held-out accuracy 90.00%, lr 1.0e-03"


def test_on_a_terminal_one_line_of_80_columns_moves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    row = {"loss": 0.5, "lr": 1e-3, "images_per_s": 1812.3, "held-out accuracy": 0.9, "held-out loss": 0.3}
    with StepProgress() as progress:
        progress.read(50, 1000)
        progress.advance(Progress(step=500, steps=1000, seconds=50.0), row)
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err).rstrip().rpartition("\r")[2]
    assert "500/1000" in last and last.endswith(" 1812 images/s, loss 0.500, accuracy 90.00%") and len(last) <= 80


def test_the_test_part_is_read_once_at_the_end(run: Run, tmp_path: Path) -> None:
    """Pictures of the test part are the held-out ones under other classes: one accuracy can't stand for the other."""
    data = tmp_path / "data"
    flowers(data / "train")
    for seed, name in enumerate(("aster", "daisy", "rose")):
        picture_file(data / "val" / name / "1.png", 12, 12, seed=seed)
        for other in {"aster", "daisy", "rose"} - {name}:
            picture_file(data / "test" / other / f"{name}.png", 12, 12, seed=seed)
    code, out, err = run("train", data, *SMALL, "--epochs", 2, "-o", tmp_path / "run")
    assert code == 0 and "3 classes, 21 pictures to learn from, 3 held out, 6 for the test at the end" in err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    held_out, test = results["top1"], results["test"]["top1"]
    assert (results["count"], results["test"]["count"]) == (3, 6) and test == pytest.approx((1 - held_out) / 2)
    assert out.startswith(f"held-out accuracy {held_out:.2%}, test accuracy {test:.2%} (")
    # On the way only the held-out part is read.
    scores = {round(row["accuracy"] * 3, 6) for row in rows(tmp_path / "run") if row["kind"] == "evaluation"}
    assert scores <= {0, 1, 2, 3}
    card = json.loads((tmp_path / "run" / "model" / "vitkit.json").read_text())["card"]
    assert card["metrics"] == {"held-out accuracy": held_out, "test accuracy": test}
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"Test accuracy: {100 * test:.2f} % of 6 pictures" in page


def test_beside_a_test_part_alone_some_of_train_is_held_out(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flowers(tmp_path / "data" / "train", each=5)
    for name in ("aster", "rose"):
        picture_file(tmp_path / "data" / "test" / name / "1.png", 12, 12, seed=100 + len(name))
    code, out, err = run(
        "train", tmp_path / "data", *SMALL, "--epochs", 1, "--val-fraction", 0.4, "-o", tmp_path / "run"
    )
    assert code == 0 and "3 classes, 9 pictures to learn from, 6 held out, 2 for the test at the end" in err
    assert "test accuracy" in out and caplog.messages == [
        f"{tmp_path / 'data' / 'test'} holds no picture of class daisy: they are only learnt"
    ]


# --- a rate that is too high


def test_a_rate_too_high_is_told_and_a_lower_one_trains(run: Run, tmp_path: Path) -> None:
    data, folder = flowers(tmp_path / "data"), tmp_path / "run"
    call = ["train", data, *SMALL, "--epochs", 6, "-o"]
    code, out, err = run(*call, folder, "--lr", 1e8)
    said = last_line(err)
    assert (code, out) == (2, "")
    found = re.match(
        r"step (\d+): the loss is \S+, the gradient's norm \S+, at learning rate [\d.]+e\+\d+ and pictures \d+, \d+, "
        r"\d+, \d+, ...; resumed, the run would end here again: start anew with a lower --lr; (.*)",
        said,
    )
    assert found, said
    good = find_checkpoint(folder / "checkpoints")
    assert found[2] == f"the last good checkpoint, {good}, is kept"
    assert all(value.isfinite().all() for value in ending(folder).values())
    assert not (folder / "model").exists()
    # What the line says holds.
    again = run("train", "--resume", folder)
    assert (again.code, last_line(again.err)) == (2, said)
    assert "train.lr: 100000000.0, now 0.001; leave that out, or start anew" in one_line(
        run("train", "--resume", folder, "--lr", 1e-3).err
    )
    assert f"the run {folder} exists; go on with --resume" in one_line(run(*call, folder, "--lr", 1e-3).err)
    assert run(*call, tmp_path / "anew", "--lr", 1e-3).code == 0


# --- what stops a training loses nothing

LONG = ("--image-size", "8", "--batch-size", "6", "--epochs", "12", "--seed", "3")


class Whole(NamedTuple):
    data: Path
    folder: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run that nothing stopped."""
    place = tmp_path_factory.mktemp("whole")
    data = flowers(place / "data")
    assert main(["train", str(data), *LONG, "-o", str(place / "run")]) == 0
    return Whole(data, place / "run")


def signal_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C while that step runs."""
    advance = StepProgress.advance

    def interrupt(self: StepProgress, progress: Progress, row: dict[str, float]) -> None:
        if progress.step == step:
            signal.raise_signal(signal.SIGINT)
        advance(self, progress, row)

    monkeypatch.setattr(StepProgress, "advance", interrupt)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_resumed_run_ends_with_the_same_bits(
    run: Run, whole: Whole, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [*VITKIT, "train", str(whole.data), *LONG, "-o", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = folder / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 4):
        time.sleep(0.002)
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, ""), err
    found = re.fullmatch(r"stopped after step (\d+); go on with vitkit train --resume (.*)", last_line(err))
    assert found and found[2] == str(folder)
    assert find_checkpoint(folder / "checkpoints") == folder / "checkpoints" / f"step-{found[1]}"
    assert 3 <= int(found[1]) < 36
    assert run("train", "--resume", folder).code == 0
    assert_same_run(folder, whole.folder)


def test_the_demo_too_says_how_to_go_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signal_at(monkeypatch, 2)
    code, out, err = run("demo", "-o", tmp_path / "run")
    assert (code, out) == (130, "")
    assert last_line(err) == f"stopped after step 2; go on with vitkit train --resume {tmp_path / 'run'}"


@contextlib.contextmanager
def disk_with_room(size: int) -> Iterator[None]:
    """As far as this process can tell, the disk is full once a file has `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_costs_nothing_but_time(
    run: Run, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    signal_at(monkeypatch, 7)
    assert run("train", whole.data, *LONG, "-o", folder).code == 130
    good = find_checkpoint(folder / "checkpoints")
    assert good is not None
    log = (folder / "log.jsonl").stat().st_size
    goes_on = "can't be written (the disk is full); --resume goes on from the "
    weights = (good / "model.safetensors").stat().st_size
    for room, fault in (
        (log // 2, f"{folder / 'log.jsonl'}: {goes_on}last checkpoint"),  # resuming
        (log + 300, f"{folder / 'log.jsonl'}: {goes_on}last checkpoint"),  # within a row
        (weights - 1, rf"{folder / 'checkpoints'}/step-\d+: {goes_on}checkpoint before it"),
    ):
        with disk_with_room(room):
            code, out, err = run("train", "--resume", folder)
        assert (code, out) == (2, "")
        assert re.fullmatch(fault.replace("(", r"\(").replace(")", r"\)"), last_line(err)), err
        assert find_checkpoint(folder / "checkpoints") == good
        assert [name for name in names(folder / "checkpoints") if name.startswith(".")] == []
    assert run("train", "--resume", folder).code == 0
    assert_same_run(folder, whole.folder)


def test_results_that_find_no_room_are_made_anew(run: Run, whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    shutil.rmtree(folder / "model")
    with disk_with_room(max(file.stat().st_size for file in folder.glob("*.*")) - 1):
        code, out, err = run("train", "--resume", folder)
    assert (code, out) == (2, "")
    assert last_line(err).startswith(f"{folder}: the results can't be written (can't write '{folder / 'report.html'}'")
    assert last_line(err).endswith(f"; --resume {folder} makes them anew")
    assert run("train", "--resume", folder).code == 0
    assert_same_run(folder, whole.folder)


def test_a_process_on_a_full_disk_ends_without_another_word(whole: Whole, tmp_path: Path) -> None:
    """What Python does at its end, with files that can't be flushed, shows in no other test."""
    folder = tmp_path / "run"
    done = subprocess.run(
        [*VITKIT, "train", str(whole.data), *LONG, "-o", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000)),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "can't be written (the disk is full)" in last_line(done.stderr)


def test_a_run_resumed_otherwise_names_each_difference(refused: Refused, whole: Whole) -> None:
    said = refused("train", "--resume", whole.folder, "--lr", 0.1, "--epochs", 3, "--image-size", 16, "--seed", 4)
    assert said.startswith(f"{whole.folder} was started otherwise: ")
    for difference in (
        "spec.spec.image_size: (8, 8), now (16, 16)",
        "preprocess.size: (8, 8), now (16, 16)",
        "train.epochs: 12, now 3",
        "train.lr: 0.004, now 0.1",
        "train.seed: 3, now 4",
    ):
        assert difference in said
    assert said.endswith("; leave that out, or start anew")


def test_pictures_that_came_since_are_a_difference(refused: Refused, whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.folder, tmp_path / "run")
    shutil.copytree(whole.data, tmp_path / "data")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    run["run"]["data"] = str(tmp_path / "data")
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    for number in range(3):
        picture_file(tmp_path / "data" / "rose" / f"new{number}.png", 12, 12, seed=100 + number)
    said = refused("train", "--resume", tmp_path / "run")
    assert re.search(r"started otherwise: pictures: \(18, 3\), now \(\d+, \d+\); leave", said)
