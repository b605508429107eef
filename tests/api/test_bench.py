"""bench: the figures of a model hang together, what can't be run is a row that says why, and faults come first."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vitkit
from small import PREPROCESS, picture_file, small_folder, small_model
from vitkit import ConfigError, ImageError, Preprocess
from vitkit.api import bench as module
from vitkit.api import bench_entry
from vitkit.api.bench_entry import Alone, Entry, run_alone
from vitkit.cli import main
from vitkit.config import to_dict
from vitkit.engine import measure
from vitkit.engine.engines import ENGINES
from vitkit.engine.torch_engine import TorchEngine
from vitkit.evaluation import contestants
from vitkit.evaluation.contestants import made_pictures
from vitkit.image import quick_fit
from vitkit.image.decode import decode


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_folder(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As short as it gets, without processes of their own."""
    monkeypatch.setitem(measure.SIDES, "cpu", (64,))
    for name in ("PEAK_S", "STAGES_S", "CORE_S"):
        monkeypatch.setattr(module, name, 0.01)
    monkeypatch.setattr(module, "run_alone", lambda entry: Alone(300_000_000, 1.5))


@pytest.mark.usefixtures("quick")
def test_the_figures_of_a_model_hang_together(folder: Path) -> None:
    started: list[Any] = []
    found = vitkit.bench(
        folder,
        engines=["torch"],
        dtypes=["float32"],
        seconds=0.2,
        device="cpu",
        on_start=lambda *told: started.append(told),
    )
    (row,) = found.rows
    assert row.speed is not None and row.note is None and started[0][0] == ["torch float32"]
    latency, best = row.speed.latency, row.speed.best
    assert 0 < latency.p25 <= latency.p50 <= latency.p95 <= latency.p99 and latency.n > 3
    assert [rate.images for rate in row.speed.batches] == [1, 8, 32] and row.speed.many.images == 64
    assert best.low <= best.images_per_s <= best.high
    macs = vitkit.load(folder, device="cpu").spec.macs()
    assert found.macs == macs
    assert row.peak_share == pytest.approx(2 * macs * best.images_per_s / found.peaks["float32"])
    # A tiny model's picture takes longer to decode than to run; all of it fits in the latency of one.
    assert set(found.stages) == {"decode", "resize and crop", "softmax and names"}
    assert 0 < found.stages["decode"] < 2 * latency.p50 and 0 < found.stages["softmax and names"] < latency.p50
    assert set(found.machine.versions) == {"vitkit", "torch"}
    assert json.loads(json.dumps(to_dict(found)))["rows"][0]["speed"]["latency"]["p50"] == latency.p50


@pytest.mark.usefixtures("quick")
def test_what_cannot_run_is_a_row_that_says_why_and_the_rest_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    asked = {"engines": ["onnx", "torch"], "dtypes": ["float32"], "seconds": 0.1, "device": "cpu"}
    lacking, measured = vitkit.bench(folder, **asked).rows  # type: ignore[arg-type]
    assert lacking.speed is None and "pip install 'vitkit[onnx]'" in str(lacking.note)
    assert measured.speed is not None and measured.note is None
    with pytest.raises(ConfigError, match="vitkit\\[onnx\\]"):
        vitkit.bench(folder, engines=["onnx"], dtypes=["float32"], device="cpu")


