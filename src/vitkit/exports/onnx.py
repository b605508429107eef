"""Graphs as ONNX: one file, the weights inside, that any runtime of ONNX runs.

The graph is torch's own translation (torch.onnx, dynamo=True) of the traced program, in the standard operators alone.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitkit.errors import CheckpointError, ConfigError, EngineError
from vitkit.exports.graph import CropGraph
from vitkit.exports.libraries import import_onnx, import_onnxruntime, onnxruntime_errors
from vitkit.exports.metadata import KEY
from vitkit.exports.program import SMALL, trace, without_warnings

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["OPSET", "constants", "read_text", "runner", "to_onnx", "write"]

OPSET = 20
"""The first with Gelu as one operator; ONNX Runtime runs it since 1.17 (2024)."""
LIMIT_BYTES = 2**31 - 1
"""Of one protobuf message."""


def to_onnx(graph: CropGraph) -> ModelProto:
    """The graph as an ONNX model of any batch and of all sizes that `graph.size_step` allows.

    Its input is named after `graph.form`, its outputs are "embedding" and, where there is a head, "logits". Raises
    ConfigError for weights above LIMIT_BYTES, EngineError where torch can't translate the graph.
    """
    import_onnx()
    weights = sum(tensor.nbytes for tensor in graph.state_dict().values())
    if weights > LIMIT_BYTES - 2**20:
        raise ConfigError(
            f"{weights / 2**30:.1f} GiB of weights don't fit into one ONNX graph (2 GiB): export it --to torch, or "
            "run it by --engine torch"
        )
    names = [name for name in ("embedding", "logits") if name == "embedding" or graph.module.spec.num_classes]
    try:
        with torch.no_grad(), without_warnings():
            made = torch.onnx.export(trace(graph), dynamo=True, opset_version=OPSET, output_names=names, verbose=False)
    except RuntimeError as error:  # the base of all that torch's exporters raise
        raise EngineError(f"torch can't write this model as ONNX: {' '.join(str(error).split())[:300]}") from error
    assert made is not None
    model = made.model_proto
    _keep_zeros(model)
    return model


def _keep_zeros(model: ModelProto) -> None:
    """Changes the zeros that are padded before a MaxPool (BiT's root) into the least number above.

    ONNX Runtime (1.31, PadFusion) turns a padding by zeros into the MaxPool's own, which is by minus infinity.
    """
    onnx = import_onnx()
    graph = model.graph
    pooled = {node.input[0] for node in graph.node if node.op_type == "MaxPool"}
    for node in graph.node:
        if node.op_type == "Pad" and node.output[0] in pooled:
            zero, node.input[2] = node.input[2], f"{node.output[0]}_value"
            graph.initializer.append(onnx.numpy_helper.from_array(np.finfo(np.float32).tiny, node.input[2]))
            if not any(zero in each.input for each in graph.node):
                graph.initializer.remove(next(each for each in graph.initializer if each.name == zero))


def write(graph: CropGraph, file: Path, text: str) -> None:
    """Writes the ONNX model to `file`, with the metadata `text`."""
    model = to_onnx(graph)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, text
    file.write_bytes(model.SerializeToString())


def read_text(file: Path) -> str | None:
    """The metadata's text, None where there is none; CheckpointError where the file is damaged."""
    onnx = import_onnx()
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(file)
    except DecodeError as error:
        raise CheckpointError(f"{file}: can't be read, it is damaged ({error})") from None
    return next((entry.value for entry in model.metadata_props if entry.key == KEY), None)


def constants(file: Path) -> list[NDArray[Any]]:
    """The small arrays in the graph."""
    onnx = import_onnx()
    model = onnx.load(file)
    kept = list(model.graph.initializer)
    kept += [entry.t for node in model.graph.node if node.op_type == "Constant" for entry in node.attribute]
    return [onnx.numpy_helper.to_array(one) for one in kept if math.prod(one.dims) <= SMALL]


def runner(file: Path) -> Any:
    """A function from what the graph takes, [B, H, W, C], to outputs, by ONNX Runtime in float32 on the CPU."""
    try:
        session = import_onnxruntime().InferenceSession(file, providers=["CPUExecutionProvider"])
    except onnxruntime_errors() as error:
        raise RuntimeError(str(error)) from error
    taken = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]

    def run(pixels: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        try:
            return dict(zip(names, session.run(None, {taken: pixels}), strict=True))
        except onnxruntime_errors() as error:
            raise RuntimeError(str(error)) from error

    return run
