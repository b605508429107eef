"""Graphs as OpenVINO's IR: NAME.xml and, beside it, the weights in NAME.bin. Made from the ONNX graph, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitkit.errors import CheckpointError
from vitkit.exports.graph import CropGraph
from vitkit.exports.libraries import import_openvino
from vitkit.exports.metadata import KEY
from vitkit.exports.onnx import to_onnx
from vitkit.exports.program import SMALL

__all__ = ["constants", "read_text", "runner", "to_openvino", "write"]


def to_openvino(graph: CropGraph) -> Any:
    """The graph as an openvino.Model, by way of `to_onnx`, whose inputs and outputs it has."""
    # Core.read_model, since openvino.convert_model reports its use over the network.
    return import_openvino().Core().read_model(to_onnx(graph).SerializeToString())


def write(graph: CropGraph, file: Path, text: str) -> None:
    """Writes the IR to `file`, an .xml, and to its neighbour .bin, with the metadata `text`."""
    model = to_openvino(graph)
    model.set_rt_info(text, [KEY])
    import_openvino().save_model(model, file, compress_to_fp16=False)


def read_text(file: Path) -> str | None:
    """The metadata's text, None where there is none; CheckpointError where the file is damaged."""
    try:
        model = import_openvino().Core().read_model(file)
    except RuntimeError as error:
        raise CheckpointError(f"{file}: can't be read, it is damaged ({' '.join(str(error).split())[-200:]})") from None
    return str(model.get_rt_info([KEY]).value) if model.has_rt_info([KEY]) else None


def constants(file: Path) -> list[NDArray[Any]]:
    """The small arrays in the graph."""
    kept = [op for op in import_openvino().Core().read_model(file).get_ops() if op.get_type_name() == "Constant"]
    return [op.data for op in kept if op.data.size <= SMALL]


def runner(file: Path) -> Any:
    """A function from what the graph takes, [B, H, W, C], to outputs, by OpenVINO in float32 on the CPU."""
    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # the CPU's own choice is bfloat16 where it has it
    compiled = import_openvino().Core().compile_model(file, "CPU", settings)
    names = [output.any_name for output in compiled.outputs]

    def run(pixels: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        return {name: np.array(values) for name, values in zip(names, compiled(pixels).values(), strict=True)}

    return run
