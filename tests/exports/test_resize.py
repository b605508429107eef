"""The resize inside a graph makes the crops that Pillow makes, whatever the size, the filter and the runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from small import PREPROCESS, picture, small_model
from vitkit import Preprocess
from vitkit.errors import ConfigError
from vitkit.exports.libraries import import_openvino
from vitkit.exports.onnx import OPSET, to_onnx
from vitkit.exports.program import trace, without_warnings
from vitkit.exports.resize import Fit, PictureGraph
from vitkit.image.preprocess import fit

SIZES = ((1, 1), (1, 40), (37, 1), (2, 3), (36, 36), (32, 32), (33, 64), (48, 64), (75, 100), (130, 40), (20, 333))
"""(height, width): a point, lines, exact fits, halves and ties of the crop, upscaling, thin ones either way."""
KINDS: tuple[dict[str, Any], ...] = (
    {"resize": "shortest", "resize_size": 36, "crop": "center_round"},
    {"resize": "shortest", "resize_size": 33, "crop": "center_floor"},
    {"resize": "shortest", "resize_size": (40, 30), "size": (36, 28), "crop": "center_round"},
    {"resize": "squash", "resize_size": 32, "crop": "none"},
    {"resize": "squash", "resize_size": (30, 25), "crop": "center_round"},
    {"resize": "none", "resize_size": None, "crop": "center_floor"},
    {"resize": "none", "resize_size": None, "crop": "center_round"},
)
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


def preprocess(**changes: Any) -> Preprocess:
    return Preprocess(**{"size": 32, "mean": (0.5,) * 3, "std": (0.2,) * 3, **changes})


def shown(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A smooth picture, or noise, whose every edge overshoots."""
    if seed % 2:
        return np.random.default_rng(seed).integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)
    return np.array(picture(height, width, seed=seed))


@pytest.mark.parametrize("order", ["resize_first", "rescale_first"])
@pytest.mark.parametrize(("interpolation", "antialias"), [*((name, True) for name in FILTERS), ("bilinear", False)])
def test_crops_are_pillows_for_every_filter_and_size(interpolation: str, antialias: bool, order: str) -> None:
    limit = 2 if order == "resize_first" else 1e-6
    for kind in KINDS:
        wanted = preprocess(interpolation=interpolation, order=order, antialias=antialias, **kind)
        for seed, (height, width) in enumerate(SIZES * 2):
            rgb = shown(height, width, seed)
            found = Fit(wanted)(torch.from_numpy(rgb)[None])[0].numpy()
            expected = fit(wanted, rgb).astype(np.float32)
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= limit, (kind, height, width)


def test_deep_pictures_and_other_channels_are_resized_as_pillow_does() -> None:
    deep = preprocess(
        mean=(0.5,) * 5, std=(0.2,) * 5, value_range=(0, 1), interpolation="bicubic", resize="squash", crop="none"
    )
    grey = preprocess(mean=(0.5,), std=(0.2,), interpolation="lanczos", resize="squash", crop="none")
    for wanted in (deep, grey):
        shape = (70, 41, wanted.channels)
        pixels = np.random.default_rng(0).integers(0, wanted.full_scale, shape, wanted.pixel_type, endpoint=True)
        found = Fit(wanted)(torch.from_numpy(pixels)[None])[0].numpy()
        assert np.abs(found - fit(wanted, pixels)).max() <= 2


def test_preprocessing_that_leaves_sizes_alone_has_no_such_form() -> None:
    with pytest.raises(ConfigError, match="neither resizes nor crops"):
        PictureGraph(small_model(), preprocess(interpolation="bilinear", resize="none", crop="none"))


@pytest.mark.parametrize(
    "changes",
    [
        {"interpolation": "bicubic", **KINDS[0]},
        {"interpolation": "lanczos", **KINDS[2]},
        {"interpolation": "bilinear", **KINDS[4]},
        {"interpolation": "bilinear", "antialias": False, **KINDS[1]},
        {"interpolation": "bicubic", "order": "rescale_first", **KINDS[3]},
    ],
)
def test_runtimes_of_onnx_make_the_same_crops_at_every_size(changes: dict[str, Any]) -> None:
    wanted = preprocess(**changes)
    any_size = {axis: torch.export.Dim(name) for axis, name in enumerate(("batch", "height", "width"))}
    example = torch.zeros(2, 50, 60, 3, dtype=torch.uint8)
    with without_warnings():
        made = torch.onnx.export(
            Fit(wanted).eval(), (example,), dynamic_shapes=(any_size,), dynamo=True, opset_version=OPSET, verbose=False
        )
    assert made is not None
    model = made.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    core = import_openvino().Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    limit = 2 if wanted.order == "resize_first" else 2e-4  # OpenVINO has no doubles
    for seed, (height, width) in enumerate((*SIZES, (600, 450))):
        rgb = shown(height, width, seed)[None]
        expected = fit(wanted, rgb[0]).astype(np.float32)
        for found in (session.run(None, {"pictures": rgb})[0], compiled(rgb)[0]):
            assert np.abs(found[0] - expected).max() <= limit, (height, width)


def test_an_export_takes_pictures_of_any_size_in_batches_of_any_length() -> None:
    graph = PictureGraph(small_model(), PREPROCESS)
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    assert not any(node.op_type in ("Resize", "Upsample") for node in model.graph.node)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    program = trace(graph).module()
    for count, size in ((1, (41, 57)), (3, (90, 30)), (2, (1, 1))):
        pictures = graph.example(count, size)
        with torch.no_grad():
            expected = graph(torch.from_numpy(pictures))["logits"].numpy()
            traced = program(torch.from_numpy(pictures))["logits"].numpy()
        found = session.run(["logits"], {"pictures": pictures})[0]
        for answers in (found, traced):
            assert np.abs(answers - expected).max() <= 1e-5 * np.abs(expected).max()
