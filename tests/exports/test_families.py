"""Every family as ONNX, in ONNX Runtime and in OpenVINO: the answers of torch, in batches and sizes of all kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from exports.families import preprocess_of, small_families, small_module
from vitkit.checkpoint.proof import Stage
from vitkit.exports.check import against_torch
from vitkit.exports.graph import CropGraph
from vitkit.exports.libraries import import_onnxruntime, import_openvino
from vitkit.exports.onnx import to_onnx

FAMILIES = small_families()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_answers_as_torch_does_in_both_runtimes(name: str) -> None:
    model = FAMILIES[name]
    graph = CropGraph(small_module(model), preprocess_of(model.spec))
    content = to_onnx(graph).SerializeToString()
    for run in (in_onnxruntime(content), in_openvino(content)):
        stages = against_torch(run, graph)
        assert all(stage.agrees for stage in stages), worst(stages)


def in_onnxruntime(content: bytes) -> Any:
    session = import_onnxruntime().InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda crops: dict(zip(names, session.run(names, {"crops": crops}), strict=True))


def in_openvino(content: bytes) -> Any:
    core = import_openvino().Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(crops: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        return {output.any_name: np.array(values) for output, values in compiled(crops).items()}

    return run


def worst(stages: list[Stage]) -> Stage:
    return max(stages, key=lambda stage: stage.difference)