@pytest.mark.usefixtures("quick")
def test_a_precision_that_an_engine_does_not_know_is_left_out_unless_it_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "has_native_bfloat16", lambda device: True)
    with monkeypatch.context() as lacking:
        lacking.setitem(sys.modules, "onnx", None)  # the rows are what counts here
        rows = vitkit.bench(folder, engines=["torch", "onnx"], seconds=0.1, device="cpu").rows
    assert [(row.runner, row.dtype) for row in rows] == [
        ("torch", "float32"),
        ("torch", "bfloat16"),
        ("onnx", "float32"),
    ]
    rows = vitkit.bench(folder, engines=["torch", "onnx"], dtypes=["bfloat16"], seconds=0.1, device="cpu").rows
    assert [row.speed is None for row in rows] == [False, True] and "bfloat16" in str(rows[1].note)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"engines": ["torch", "tensorrt"]}, f"engine 'tensorrt' is unknown; allowed: {', '.join(ENGINES)}"),
        ({"engines": []}, "no engine is named"),
        ({"dtypes": ["int8"]}, "dtype 'int8' is unknown"),
        ({"seconds": 0}, "seconds is 0"),
        ({"output": "speed.txt"}, "let its name end in .png (a plot) or .html (a page)"),
        ({"output": "nowhere/speed.png"}, "there is no folder"),
        ({"device": "cuda:99"}, "GPUs"),
    ],
)
def test_faults_of_the_call_come_before_any_work(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        vitkit.bench("nowhere", **asked)
    assert said in str(caught.value)


@pytest.mark.usefixtures("quick")
def test_own_pictures_are_shown_and_one_that_is_broken_is_named(folder: Path, tmp_path: Path) -> None:
    for seed in range(3):
        picture_file(tmp_path / "own" / f"{seed}.jpg", seed=seed)
    asked = {"engines": ["torch"], "dtypes": ["float32"], "seconds": 0.1, "device": "cpu"}
    assert vitkit.bench(folder, pictures=tmp_path / "own", **asked).pictures.startswith("3 pictures of ")
    (tmp_path / "own" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        vitkit.bench(folder, pictures=tmp_path / "own", **asked)


@pytest.mark.usefixtures("quick")
def test_a_model_without_classes_of_deep_pictures_is_measured_too(tmp_path: Path) -> None:
    deep = Preprocess(
        size=32,
        resize="squash",
        crop="none",
        interpolation="bilinear",
        mean=(0.4,) * 2,
        std=(0.3,) * 2,
        value_range=(0, 9),
    )
    small_model(num_classes=0, in_channels=2).save_pretrained(tmp_path / "m", preprocess=deep)
    found = vitkit.bench(tmp_path / "m", engines=["torch"], dtypes=["float32"], seconds=0.1, device="cpu", peers=True)
    assert set(found.stages) == {"decode", "resize and crop"}
    assert [(row.runner, row.speed is None) for row in found.rows] == [
        ("torch", False),
        ("transformers", True),
        ("timm", True),
    ]
    assert "8 bits" in str(found.rows[1].note)


@pytest.mark.parametrize("exact", [True, False])
def test_the_stages_are_those_that_the_model_uses(folder: Path, monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    seen: set[tuple[str, Any]] = set()

    def watch(name: str) -> None:
        plain = getattr(quick_fit, name)

        def watched(*given: Any, **named: Any) -> Any:
            seen.add((name, named.get("shrink_to")))
            return plain(*given, **named)

        monkeypatch.setattr(quick_fit, name, watched)

    for name in ("decode", "fit", "quick_fit"):
        watch(name)
    vit, pictures = vitkit.load(folder, device="cpu", exact=exact), made_pictures(2)
    vit.classify(pictures)
    used = frozenset(seen)
    assert (("quick_fit", None) in used, ("decode", None) in used) == (not exact, exact)
    seen.clear()
    contestants.core_seconds_of_stages(vit, pictures, 0.1)
    assert seen == used


def test_a_process_of_its_own_tells_its_memory_and_start(folder: Path) -> None:
    entry = Entry(runner="torch", dtype="float32", source=str(folder), device="cpu", loading={"image_size": (48, 32)})
    alone = run_alone(entry)
    assert alone.memory_bytes is None or 50e6 < alone.memory_bytes < 4e9  # Python and torch alone take hundreds of MB
    assert 0.2 < alone.ready_s < 300


def test_a_process_of_its_own_holds_every_layout_of_its_engine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = Entry(runner="torch", dtype="float32", source=str(folder), device="cpu", loading={})
    calls = []

    def laid_out(self: TorchEngine, count: int) -> TorchEngine:
        calls.append(count)
        return self

    monkeypatch.setattr(TorchEngine, "shared", laid_out)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(sys, "argv", ["", json.dumps(vars(entry)), "0"])
    bench_entry._main()
    assert calls == [2]
    assert json.loads(capsys.readouterr().out)["ready_s"] > 0


def test_made_pictures_are_what_the_model_reads() -> None:
    jpeg, other = made_pictures(2, PREPROCESS)
    assert isinstance(jpeg, bytes) and jpeg.startswith(b"\xff\xd8") and jpeg != other
    assert decode(jpeg).shape == (375, 500, 3)


@pytest.mark.usefixtures("quick")
def test_the_command_prints_a_table_or_json_and_draws(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["bench", "-m", str(folder), "--engines", "torch", "--dtype", "float32, float16", "--seconds", "0.1"]
    assert main([*call, "--device", "cpu", "-o", str(tmp_path / "speed.png")]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("measuring torch float32, torch float16: about 1 min")
    lines = printed.out.splitlines()
    head = next(line for line in lines if "p50 ms" in line)
    rows = [line for line in lines if line.startswith("torch float")]
    assert [len(row) for row in rows] == [len(head)] * 2 and "300" in rows[0] and rows[0].endswith("1.5")
    with Image.open(tmp_path / "speed.png") as plot:
        assert plot.format == "PNG" and min(plot.size) > 400
    assert main([*call, "--device", "cpu", "--json", "-o", str(tmp_path / "speed.html")]) == 0
    told = json.loads(capsys.readouterr().out)
    page = (tmp_path / "speed.html").read_text()
    assert [row["dtype"] for row in told["rows"]] == ["float32", "float16"] and f"{told['title']}" in page
    assert f"{told['rows'][0]['speed']['many']['images_per_s']:.1f}" in page


def test_the_commands_faults_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--engines", "torch,abacus"]) == 2
    assert capsys.readouterr().err.startswith("vitkit: engine 'abacus' is unknown; allowed: torch")
