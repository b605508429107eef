"""What each command prints and writes when all is well, and that Python says the same."""

import csv
import http.server
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import vitkit
from small import NAMES, picture_file, small_folder, small_model
from vitkit.cli import main


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_folder(tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def good(run: Run) -> Callable[..., str]:
    """Runs a call in which nothing may fail and returns its output."""

    def good(*arguments: object) -> str:
        result = run(*arguments)
        assert (result.code, result.err) == (0, "")
        return result.out

    return good


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(3):
        picture_file(tmp_path / "d" / f"{seed}.png", seed=seed)
    picture_file(tmp_path / "d" / "sub" / "3.jpg", seed=3)
    return tmp_path / "d"


@pytest.fixture
def standard_input(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))  # type: ignore[type-var]

    return give


Good = Callable[..., str]


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def best(out: str) -> list[tuple[str, str]]:
    """(picture, best class) of a JSON output."""
    return [(row["picture"], row["predictions"][0]["class_name"]) for row in objects(out)]


# --- classify


def test_text_is_the_picture_and_its_classes_in_percent(good: Good, model: str, folder: Path) -> None:
    path = folder / "0.png"
    found = vitkit.load(model).classify(path, top=3)
    expected = [str(path), *(f"  {100 * p.probability:6.2f}%  {p.class_name}" for p in found)]
    assert good("classify", path, "-m", model, "--top", 3).splitlines() == expected


def test_json_holds_the_numbers_python_gives(good: Good, model: str, folder: Path) -> None:
    vit = vitkit.load(model)
    rows = objects(good("classify", folder, "-m", model, "--json", "--top", 7))
    assert [row["picture"] for row in rows] == [str(folder / name) for name in ("0.png", "1.png", "2.png", "sub/3.jpg")]
    for row, found in zip(rows, vit.classify(folder, top=7), strict=True):
        assert (row["model"], row["engine"]) == (model, "torch float32 on cpu")
        assert row["predictions"] == [
            {"class_name": p.class_name, "class_id": None, "index": p.index, "probability": p.probability}
            for p in found
        ]


def test_csv_holds_the_numbers_json_does(good: Good, model: str, folder: Path) -> None:
    as_json = objects(good("classify", folder, "-m", model, "--json"))
    rows = list(csv.DictReader(io.StringIO(good("classify", folder, "-m", model, "--csv"))))
    expected = [
        (each["picture"], str(rank), p["class_name"], str(p["index"]), p["probability"])
        for each in as_json
        for rank, p in enumerate(each["predictions"], start=1)
    ]
    names = ("picture", "rank", "class_name", "index")
    assert [(*(row[name] for name in names), float(row["probability"])) for row in rows] == expected
    assert {(row["error"], row["model"], row["engine"]) for row in rows} == {("", model, "torch float32 on cpu")}


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_a_file_holds_what_would_be_printed(good: Good, model: str, folder: Path, form: list[str]) -> None:
    printed = good("classify", folder, "-m", model, *form)
    assert good("classify", folder, "-m", model, *form, "-o", folder / "x.out") == ""
    assert (folder / "x.out").read_text(encoding="utf-8") == printed


def test_a_failed_picture_has_its_row(run: Run, model: str, folder: Path) -> None:
    (folder / "1.png").write_bytes(b"")
    result = run("classify", folder, "-m", model, "--csv", "--top", 1)
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert result.code == 1
    assert [(Path(row["picture"]).name, row["rank"], bool(row["error"])) for row in rows] == [
        ("0.png", "1", False), ("1.png", "", True), ("2.png", "1", False), ("3.jpg", "1", False)
    ]  # fmt: skip
    text = run("classify", folder, "-m", model, "--top", 1)
    assert "1.png" not in text.out and text.err.startswith(f"vitkit: {folder / '1.png'} is empty")


def test_threshold_leaves_out_the_unlikely(good: Good, model: str, folder: Path) -> None:
    path = folder / "0.png"
    every = vitkit.load(model).classify(path, top=7)
    limit = every[2].probability
    [row] = objects(good("classify", path, "-m", model, "--json", "--threshold", repr(limit)))
    assert [p["index"] for p in row["predictions"]] == [p.index for p in every[:3]]
    assert "no class reaches the threshold" in good("classify", path, "-m", model, "--threshold", 1)
    [row] = objects(good("classify", path, "-m", model, "--json", "--threshold", 1))
    assert row["predictions"] == []


