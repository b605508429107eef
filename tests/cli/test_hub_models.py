"""Models on the Hub from the command line and Python: the real client against a loopback Hub, every layout."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import vitkit
from hub_server import TOKEN, HubServer
from small import NAMES, PREPROCESS, picture, picture_file, small_folder, small_model
from vitkit.cli import main

ID = "org/vit"


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return picture_file(tmp_path / "p.png")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def layouts(folder: Path) -> dict[str, dict[str, bytes]]:
    """The same small model as repositories of each layout hold it; timm's is the native one without vitkit's files."""
    native = contents(small_folder(folder / "native", norm_eps=1e-6, position_resample="bicubic"))
    vitkit.convert(folder / "native", folder / "hf", to="hf")
    timm = {name: native[name] for name in ("config.json", "model.safetensors")}
    return {"native": native, "timm": timm, "hf": contents(folder / "hf")}


def classes(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("layout", ["native", "timm", "hf"])
def test_a_hub_model_of_any_layout_answers_as_the_folder_it_came_from(
    hub: HubServer, run: Run, tmp_path: Path, path: Path, layout: str
) -> None:
    commit = hub.add(ID, layouts(tmp_path)[layout])
    code, out, err = run("classify", path, "-m", ID, "--json", "--top", 7)
    assert (code, err) == (0, "")
    [row] = classes(out)
    assert row["model"] == f"{ID}@{commit}"
    local = vitkit.load(tmp_path / "native").classify(path, top=7)
    assert [p["class_name"] for p in row["predictions"]] == [p.class_name for p in local]
    found = [p["probability"] for p in row["predictions"]]
    np.testing.assert_allclose(found, [p.probability for p in local], rtol=1e-5)


def test_a_revision_is_taken_from_the_id_or_the_option(hub: HubServer, run: Run, tmp_path: Path, path: Path) -> None:
    old = hub.add(ID, contents(small_folder(tmp_path / "a")), revision="v1")
    new = hub.add(ID, contents(small_folder(tmp_path / "b", depth=1)))
    for arguments, commit in (
        ([f"{ID}@v1"], old),
        ([ID, "--revision", "v1"], old),
        ([f"{ID}@{old}"], old),
        ([f"hf://{ID}"], new),
        ([ID], new),
    ):
        [row] = classes(run("classify", path, "-m", *arguments, "--json").out)
        assert row["model"] == f"{ID}@{commit}", arguments
    result = run("classify", path, "-m", f"{ID}@v1", "--revision", "main")
    assert result.code == 2 and "give one" in result.err and result.err.count("\n") == 1


def test_show_names_the_commit_and_the_files_that_said_what(hub: HubServer, run: Run, tmp_path: Path) -> None:
    commit = hub.add(ID, layouts(tmp_path)["hf"])
    text = run("models", "--show", ID).out
    assert f"source      {ID}@{commit}\n" in text
    assert "transformers/vit" in text and "[preprocessor_config.json]" in text
    report = json.loads(run("models", "--show", ID, "--json").out)["report"]
    assert report["source"] == vitkit.load(ID).report.source == f"{ID}@{commit}"


def test_a_native_repository_is_proved(hub: HubServer, run: Run, tmp_path: Path) -> None:
    repositories = layouts(tmp_path)
    commit = hub.add(ID, repositories["native"])
    code, out, err = run("verify", ID)
    assert (code, err) == (0, "")
    assert out.startswith(f"{ID}@{commit}: proved, ")
    hub.add("org/plain", repositories["hf"])
    result = run("verify", "org/plain")
    assert result.code == 2 and "carries no proof" in result.err and result.err.count("\n") == 1


def test_what_is_converted_from_the_hub_remembers_its_commit(hub: HubServer, run: Run, tmp_path: Path) -> None:
    commit = hub.add(ID, layouts(tmp_path)["hf"])
    assert run("convert", ID, "-o", tmp_path / "m").code == 0
    provenance = vitkit.load(tmp_path / "m").card.provenance
    assert provenance is not None and provenance.source == f"{ID}@{commit}"
    assert run("verify", tmp_path / "m").code == 0


def test_what_is_pushed_is_loaded_equal(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    model = small_model()
    url = model.push_to_hub("me/vit", preprocess=PREPROCESS, class_names=NAMES)
    vit = vitkit.load("me/vit")
    assert url.endswith(vit.report.source.removeprefix("me/vit@"))
    state = vit.module.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert (vit.class_names, vit.card.preprocess, vit.spec) == (NAMES, PREPROCESS, model.spec)
    assert vitkit.verify("me/vit").agrees
    again = vitkit.VisionTransformer.from_pretrained("me/vit")
    pixels = vit.preprocess(picture())[None]
    with torch.inference_mode():
        torch.testing.assert_close(again(pixels), model(pixels), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("org/missing", "org/missing"),
        ("org/gated", "org/gated"),
        ("org/vit@nope", "nope"),
        ("org/empty", "no weights to read"),
    ],
)
def test_what_cant_be_had_is_one_line(
    hub: HubServer, run: Run, tmp_path: Path, path: Path, model: str, says: str
) -> None:
    native = layouts(tmp_path)["native"]
    for name in (ID, "org/gated"):
        hub.add(name, native)
    hub.add("org/empty", {"README.md": b"nothing"})
    hub.gated.add("org/gated")
    result = run("classify", path, "-m", model)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("vitkit: ") and result.err.count("\n") == 1 and says in result.err


def test_a_hub_that_falls_silent_is_one_line_and_the_cache_serves(
    hub: HubServer, run: Run, tmp_path: Path, path: Path
) -> None:
    hub.add(ID, layouts(tmp_path)["native"])
    online = run("classify", path, "-m", ID, "--json")
    hub.close()
    assert run("classify", path, "-m", ID, "--json") == online
    result = run("classify", path, "-m", "org/other")
    assert (result.code, result.out) == (2, "") and result.err.count("\n") == 1
    assert "doesn't hold it" in result.err


def test_a_process_of_its_own_says_nothing_but_the_answer(hub: HubServer, tmp_path: Path, path: Path) -> None:
    hub.add(ID, layouts(tmp_path)["timm"])
    code = "import sys; from vitkit.cli import main; sys.exit(main())"
    command = [sys.executable, "-W", "error", "-c", code, "classify", path, "-m", ID, "--json"]
    done = subprocess.run(command, env={**os.environ, **hub.environment(tmp_path / "cache")}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(classes(done.stdout.decode())) == 1


def test_googles_vit_runs_as_timm_does_on_request(hub: HubServer, run: Run, tmp_path: Path) -> None:
    module = small_model(image_size=224, patch_size=16, norm_eps=1e-12, position_resample="bicubic")
    squashed = vitkit.Preprocess(
        size=224, resize="squash", crop="none", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    vitkit.save(module, tmp_path / "hf", preprocess=squashed, class_names=NAMES, layout="hf")
    google = "google/vit-base-patch16-224"
    hub.add(google, contents(tmp_path / "hf"))
    shown = run("models", "--show", google).out
    assert f"published   as {google} or alike; the original is google-research/vision_transformer\n" in shown
    assert "libraries   setting            in force" in shown and "shortest 248x248" in shown
    assert "named otherwise here\n" in shown and "blocks.0.attn.qkv.weight: vit." not in shown
    named = run("models", "--show", google, "--tensors").out
    layer = "vit.encoder.layer.0.attention.attention"
    joined = " + ".join(f"{layer}.{part}.weight" for part in ("query", "key", "value"))
    assert f"named       blocks.0.attn.qkv.weight: {joined}\n" in named
    report = json.loads(run("models", "--show", google, "--parity", "timm", "--json").out)["report"]
    assert report["filled"]["cls_token"] == ["vit.embeddings.cls_token"]
    assert {row["setting"]: row["in_force"] for row in report["differences"]}["resize"] == "shortest 248x248"
    path = picture_file(tmp_path / "p.png", 300, 260)
    own, timms = (
        classes(run("classify", path, "-m", google, "--json", "--top", 7, *more).out)[0]["predictions"]
        for more in ((), ("--parity", "timm"))
    )
    expected = vitkit.load(google, parity="timm").classify(path, top=7)
    assert [row["probability"] for row in timms] == [p.probability for p in expected] != [r["probability"] for r in own]
    code, out, _ = run("convert", google, "-o", tmp_path / "m", "--parity", "timm")
    assert code == 0 and "note        parity with timm, on request: position_resample bicubic_antialias; " in out
    assert run("models", "--parity", "timm").code == 2
    refused = run("classify", path, "-m", google, "--parity", "keras")
    assert refused.code == 2 and "parity is 'keras'; allowed: timm, hf, original" in refused.err
