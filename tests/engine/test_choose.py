"""engine="auto": the fastest that agrees is taken, said and remembered; what changed is measured again."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitkit
from small import PREPROCESS, picture, picture_file, small_folder, small_model
from vitkit import ConfigError, EngineError
from vitkit.checkpoint.card import Card
from vitkit.cli import main
from vitkit.cli.inputs import look_ahead
from vitkit.engine import choose
from vitkit.engine.choose import Choice, candidates
from vitkit.engine.engines import ENGINES, Kind, Setup
from vitkit.engine.onnx_engine import onnx_bytes
from vitkit.engine.protocol import Outputs
from vitkit.engine.torch_engine import TorchEngine
from vitkit.exports import onnx
from vitkit.model.base import ImageModel

CPU = torch.device("cpu")
CARD = Card(preprocess=PREPROCESS)


@pytest.fixture(autouse=True)
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty memory, and little time for measuring."""
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr(choose, "cached_assets_path", lambda *names: folder)
    monkeypatch.setattr(choose, "SECONDS", 0.02)
    return folder


def changed(change: Callable[[Outputs], Outputs], *, wait: float = 0.0) -> Kind:
    """An engine that answers as torch does, but for what is changed of the answers and the time they take."""

    class Changed(TorchEngine):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.name = f"changed {self.name}"

        def run(self, crops: np.ndarray) -> Outputs:
            time.sleep(wait)
            return change(super().run(crops))

        def shared(self, calls: int) -> TorchEngine:
            return self

    return Kind(of_module=Changed, devices=("cpu",), dtypes=("float32", "bfloat16"))


@pytest.fixture
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the other engines, which take seconds to make."""
    for name in list(ENGINES)[:0:-1]:  # put back last to first, so in their order
        monkeypatch.delitem(ENGINES, name)


def chosen(monkeypatch: pytest.MonkeyPatch, kinds: dict[str, Kind], *setups: tuple[str, torch.dtype]) -> Choice:
    for name, kind in kinds.items():
        monkeypatch.setitem(ENGINES, name, kind)
    return choice_of(small_model(), [Setup(name, CPU, dtype) for name, dtype in setups])


def choice_of(module: ImageModel, setups: list[Setup]) -> Choice:
    return choose.choose(module, CARD, setups, [], onnx=lambda: onnx_bytes(module, PREPROCESS))


def test_of_engines_that_agree_the_fastest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"slow": changed(lambda outputs: outputs, wait=0.05)}
    choice = chosen(monkeypatch, kinds, ("slow", torch.float32), ("torch", torch.float32))
    assert (choice.engine, choice.dtype, choice.remembered) == ("torch", "float32", False)
    fast, slow = (each.pictures_per_second for each in choice.tried)
    assert fast is not None
    assert slow is not None
    assert slow <= 3 / 0.05 < fast


def off(name: str, by: float) -> Callable[[Outputs], Outputs]:
    """One value of the first picture's changed, by a part of the largest."""

    def change(outputs: Outputs) -> Outputs:
        values = outputs[name].copy()
        values[0, 0] += by * np.abs(values).max()
        return outputs | {name: values}

    return change


def second_best(outputs: Outputs) -> Outputs:
    """The first picture's two best classes exchanged."""
    logits = outputs["logits"].copy()
    best, second = np.argsort(-logits[0])[:2]
    logits[0, [best, second]] = logits[0, [second, best]]
    return outputs | {"logits": logits}


@pytest.mark.parametrize(
    ("change", "dtype", "reason"),
    [
        (off("logits", 3e-5), torch.float32, "of the largest logits value (at most 1e-05)"),
        (off("embedding", 3e-5), torch.float32, "of the largest embedding value (at most 1e-05)"),
        (off("embedding", 0.06), torch.bfloat16, "of the largest embedding value (at most 0.05)"),
        (off("logits", 1.0), torch.bfloat16, "in a probability (at most 0.05)"),
        (lambda outputs: outputs, torch.float32, None),
        (off("logits", 3e-5), torch.bfloat16, None),
    ],
)
def test_an_engine_is_taken_only_where_it_agrees(
    change: Callable[[Outputs], Outputs], dtype: torch.dtype, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"other": changed(change), "torch": changed(lambda outputs: outputs, wait=0.05)}
    choice = chosen(monkeypatch, kinds, ("other", dtype), ("torch", torch.float32))
    assert choice.engine == ("other" if reason is None else "torch")
    if reason is not None:
        assert choice.tried[1].pictures_per_second is None
        assert reason in (choice.tried[1].fault or "")
        assert reason in str(choice)