def test_more_classes_than_there_are_gives_them_all(good: Good, model: str, folder: Path) -> None:
    [row] = objects(good("classify", folder / "0.png", "-m", model, "--json", "--top", 99))
    assert len(row["predictions"]) == 7
    assert sum(p["probability"] for p in row["predictions"]) == pytest.approx(1)


def test_globs_and_several_arguments_keep_their_order(good: Good, model: str, folder: Path) -> None:
    out = good("classify", folder / "2.png", folder / "[01].png", folder / "sub", "-m", model, "--json")
    assert [row["picture"] for row in objects(out)] == [
        str(folder / n) for n in ("2.png", "0.png", "1.png", "sub/3.jpg")
    ]


def test_standard_input_gives_paths_or_one_picture(
    good: Good, model: str, folder: Path, standard_input: Callable[[bytes], None]
) -> None:
    expected = best(good("classify", folder / "0.png", folder / "sub", "-m", model, "--json"))
    standard_input(f"{folder / '0.png'}\r\n\n{folder / 'sub'}".encode())
    assert best(good("classify", "-", "-m", model, "--json")) == expected
    for name in ("0.png", "sub/3.jpg"):
        content = (folder / name).read_bytes()
        standard_input(content)
        [row] = objects(good("classify", "-", "-m", model, "--json"))
        assert row["picture"] == f"bytes of {len(content):,}"
        assert row["predictions"] == objects(good("classify", folder / name, "-m", model, "--json"))[0]["predictions"]


