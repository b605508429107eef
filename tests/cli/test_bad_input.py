"""Whatever a user gets wrong or a machine refuses: one clear line, the documented exit code, nothing half-written."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from small import PREPROCESS, picture, picture_file, small_folder, small_model
from vitkit.cli import main

VITKIT = [sys.executable, "-W", "error", "-c", "import sys; from vitkit.cli import main; sys.exit(main())"]


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_folder(tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return picture_file(tmp_path / "good.png")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Runs a call that is wrong and returns what it says: one line on stderr, and exit code 2."""

    def refused(*arguments: object) -> str:
        result = run(*arguments)
        assert (result.code, result.out) == (2, ""), result
        return one_line(result.err)

    return refused


def one_line(err: str) -> str:
    assert err.startswith("vitkit: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err.removeprefix("vitkit: ").removesuffix("\n")


def process(arguments: Sequence[object], **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [*VITKIT, *map(str, arguments)]
    options = {"capture_output": True, "timeout": 120, **options}
    return subprocess.run(command, check=False, **options)  # type: ignore[call-overload, no-any-return]


def names(folder: Path) -> list[str]:
    """Everything there, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def huge_png(path: Path, width: int, height: int) -> None:
    """A few bytes that claim to be `width` x `height` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


class Stdin:
    """Standard input that holds `content`, and then calls `at_end`."""

    def __init__(self, content: bytes, at_end: Callable[[], None] = lambda: None) -> None:
        class Raw(io.BytesIO):
            def readinto(self, buffer: object) -> int:
                count = super().readinto(buffer)  # type: ignore[arg-type]
                if not count:
                    at_end()
                return count

        self.buffer = io.BufferedReader(Raw(content))  # type: ignore[type-var]


# --- pictures


def test_bad_pictures_are_each_named_in_one_line_and_the_others_answered(
    run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture_file(tmp_path / "d" / "whole.jpg")
    (tmp_path / "d" / "text.jpg").write_text("not a picture\n")
    (tmp_path / "d" / "zero.jpg").write_bytes(b"")
    content = (tmp_path / "d" / "whole.jpg").read_bytes()
    (tmp_path / "d" / "cut.jpg").write_bytes(content[: len(content) // 2])
    huge_png(tmp_path / "d" / "bomb.png", 60_000, 60_000)
    (tmp_path / "d" / "gone.png").symlink_to(tmp_path / "nowhere")
    result = run("classify", "d", "missing.png", "-m", model, "--json")
    lines = result.err.splitlines()
    says = {
        "d/bomb.png": "60,000 x 60,000 pixels; at most 178,956,970",
        "d/cut.jpg": "broken or truncated JPEG",
        "d/gone.png": "doesn't exist",
        "d/text.jpg": "isn't a picture in an allowed format; allowed: JPEG, PNG",
        "d/zero.jpg": "is empty (0 bytes)",
        "missing.png": "doesn't exist",
    }
    assert result.code == 1
    assert len(lines) == len(says)
    for line, (name, reason) in zip(lines, says.items(), strict=True):
        assert line.startswith(f"vitkit: {name} ") and reason in line
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert [row["picture"] for row in rows] == sorted([*says, "d/whole.jpg"])
    assert [row["picture"] for row in rows if "predictions" in row] == ["d/whole.jpg"]


def test_one_pixel_and_animations_by_any_name_are_answered(run: Run, model: str, tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "red").save(tmp_path / "one.png")
    frames = [picture(seed=seed) for seed in range(3)]
    frames[0].save(tmp_path / "still.jpg", format="GIF")
    frames[0].save(tmp_path / "animated.jpg", format="GIF", save_all=True, append_images=frames[1:])
    picture_file(tmp_path / "plain.jpg")
    result = run("classify", tmp_path, "-m", model, "--csv", "--top", 1)
    assert (result.code, result.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    found = {Path(row["picture"]).name: row["probability"] for row in rows}
    assert list(found) == ["animated.jpg", "one.png", "plain.jpg", "still.jpg"]
    assert found["animated.jpg"] == found["still.jpg"]


def test_a_strip_that_resizing_would_blow_up_is_refused_before_it_is(run: Run, tmp_path: Path) -> None:
    wide = dataclasses.replace(PREPROCESS, resize_size=(3000, 3000))
    small_model().save_pretrained(tmp_path / "m", preprocess=wide)
    Image.new("L", (65_535, 1)).save(tmp_path / "strip.png")
    code, out, err = run("classify", tmp_path / "strip.png", picture_file(tmp_path / "p.png"), "-m", tmp_path / "m")
    assert code == 1
    assert f"strip.png: a picture of 65,535 x 1 pixels becomes {65_535 * 3000:,} x 3,000 when its" in one_line(err)
    assert out.startswith(str(tmp_path / "p.png"))


def test_an_empty_folder_or_glob_is_said_before_the_model_is_loaded(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "notes.txt").write_text("x")
    assert "d holds no picture (1 other files)" in refused("classify", tmp_path / "d", "-m", "no/such")
    assert "matches no file" in refused("embed", tmp_path / "*.jpg", "-m", "no/such", "-o", tmp_path / "e.npz")


# --- calls


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["clasify"], "Did you mean 'classify'"),
        (["--bogus"], "No such option: --bogus"),
        (["classify"], "Missing argument"),
        (["classify", "p.png", "--bogus"], "No such option: --bogus"),
        (["classify", "p.png", "--top"], "requires an argument"),
        (["classify", "p.png", "--top", "0"], "'--top': Input should be greater than or equal to 1"),
        (["classify", "p.png", "--top", "five"], "'--top'"),
        (["classify", "p.png", "--batch-size", "0"], "'--batch-size': Input should be greater than or equal to 1"),
        (["classify", "p.png", "--threshold", "2"], "--threshold is 2.0; allowed: a probability from 0 to 1"),
        (["classify", "p.png", "--threshold", "nan"], "--threshold is nan"),
        (["classify", "p.png", "--json", "--csv"], "--json and --csv contradict each other"),
        (["classify", "p.png", "-m", "M", "--image-size", "0x3"], "--image-size is '0x3'; allowed: "),
        (["classify", "p.png", "-m", "M", "--image-size", "8x8x8"], "--image-size is '8x8x8'"),
        (["classify", "p.png", "-m", "M", "--image-size", "-8"], "--image-size is '-8'"),
        (["classify", "p.png", "-m", "M", "--image-size", ""], "--image-size is ''"),
        (["classify", "p.png", "-m", "M", "--image-size", "33"], "image_size 33x33 is not a multiple of patch_size 8"),
        (["classify", "p.png", "-m", "M", "--device", "tpu"], "device 'tpu' is unknown; allowed: auto, cpu"),
        (["classify", "p.png", "-m", "M", "--device", "cuda:99"], "device 'cuda:99': this machine"),
        (["classify", "p.png", "-m", "M", "--dtype", "int8"], "dtype 'int8' is unknown; allowed: float32"),
        (["classify", "p.png", "-m", "M", "--preset", "vit_bas_patch16_224"], "nearest: vit_base_patch16_224"),
        (["classify", "p.png", "-m", "M", "--revision", "main"], "belongs to a Hub id"),
        (["classify", "p.png", "-m", "nowhere"], "neither a file or folder here nor a Hub id"),
        (["classify", "p.png", "-m", "vit_base_patch16_224"], "is a preset's name, not weights"),
        (["classify", "p.png", "-m", ""], "no weights there"),
        (["classify", "p.png", "-m", "p.png"], "not a weight file"),
        (["classify", "p.png", "--json", "-o", "x.csv"], "'x.csv' ends in .csv, which says csv, not jsonl; leave one"),
        (["classify", "p.png", "--resume"], "--resume goes on with a file; name it with --output"),
        (["embed", "p.png", "-m", "M"], "Missing option '--output'"),
        (["embed", "p.png", "-m", "M", "-o", "x.csv"], "allowed endings: .npz, .parquet, .jsonl"),
        (["models", "alexnet*"], "no preset matches 'alexnet*'"),
        (["models", "vit*", "--show", "M"], "give a pattern or --show, not both"),
        (["models", "--show", "nowhere"], "neither a file or folder"),
        (["convert", "M", "-o", "new", "--to", "onnx"], "'onnx' is unknown; allowed: native, hf"),
        (["convert", "M"], "Missing option '--output'"),
        (["convert", "M", "-o", "new", "--num-classes", "-1"], "'--num-classes'"),
        (["verify", "nowhere"], "neither a file or folder"),
        (["verify", "M/model.safetensors"], "carries no proof"),
        (["evaluate", "nowhere", "-m", "M"], "isn't there"),
    ],
)
def test_a_wrong_call_is_one_line(
    refused: Callable[..., str],
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    picture_file(tmp_path / "p.png")
    assert says in refused(*(argument.replace("M", model) for argument in arguments))
    assert names(tmp_path) == ["p.png"]


def test_help_comes_without_arguments_and_fits_the_terminal(run: Run) -> None:
    assert run() == run("--help") == run("-h")
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.startswith("Usage: vitkit") and all(len(line) <= 110 for line in out.splitlines())
    for command in ("classify", "embed", "evaluate", "models", "convert", "verify"):
        assert f"\n  {command} " in out
        assert run(command, "--help").code == 0


def test_the_version_needs_no_command(run: Run) -> None:
    import vitkit

    assert run("--version") == (0, f"vitkit {vitkit.__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--debug", "verify", "nowhere"], ["verify", "nowhere", "--debug"]])
def test_debug_shows_the_traceback_before_the_line(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Traceback (most recent call last):")
    assert "read_source" in err and err.splitlines()[-1].startswith("vitkit: 'nowhere' is neither")


# --- checkpoints


def test_a_truncated_safetensors_file_is_named(refused: Callable[..., str], good: Path, tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    # The digests of vitkit.json would tell first: a bare file has none.
    bare = tmp_path / "bare.safetensors"
    shutil.copy(weights, bare)
    said = refused("classify", good, "-m", bare, "--preset", "vit_tiny_patch16_224")
    assert "bare.safetensors: damaged or cut short" in said and "fetch or copy it again" in said
    said = refused("classify", good, "-m", folder)
    assert "model.safetensors" in said


def test_all_faults_of_a_checkpoint_are_told_at_once(refused: Callable[..., str], good: Path, tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    weights = folder / "model.safetensors"
    state = load_file(weights)
    gone = ["cls_token", "blocks.1.attn.qkv.bias", "blocks.0.mlp.fc2.weight"]
    for name in gone:
        del state[name]
    state |= {"extra.one": torch.zeros(2), "blocks.0.extra.two": torch.zeros(3)}
    state["norm.weight"] = torch.ones(31)
    save_file(state, weights)
    content = json.loads((folder / "vitkit.json").read_text())
    (folder / "vitkit.json").write_text(json.dumps({**content, "sha256": {}}))
    said = refused("classify", good, "-m", folder)
    for name in (*gone, "extra.one", "blocks.0.extra.two", "norm.weight"):
        assert name in said
    assert "31" in said and "32" in said


def test_a_proof_whose_preprocessing_is_gone_says_so(refused: Callable[..., str], tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    content = json.loads((folder / "vitkit.json").read_text())
    content["card"]["preprocess"] = None
    (folder / "vitkit.json").write_text(json.dumps({**content, "sha256": {}}))
    assert "nothing there says how pictures become pixels" in refused("verify", folder)


def test_a_model_without_a_head_says_so_before_any_picture(
    refused: Callable[..., str], tmp_path: Path, good: Path
) -> None:
    small_model(num_classes=0).save_pretrained(tmp_path / "m", preprocess=PREPROCESS)
    assert "no classification head; embed with it" in refused("classify", good, "-m", tmp_path / "m")


# --- standard input


@pytest.mark.parametrize("content", [None, b"", b"\n\r\n"], ids=["no stdin", "empty", "empty lines"])
def test_standard_input_without_a_path_is_an_error(
    refused: Callable[..., str], model: str, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.setattr(sys, "stdin", None if content is None else Stdin(content))
    assert "standard input holds no path; give one per line" in refused("classify", "-", "-m", model)


def test_a_folder_on_standard_input_that_gives_no_picture_is_named_and_the_rest_goes_on(
    run: Run, model: str, tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(sys, "stdin", Stdin(f"{good}\n{tmp_path / 'empty'}\nno*.png\n{good}\n".encode()))
    code, out, err = run("classify", "-", "-m", model, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [row["picture"] for row in rows] == [str(good), str(tmp_path / "empty"), "no*.png", str(good)]
    assert ["error" in row for row in rows] == [False, True, True, False]
    empty, nothing = err.splitlines()
    assert "empty holds no picture (0 other files)" in empty and "no*.png matches no file" in nothing


# --- where results go


@pytest.mark.parametrize(("verb", "output"), [("classify", "x.csv"), ("embed", "x.npz")])
def test_an_unfinished_run_is_told_before_the_model_is_loaded(
    run: Run,
    refused: Callable[..., str],
    model: str,
    tmp_path: Path,
    good: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    output: str,
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Stdin(f"{good}\n".encode() * 20, at_end=interrupt))
    end = ("-o", tmp_path / output, "--batch-size", 2)
    assert run(verb, "-", "-m", model, *end).code == 130
    said = refused(verb, good, "-m", "no/such", *end)
    assert "pictures of a run that didn't end: go on with it (--resume), or delete that folder" in said
    other = picture_file(tmp_path / "other.png")
    assert "pictures aren't those of" in refused(verb, other, *[good] * 20, "-m", model, *end, "--resume")
    code, _, err = run(verb, *[good] * 20, other, "-m", model, *end, "--resume")
    assert (code, err) == (0, "")
    assert names(tmp_path) == ["good.png", "other.png", output]
    assert "is complete: nothing to resume" in refused(verb, good, "-m", "no/such", *end, "--resume")


@pytest.mark.parametrize(("verb", "output"), [("classify", "x.json"), ("embed", "x.npz"), ("evaluate", "x.json")])
def test_where_results_cant_go_is_said_before_the_model_is_loaded(
    refused: Callable[..., str], tmp_path: Path, good: Path, verb: str, output: str
) -> None:
    folder, pipe = tmp_path / "folder" / output, tmp_path / "pipe" / output
    folder.mkdir(parents=True)
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    for target, says in (
        (tmp_path / "nowhere" / output, "there is no folder"),
        (folder, "it is a folder; name a file in it"),
        (pipe, "it isn't an ordinary file"),
    ):
        said = refused(verb, good, "-m", "no/such", "-o", target)
        assert says in said and repr(str(target)) in said
    assert pipe.is_fifo()


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """root may write anywhere: be nobody for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_unwritable_folder_is_one_line(
    run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture_file(tmp_path / "p.png")
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "closed").mkdir(mode=0o555)
    monkeypatch.chdir(tmp_path)  # what is above it may be closed as well
    assert run("classify", "p.png", "-m", "m").code == 0  # so that everything is imported
    for arguments in (
        ["classify", "p.png", "-m", "m", "-o", "closed/x.json"],
        ["embed", "p.png", "-m", "m", "-o", "closed/x.npz"],
        ["embed", "p.png", "-m", "m", "-o", "closed/x.parquet"],
        ["convert", "m", "-o", "closed/new"],
    ):
        with unprivileged():
            result = run(*arguments)
        assert result.code == 2
        assert "closed" in one_line(result.err)
    assert names(tmp_path / "closed") == []


@contextlib.contextmanager
def disk_with_room(size: int) -> Iterator[None]:
    """As far as this process can tell, the disk is full once a file has `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("output", "room"), [("x.npz", 2000), ("x.parquet", 2000), ("x.json", 2000)])
def test_a_full_disk_leaves_nothing_and_says_so(run: Run, model: str, tmp_path: Path, output: str, room: int) -> None:
    folders = [picture_file(tmp_path / "d" / f"{seed}.png", seed=seed).parent for seed in range(8)]
    (tmp_path / "out").mkdir()
    verb = ["classify", "--json"] if output == "x.json" else ["embed"]
    arguments = [*verb, *folders, "-m", model, "-o", tmp_path / "out" / output]
    assert run(*arguments).code == 0
    (tmp_path / "out" / output).unlink()
    with disk_with_room(room):
        result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    said = one_line(result.err)
    assert said == f"can't write '{tmp_path / 'out' / output}' (the disk is full); nothing was left behind"
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("layout", ["native", "hf"])
def test_a_full_disk_while_converting_leaves_nothing(run: Run, model: str, tmp_path: Path, layout: str) -> None:
    with disk_with_room(20_000):
        result = run("convert", model, "-o", tmp_path / "new", "--to", layout)
    assert (result.code, result.out) == (2, "")
    assert "new: can't be written (the disk is full)" in one_line(result.err)
    assert names(tmp_path) == []


def test_a_process_on_a_full_disk_ends_in_one_line_and_goes_on_where_there_is_room(
    model: str, tmp_path: Path, good: Path
) -> None:
    """What Python does at its end, with files that can't be flushed, shows in no other test."""
    (tmp_path / "out").mkdir()

    def embed(*more: str, limit: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[bytes]:
        return process(
            ["embed", "-", "-m", model, "-o", "x.npz", *more],
            input=f"{good}\n".encode() * 64,
            cwd=tmp_path / "out",
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )

    done = embed(limit=9500)  # enough for 64 embeddings, not for the file made of them
    assert (done.returncode, done.stdout) == (2, b""), done.stderr
    said = "can't write 'x.npz' (the disk is full); 64 pictures are kept in 'x.npz.part': --resume goes on"
    assert one_line(done.stderr.decode()) == said
    assert names(tmp_path / "out") == ["x.npz.part"]
    assert embed("--resume").returncode == 0
    assert names(tmp_path / "out") == ["x.npz"]
    with np.load(tmp_path / "out" / "x.npz") as arrays:
        assert arrays["embeddings"].shape == (64, 32) and np.isfinite(arrays["embeddings"]).all()


def test_an_old_result_survives_a_failed_run(refused: Callable[..., str], model: str, tmp_path: Path) -> None:
    picture_file(tmp_path / "d" / "p.png")
    state = small_model()
    with torch.no_grad():
        state.head.bias.fill_(float("nan"))  # type: ignore[union-attr]
    state.save_pretrained(tmp_path / "m", preprocess=PREPROCESS)
    (tmp_path / "out").mkdir()
    for name, verb in (("x.csv", "classify"), ("x.npz", "embed")):
        (tmp_path / "out" / name).write_text("old")
        assert "aren't finite" in refused(verb, tmp_path / "d", "-m", tmp_path / "m", "-o", tmp_path / "out" / name)
        assert (tmp_path / "out" / name).read_text() == "old"
    assert names(tmp_path / "out") == ["x.csv", "x.npz"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's full device")
def test_standard_output_that_takes_nothing_more_is_an_error(model: str, good: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = process(["classify", good, "-m", model], stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 2
    assert "No space left on device" in one_line(done.stderr.decode())


@pytest.mark.parametrize("output", ["x.npz", "x.parquet", "x.json"])
def test_an_interrupt_keeps_what_is_done(
    run: Run, model: str, tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    (tmp_path / "out").mkdir()

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Stdin(f"{good}\n".encode() * 20, at_end=interrupt))
    verb = "classify" if output == "x.json" else "embed"
    target = tmp_path / "out" / output
    result = run(verb, "-", "-m", model, "-o", target)
    assert (result.code, result.out) == (130, "")
    kept = re.fullmatch(
        rf"interrupted; (\d+) pictures are kept in '{target}.part': --resume goes on", one_line(result.err)
    )
    assert kept is not None and 0 < int(kept[1]) <= 20
    assert names(tmp_path / "out") == [f"{output}.part"]


@pytest.mark.parametrize(("stop", "code", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_process_that_is_stopped_ends_with_its_code_and_one_line(
    model: str, tmp_path: Path, good: Path, stop: str, code: int, said: str
) -> None:
    command = [*VITKIT, "embed", "-", "-m", model, "-o", "x.npz"]
    (tmp_path / "out").mkdir()
    running = subprocess.Popen(command, cwd=tmp_path / "out", stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdin is not None and running.stderr is not None
    running.stdin.write(f"{good}\n".encode() * 100)  # and no end: it waits for more
    running.stdin.flush()
    deadline = time.monotonic() + 60
    while not names(tmp_path / "out") and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    running.send_signal(getattr(signal, stop))
    _, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert one_line(err.decode()).startswith(f"{said}; ") and "pictures are kept in 'x.npz.part'" in err.decode()
    assert names(tmp_path / "out") == ["x.npz.part"]
    assert names(tmp_path / "out" / "x.npz.part") == ["embeddings", "pictures.jsonl", "state.json"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_half_of_a_converted_folder(
    run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals
) -> None:
    (tmp_path / "out").mkdir()

    def stopped(*arguments: object) -> None:
        assert [name.startswith(".part-") for name in names(tmp_path / "out")] == [True], "it is writing"
        signal.raise_signal(stop)

    monkeypatch.setattr("vitkit.files.sync_file", stopped)
    assert run("convert", model, "-o", tmp_path / "out" / "m").code == 128 + stop
    assert names(tmp_path / "out") == []


def test_a_reader_that_leaves_is_no_fault(model: str, good: Path) -> None:
    running = subprocess.Popen(
        [*VITKIT, "classify", "-", "-m", model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdin is not None and running.stdout is not None and running.stderr is not None
    running.stdin.write(f"{good}\n".encode() * 1000)
    running.stdin.close()
    assert running.stdout.readline().decode().rstrip() == str(good)
    running.stdout.close()
    assert running.stderr.read() == b""
    running.stderr.close()
    assert running.wait(timeout=60) == 0


# --- names of files

ODD = ['comma, and "quotes".png', "line\nbreak.png", "return\r.png", "  spaces .png", "héé 日本.png", "'single'.png"]


def test_odd_names_survive_json_csv_npz_and_parquet(run: Run, model: str, tmp_path: Path) -> None:
    paths = sorted(str(picture_file(tmp_path / "d" / "p.png").rename(tmp_path / "d" / name)) for name in ODD)
    result = run("classify", tmp_path / "d", "-m", model, "--json")
    assert [json.loads(line)["picture"] for line in result.out.splitlines()] == paths
    result = run("classify", tmp_path / "d", "-m", model, "--csv", "--top", 1)
    assert [row["picture"] for row in csv.DictReader(io.StringIO(result.out, newline=""))] == paths
    run("classify", tmp_path / "d", "-m", model, "--csv", "--top", 1, "-o", tmp_path / "x.csv")
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as file:
        assert [row["picture"] for row in csv.DictReader(file)] == paths
    run("embed", tmp_path / "d", "-m", model, "-o", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as arrays:
        assert arrays["pictures"].tolist() == paths
    run("embed", tmp_path / "d", "-m", model, "-o", tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet")["picture"].to_pylist() == paths
    text = run("classify", tmp_path / "d", "-m", model, "--top", 1).out
    assert len(text.splitlines()) == 2 * len(ODD)  # for people: a name never breaks its line


def test_errors_about_odd_names_stay_one_line(run: Run, model: str, tmp_path: Path) -> None:
    (tmp_path / "line\nbreak.png").write_bytes(b"")
    code, _, err = run("classify", tmp_path / "line\nbreak.png", "-m", model)
    assert code == 1
    assert "line\\nbreak.png' is empty" in one_line(err)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_names_that_arent_utf8_come_out_as_they_are(run: Run, model: str, tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    picture_file(tmp_path / "p.png").rename(os.fsdecode(raw))
    # As a process of its own, from its input to its output.
    done = process(["classify", "-", "-m", model, "--csv", "--top", "1"], input=raw + b"\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines()[1].split(b",")[0] == raw
    path = os.fsdecode(raw)
    assert json.loads(run("classify", path, "-m", model, "--json").out)["picture"] == path
    assert run("classify", path, "-m", model).out.splitlines()[0] == repr(path)
    assert run("classify", path, "-m", model, "--csv", "-o", tmp_path / "x.csv").code == 0
    assert raw in (tmp_path / "x.csv").read_bytes()
    assert run("embed", path, "-m", model, "-o", tmp_path / "x.npz").code == 0
    with np.load(tmp_path / "x.npz", allow_pickle=False) as arrays:
        assert arrays["pictures"].tolist() == [path]
    assert run("embed", path, "-m", model, "-o", tmp_path / "x.parquet").code == 0
    assert pq.read_table(tmp_path / "x.parquet")["picture"].to_pylist()[0].endswith("\\udcff\\udcfe.png")


def test_results_are_utf8_whatever_the_locale_says(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(picture_file(tmp_path / "日本.png"))
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["classify", path, "-m", model, "--csv"]) == 0
    assert path in written.getvalue().decode("utf-8")