def agreement(margin: float, change: Callable[[Outputs], Outputs]) -> str | None:
    """What is wrong with changed answers to float32's, whose best class leads by `margin`."""
    rest = (1 - margin) / 2
    expected: Outputs = {
        "logits": np.log(np.array([[rest, rest + margin, 1e-9]], np.float32)),
        "embedding": np.ones((1, 4), np.float32),
    }
    return choose.fault_of(change(expected), expected, "softmax", reduced=True)


def test_fewer_bits_may_change_the_best_class_only_where_it_was_unclear() -> None:
    assert agreement(0.04, second_best) is None
    assert agreement(0.049, lambda outputs: outputs) is None
    assert "in a probability" in str(agreement(0.2, second_best))


def test_an_engine_that_gives_no_numbers_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(outputs: Outputs) -> Outputs:
        raise EngineError("the logits holds values that aren't finite")

    choice = chosen(monkeypatch, {"other": changed(fails)}, ("other", torch.float32), ("torch", torch.float32))
    assert choice.engine == "torch"
    with pytest.raises(EngineError, match="none agrees with float32: other float32 on cpu the logits holds"):
        chosen(monkeypatch, {"other": changed(fails)}, ("other", torch.float32))


def test_an_engine_that_cannot_be_made_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object, **named: object) -> None:
        raise torch.onnx.OnnxExporterError("no such operator")

    folder = small_folder(tmp_path / "m")
    for change, fault in (
        (partial(monkeypatch.setattr, torch.onnx, "export", fails), "can't write this model as ONNX: no such operator"),
        (partial(monkeypatch.setattr, onnx, "LIMIT_BYTES", 2**20), r"ONNX graph (2 GiB): export it --to torch, or"),
    ):
        change()
        vit = vitkit.load(folder, engine="auto", device="cpu", dtype="float32")
        assert vit.engine_choice is not None
        assert vit.engine.name == "torch float32 on cpu"
        faults = {each.engine: each.fault or "" for each in vit.engine_choice.tried[1:]}
        assert faults.keys() == {"onnx float32 on cpu", "openvino float32 on cpu"}
        assert all(fault in each for each in faults.values())
        (file,) = (tmp_path / "memory").iterdir()
        file.unlink()


def test_an_engine_that_fails_when_it_is_first_run_is_left_out() -> None:
    for engine in ("onnx", "openvino"):
        setups = [Setup(engine, CPU, torch.float32), Setup("torch", CPU, torch.float32)]
        choice = choose.choose(small_model(), CARD, setups, [], onnx=lambda: b"no model")
        assert choice.engine == "torch"
        assert choice.tried[1].engine == f"{engine} float32 on cpu"
        assert not str(choice.tried[1].fault).startswith(engine)


def test_a_layout_for_several_calls_must_agree_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mislaid(TorchEngine):
        def shared(self, calls: int) -> TorchEngine:
            wrong = changed(off("logits", 3e-5)).of_module
            assert wrong is not None
            return wrong(self.graph.module, self.preprocess, device=CPU, dtype=torch.float32)  # type: ignore[return-value]

    kind = Kind(of_module=Mislaid, devices=("cpu",), dtypes=("float32",))
    choice = chosen(monkeypatch, {"other": kind}, ("other", torch.float32), ("torch", torch.float32))
    assert choice.engine == "torch"
    assert "of the largest logits value" in str(choice.tried[1].fault)


def test_measuring_leaves_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        chosen(monkeypatch, {}, ("torch", torch.float32))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_new_head_answers_zero_and_agrees(tmp_path: Path) -> None:
    vit = vitkit.load(small_folder(tmp_path / "m"), num_classes=5, engine="auto", device="cpu", dtype="float32")
    assert vit.engine_choice is not None
    assert [each.fault for each in vit.engine_choice.tried] == [None] * len(ENGINES)


def test_a_nan_does_not_agree() -> None:
    assert agreement(0.2, lambda outputs: outputs | {"logits": outputs["logits"] * np.float32("nan")}) is not None
    assert agreement(0.2, lambda outputs: outputs | {"embedding": outputs["embedding"] * np.float32("nan")}) is not None


def test_the_onnx_model_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    export = torch.onnx.export

    def counted(*given: Any, **named: Any) -> Any:
        made.append(given)
        return export(*given, **named)

    monkeypatch.setattr(torch.onnx, "export", counted)
    monkeypatch.setitem(ENGINES, "torch", changed(off("logits", 1.0)))
    monkeypatch.setitem(ENGINES, "float", Kind(of_module=TorchEngine, devices=("cpu",), dtypes=("float16",)))
    monkeypatch.setattr(choose, "Setup", lambda *given: Setup("float", CPU, torch.float32))  # the reference
    vit = vitkit.load(small_folder(tmp_path / "m"), engine="auto", device="cpu", dtype="float32")
    assert vit.engine.name in ("onnx float32 on cpu", "openvino float32 on cpu")
    assert len(made) == 1