def test_a_path_that_begins_like_a_bitmap_is_a_path(
    good: Good, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standard_input: Callable[[bytes], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    picture_file(tmp_path / "BMW 320 at night.png")
    standard_input(b"BMW 320 at night.png\n")
    assert good("classify", "-", "-m", model).startswith("BMW 320 at night.png\n")
    for ending in ("bmp", "gif", "webp", "tif"):
        standard_input(picture_file(tmp_path / f"p.{ending}").read_bytes())
        assert good("classify", "-", "-m", model).startswith("bytes of ")


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address at which `folder` is served."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()
        thread.join()


def test_a_url_is_fetched_and_one_that_isnt_there_is_named(run: Run, model: str, folder: Path, server: str) -> None:
    result = run("classify", f"{server}/sub/3.jpg", f"{server}/no.jpg", "-m", model, "--json")
    there, gone = objects(result.out)
    assert result.code == 1
    [local] = objects(run("classify", folder / "sub" / "3.jpg", "-m", model, "--json").out)
    assert there == local | {"picture": f"{server}/sub/3.jpg"}
    assert gone["picture"] == f"{server}/no.jpg" and "404" in gone["error"]
    assert result.err.count("\n") == 1 and f"{server}/no.jpg" in result.err


def test_options_reach_the_model(good: Good, model: str, folder: Path) -> None:
    options = ["--image-size", "32x64", "--batch-size", 2, "--device", "cpu", "--dtype", "bfloat16"]
    rows = objects(good("classify", folder, "-m", model, "--json", *options))
    assert {row["engine"] for row in rows} == {"torch bfloat16 on cpu"}
    vit = vitkit.load(model, image_size=(32, 64), dtype="bfloat16", device="cpu")
    expected = vit.classify(folder, batch_size=2)
    assert [[p["probability"] for p in row["predictions"]] for row in rows] == [
        [p.probability for p in found] for found in expected
    ]


# --- embed


def test_embed_writes_what_python_embeds(good: Good, model: str, folder: Path) -> None:
    said = good("embed", folder, "-m", model, "-o", folder / "x.npz")
    assert said == f"{folder / 'x.npz'}: 4 x 32 float32, 0 failed ({model}, torch float32 on cpu)\n"
    with np.load(folder / "x.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["embeddings"], vitkit.load(model).embed(folder))


def test_embed_keeps_the_rows_of_failures_and_exits_with_1(run: Run, model: str, folder: Path) -> None:
    code, out, err = run(
        "embed", folder / "0.png", "missing.png", folder / "2.png", "-m", model, "-o", folder / "x.npz"
    )
    assert code == 1
    assert "3 x 32 float32, 1 failed" in out
    assert err == "vitkit: missing.png doesn't exist; check the path\nvitkit: 1 of 3 pictures failed\n"
    with np.load(folder / "x.npz", allow_pickle=False) as arrays:
        assert np.isnan(arrays["embeddings"]).all(axis=1).tolist() == [False, True, False]
        assert arrays["pictures"].tolist() == [str(folder / "0.png"), "missing.png", str(folder / "2.png")]


# --- evaluate


def test_evaluate_scores_class_folders(good: Good, model: str, tmp_path: Path) -> None:
    vit = vitkit.load(model)
    for seed in range(6):
        picture_file(tmp_path / "data" / NAMES[seed % 2] / f"{seed}.png", seed=seed)
    found = [vit.classify(tmp_path / "data" / NAMES[seed % 2] / f"{seed}.png", top=7) for seed in range(6)]
    ranks = [[p.class_name for p in one].index(NAMES[seed % 2]) for seed, one in enumerate(found)]
    scores = json.loads(good("evaluate", tmp_path / "data", "-m", model, "--json", "-o", tmp_path / "x.json"))
    assert (scores["count"], scores["failed"]) == (6, [])
    assert scores["top1"] == pytest.approx(sum(rank == 0 for rank in ranks) / 6)
    assert scores["top5"] == pytest.approx(sum(rank < 5 for rank in ranks) / 6)
    assert json.loads((tmp_path / "x.json").read_text()) == scores
    assert f"top-1 {100 * scores['top1']:.1f} %" in good("evaluate", tmp_path / "data", "-m", model)


# --- models


def test_models_lists_by_pattern(good: Good) -> None:
    header, *lines = good("models").splitlines()
    rows = json.loads(good("models", "--json"))
    assert header.split()[:3] == ["name", "parameters", "GMACs"]
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]
    assert [row["name"] for row in rows] == [info.name for info in vitkit.list_models()]
    base = next(row for row in rows if row["name"] == "vit_base_patch16_224")
    assert base["parameters"] == 86_567_656  # timm's count, and the paper's 86 M
    some = [line.split()[0] for line in good("models", "vit_tiny*").splitlines()[1:]]
    assert some == [row["name"] for row in rows if row["name"].startswith("vit_tiny")] != []


def test_show_says_what_a_checkpoint_is_and_what_said_so(good: Good, model: str) -> None:
    text = good("models", "--show", model)
    for part in (
        f"source      {model}",
        "layout      native",
        "width 32, depth 2, 4 heads",
        "7: class a; class b",
        "[vitkit.json]",
    ):
        assert part in text
    data = json.loads(good("models", "--show", model, "--json"))
    assert data["model"]["spec"]["embed_dim"] == 32
    assert data["parameters"] == sum(p.numel() for p in small_model().parameters())
    assert data["card"]["class_names"] == list(NAMES)


def test_show_knows_presets_in_both_forms(good: Good) -> None:
    assert good("models", "--show", "vit_base_patch16_224").startswith("preset      vit_base_patch16_224\n")
    data = json.loads(good("models", "--show", "vit_base_patch16_224", "--json"))
    assert data["preset"] == "vit_base_patch16_224" and data["model"]["spec"]["embed_dim"] == 768
    assert data["preprocess"]["size"] == [224, 224]


# --- convert and verify


def test_convert_writes_native_folders_that_answer_the_same(good: Good, model: str, folder: Path) -> None:
    out = good("convert", model, "-o", folder / "m")
    assert f"written: {folder / 'm'}" in out
    assert good("verify", folder / "m").startswith(f"{folder / 'm'}: proved, ")
    a, b = (objects(good("classify", folder / "0.png", "-m", each, "--json")) for each in (model, folder / "m"))
    assert a[0]["predictions"] == b[0]["predictions"]


def test_convert_to_hf_says_what_cant_be_expressed(good: Good, tmp_path: Path) -> None:
    small_folder(tmp_path / "m", position_resample="bilinear")
    out = good("convert", tmp_path / "m", "-o", tmp_path / "hf", "--to", "hf")
    assert "note: at other sizes transformers resamples positions by bicubic, not bilinear" in out
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json"}
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    state = load_file(tmp_path / "m" / "model.safetensors")
    query = tensors["vit.encoder.layer.0.attention.attention.query.weight"]
    torch.testing.assert_close(query, state["blocks.0.attn.qkv.weight"][:32], rtol=0, atol=0)


def test_convert_overwrites_only_when_told_even_its_own_source(run: Run, good: Good, tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    before = load_file(folder / "model.safetensors")
    refused = run("convert", folder, "-o", folder)
    assert refused.code == 2 and "exists and isn't empty" in refused.err
    good("convert", folder, "-o", folder, "--overwrite")
    after = load_file(folder / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_convert_makes_another_head_or_size_on_request(good: Good, model: str, tmp_path: Path) -> None:
    out = good("convert", model, "-o", tmp_path / "m", "--num-classes", 3, "--image-size", "64x32")
    assert "head: 7 outputs replaced by 3" in out and "size: 32x32 changed to 64x32" in out
    vit = vitkit.load(tmp_path / "m")
    assert (vit.spec.num_classes, vit.spec.image_size, vit.class_names) == (3, (64, 32), None)
    assert good("verify", tmp_path / "m")
    good("convert", model, "-o", tmp_path / "headless", "--num-classes", 0)
    assert vitkit.load(tmp_path / "headless").spec.num_classes == 0


def test_convert_reads_pickles_as_plain_tensors(run: Run, good: Good, tmp_path: Path) -> None:
    spec = next(info for info in vitkit.list_models("vit_tiny_patch16_224")).spec
    module = vitkit.VisionTransformer(
        image_size=224, patch_size=16, embed_dim=spec.embed_dim, depth=spec.depth,
        num_heads=spec.num_heads, mlp_dim=spec.mlp_dim,
    )  # fmt: skip
    torch.save({"state_dict": module.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    arguments = [tmp_path / "w.pth", "--preset", "vit_tiny_patch16_224"]
    refused = run("classify", "p.png", "-m", *arguments)
    assert refused.code == 2 and "the weights are pickled" in refused.err and "vitkit convert" in refused.err
    good("convert", *arguments, "-o", tmp_path / "m")
    written = load_file(tmp_path / "m" / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in module.state_dict().items())


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_convert_runs_no_code_of_a_pickle(run: Run, tmp_path: Path) -> None:
    torch.save({"head.weight": _Evil(tmp_path / "ran")}, tmp_path / "w.pth")
    result = run("convert", tmp_path / "w.pth", "--preset", "vit_tiny_patch16_224", "-o", tmp_path / "m")
    assert result.code == 2 and "can't be read as plain weights" in result.err and result.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_verify_exits_with_1_and_names_the_first_stage_that_departs(run: Run, good: Good, tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    agreed = json.loads(good("verify", folder, "--json"))
    assert agreed["agrees"] is True and agreed["stages"][0]["name"] == "pixels"
    state = load_file(folder / "model.safetensors")
    state["blocks.1.norm1.weight"] *= 1.05
    save_file(state, folder / "model.safetensors")
    content = json.loads((folder / "vitkit.json").read_text())
    (folder / "vitkit.json").write_text(json.dumps({**content, "sha256": {}}))
    result = run("verify", folder)
    assert (result.code, result.err) == (1, "")
    assert result.out.startswith(f"{folder}: departs first at blocks.1, by ")
    data = json.loads(run("verify", folder, "--json").out)
    assert data["agrees"] is False
    assert next(stage["name"] for stage in data["stages"] if not stage["agrees"]) == "blocks.1"


# --- the process


def test_the_installed_command_runs_on_its_own(model: str, tmp_path: Path) -> None:
    """The one test of the whole: entry point, real pipes, no warnings, nothing but results on stdout."""
    Image.new("RGB", (9, 9), "teal").save(tmp_path / "p.png")
    command = [sys.executable, "-W", "error", str(Path(sys.executable).parent / "vitkit")]
    done = subprocess.run(
        [*command, "classify", "-", "-m", model, "--json"],
        input=b"p.png\n",
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    [row] = objects(done.stdout.decode())
    assert row["predictions"][0]["probability"] == vitkit.load(model).classify(tmp_path / "p.png")[0].probability
