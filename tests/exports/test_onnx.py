"""Graphs as ONNX, run by ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch

from small import PREPROCESS, small_model
from vitkit.exports.graph import CropGraph
from vitkit.exports.onnx import OPSET, to_onnx


def test_a_graph_answers_as_torch_does_in_batches_of_any_length() -> None:
    graph = CropGraph(small_model(), PREPROCESS)
    model = to_onnx(graph)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        crops = graph.example(count, seed=count)
        embedding, logits = session.run(["embedding", "logits"], {"crops": crops})
        with torch.no_grad():
            expected = graph(torch.from_numpy(crops))
        for name, found in (("embedding", embedding), ("logits", logits)):
            wanted = expected[name].numpy()
            assert found.shape == wanted.shape
            assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max(), name