@pytest.mark.usefixtures("torch_alone")
def test_a_choice_is_said_once_and_remembered_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = small_folder(tmp_path / "m")
    first = vitkit.load(folder, engine="auto", device="cpu").engine_choice
    assert first is not None
    assert {each.engine for each in first.tried} >= {"torch float32 on cpu"}
    assert [record.getMessage() for record in caplog.records] == [str(first)]

    vit = vitkit.load(folder, engine="auto", device="cpu")
    assert vit.engine_choice == dataclasses.replace(first, remembered=True)
    assert vit.engine.name == first.tried[0].engine
    assert "as measured before" in str(vit.engine_choice)
    assert len(caplog.records) == 1

    def remembers(folder: Path, dtype: str | None = None) -> bool:
        choice = vitkit.load(folder, engine="auto", device="cpu", dtype=dtype).engine_choice
        return choice is not None and choice.remembered

    assert not remembers(small_folder(tmp_path / "other", num_heads=2, mlp_dim=32))
    assert not remembers(folder, dtype="float32")
    for name in ("_version", "processor_name"):
        assert remembers(folder)
        monkeypatch.setattr(choose, name, lambda asked: "another")
        assert not remembers(folder)


def test_a_damaged_memory_is_measured_again_and_mended(remembered: Path) -> None:
    setups = [Setup("torch", CPU, torch.float32)]
    made = choice_of(small_model(), setups)
    (file,) = remembered.iterdir()
    content = file.read_bytes()
    for damaged in (content[:-9], b"[]", b"{}", content.replace(b'"torch"', b'"gone"')):
        file.write_bytes(damaged)
        assert not choice_of(small_model(), setups).remembered
        assert choice_of(small_model(), setups).remembered
    assert made.engine == "torch"
    assert [each.name for each in remembered.iterdir()] == [file.name]


def test_what_cannot_be_remembered_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(choose, "cached_assets_path", lambda *names: tmp_path / "file")
    choice = choice_of(small_model(), [Setup("torch", CPU, torch.float32)])
    assert choice.engine == "torch"
    assert "the choice isn't remembered" in caplog.text


def test_candidates_are_what_this_machine_has_in_the_dtype_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    every = {(setup.engine, setup.dtype) for setup in candidates("cpu", None)}
    assert {("torch", torch.float32), ("onnx", torch.float32), ("openvino", torch.float32)} <= every
    assert {setup.dtype for setup in candidates("cpu", "bfloat16")} == {torch.bfloat16}
    monkeypatch.setattr(choose, "has_native_bfloat16", lambda device: False)
    assert {setup.dtype for setup in candidates("cpu", None)} == {torch.float32}


def test_a_missing_library_leaves_the_others(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with caplog.at_level(logging.INFO, logger="vitkit"):
        assert "openvino" not in {setup.engine for setup in candidates("cpu", None)}
    assert "pip install 'vitkit[openvino]'" in caplog.text


def test_the_callers_pictures_are_tried_too_and_bad_ones_passed_over(tmp_path: Path) -> None:
    good, bad = picture_file(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(b"no picture")
    crops = choose._crops(small_model(), PREPROCESS, [str(good), str(bad), picture(seed=3), "http://127.0.0.1:9/x.png"])
    assert crops.shape == (5, 32, 32, 3)


def test_a_stream_is_looked_ahead_in_for_auto_alone() -> None:
    stream = iter([b"%d" % number for number in range(9)])
    first, rest = look_ahead(stream, "auto")
    assert first == [b"0", b"1", b"2", b"3", b"4"]
    assert len(list(rest)) == 9
    untouched = iter([b"1", b"2"])
    assert look_ahead(untouched, "onnx")[0] == look_ahead(untouched, None)[0] == []
    assert next(untouched) == b"1"


@pytest.mark.usefixtures("torch_alone")
def test_the_command_takes_auto_and_names_what_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, file = small_folder(tmp_path / "m"), picture_file(tmp_path / "a.png")
    how = ["--engine", "auto", "--device", "cpu", "--dtype", "float32", "--json"]
    assert main(["classify", str(file), "--model", str(folder), *how]) == 0
    assert '"engine": "torch float32 on cpu"' in capsys.readouterr().out
    assert "engine auto: torch float32 on cpu" in caplog.text


def test_nothing_to_choose_from_is_said_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match="unknown"):
        vitkit.load("no/such/folder/at/all", engine="auto", dtype="int8")
