"""The engines: each answers as torch does, from several threads at once too."""

from __future__ import annotations

import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import vitkit
from small import PREPROCESS, randomise, small_folder, small_model
from vitkit import ConfigError, EngineError
from vitkit.engine.engines import ENGINES, settle
from vitkit.engine.protocol import Engine, Outputs
from vitkit.exports.graph import CropGraph
from vitkit.exports.libraries import import_openvino
from vitkit.model.base import ImageModel
from vitkit.model.resnet import ResNet
from vitkit.model.swin import SwinTransformer

CPU = torch.device("cpu")

FAMILIES = {
    "vit": small_model,
    "no head, mean of the patches": partial(small_model, num_classes=0, class_token=False, pool="mean"),
    "swin": lambda: SwinTransformer(
        image_size=32, patch_size=2, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=7
    ),
    "resnet": lambda: ResNet(image_size=32, depths=(1, 1), width=8, num_classes=7),
}
FLOAT32 = 1e-5
BFLOAT16 = 0.05
"""Relative to the largest value: 8 bits, in each of a few layers."""


def make(engine: str, module: ImageModel, dtype: str = "float32") -> Engine:
    return settle(engine, "cpu", dtype).make(copy.deepcopy(module), PREPROCESS)


def worst(found: Outputs, expected: Outputs) -> float:
    assert found.keys() == expected.keys()
    return max(float(np.abs(found[name] - values).max() / np.abs(values).max()) for name, values in expected.items())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_an_engine_answers_as_torch_does(engine: str, family: str) -> None:
    module = randomise(FAMILIES[family]())
    found, plain = make(engine, module), make("torch", module)
    assert found.input == plain.input
    for count in (1, 3):
        crops = CropGraph(module, PREPROCESS).example(count, seed=count)
        assert worst(found.run(crops), plain.run(crops)) <= FLOAT32


def test_openvino_in_bfloat16_is_close_and_says_so() -> None:
    module = small_model()
    crops = CropGraph(module, PREPROCESS).example(3)
    engine = make("openvino", module, "bfloat16")
    assert engine.name == "openvino bfloat16 on cpu"
    difference = worst(engine.run(crops), make("torch", module).run(crops))
    assert FLOAT32 < difference <= BFLOAT16


@pytest.mark.parametrize("engine", ENGINES)
def test_calls_at_once_answer_as_one_after_the_other(engine: str) -> None:
    module = small_model()
    plain = make(engine, module)
    batches = [CropGraph(module, PREPROCESS).example(1 + seed % 3, seed=seed) for seed in range(24)]
    for layout in (plain, plain.shared(4)):
        alone = [layout.run(crops) for crops in batches]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(layout.run, batches))
        for one, other in zip(alone, together, strict=True):
            for name, values in one.items():
                np.testing.assert_array_equal(other[name], values)
    assert worst(plain.shared(4).run(batches[0]), plain.run(batches[0])) <= FLOAT32


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_layout_is_made_once_and_kept(engine: str) -> None:
    plain = make(engine, small_model())
    two = plain.shared(2)
    assert two is not plain
    assert two is plain.shared(2) is two.shared(2)
    assert two.shared(1) is plain
    assert two.name == plain.name


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_that_is_no_number_is_an_error(engine: str) -> None:
    module = small_model()
    with torch.no_grad():
        module.head.weight[3, 5] = float("inf")
    crops = CropGraph(module, PREPROCESS).example(2)
    with pytest.raises(EngineError, match=f"^{engine} float32 on cpu: the logits holds values that aren't finite"):
        make(engine, module).run(crops)


@pytest.mark.parametrize("engine", ENGINES)
def test_another_module_runs_on_the_same_engine(engine: str) -> None:
    first, second = small_model(), small_model(num_classes=3)
    crops = CropGraph(first, PREPROCESS).example(2)
    other = make(engine, first).with_module(second)
    assert other.name == make(engine, first).name
    assert worst(other.run(crops), make("torch", second).run(crops)) <= FLOAT32


@pytest.mark.parametrize(
    ("engine", "device", "dtype", "message"),
    [
        ("tensorrt", "cpu", None, "engine 'tensorrt' is unknown; allowed: torch, onnx, openvino, auto"),
        ("onnx", "cpu", "bfloat16", "engine 'onnx' doesn't compute in bfloat16; allowed: float32"),
        ("openvino", "cpu", "float16", "engine 'openvino' doesn't compute in float16; allowed: float32, bfloat16"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_read(
    engine: str, device: str, dtype: str | None, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        vitkit.load("no/such/folder/at/all", engine=engine, device=device, dtype=dtype)
    assert str(caught.value) == message


def test_an_engine_of_the_cpu_is_refused_on_a_gpu_and_found_where_any_device_will_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="^engine 'openvino' doesn't run on cuda; allowed: cpu$"):
        settle("openvino", "cuda", None)
    with pytest.raises(ConfigError, match="^engine 'onnx' on cuda needs onnxruntime-gpu"):
        settle("onnx", "cuda", None)
    assert settle("openvino", "auto", None).device == settle("onnx", None, None).device == CPU
    assert settle("torch", "auto", None).device.type == "cuda"


def test_a_processor_without_bfloat16_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_openvino().Core, "get_property", lambda *given: ["FP32"])
    with pytest.raises(ConfigError, match="computes in bfloat16 only where the processor does; use --dtype float32"):
        settle("openvino", "cpu", "bfloat16")


def test_a_missing_library_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install 'vitkit\[openvino\]'"):
        vitkit.load("no/such/folder/at/all", engine="openvino")


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_the_engine_is_asked_for_by_name_and_named(engine: str, tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    plain, other = vitkit.load(folder, device="cpu"), vitkit.load(folder, engine=engine, device="cpu")
    assert engine in repr(other)
    pictures = list(CropGraph(small_model(), PREPROCESS).example(2))
    for found, expected in zip(other.classify(pictures), plain.classify(pictures), strict=True):
        assert [each.class_name for each in found] == [each.class_name for each in expected]
        assert [each.probability for each in found] == pytest.approx([each.probability for each in expected], abs=1e-5)
