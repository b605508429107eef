"""export: whole and proved, or an error and nothing on the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import vitkit
from small import NAMES, picture, small_folder
from vitkit import CheckpointError, ConfigError, EngineError
from vitkit.exports.artifact import FORMATS, open_export, proof_of
from vitkit.exports.evidence import faults
from vitkit.exports.graph import CropGraph
from vitkit.exports.metadata import fingerprint
from vitkit.image.preprocess import fit

FILES = {
    "onnx": {"m.onnx", "m.onnx.proof.safetensors"},
    "openvino": {"m.xml", "m.bin", "m.xml.proof.safetensors"},
    "torch": {"m.pt2", "m.pt2.proof.safetensors"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native checkpoint with 7 named classes."""
    return small_folder(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def onnx_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as ONNX."""
    return vitkit.export(folder, tmp_path_factory.mktemp("exported") / "m.onnx").path


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_answers_pictures_as_the_checkpoint_does(kind: str, folder: Path, tmp_path: Path) -> None:
    done = vitkit.export(folder, tmp_path / f"m{FORMATS[kind].suffix}", to=kind)
    assert {file.name for file in tmp_path.iterdir()} == FILES[kind]
    assert all(stage.agrees for stage in done.stages) and max(stage.difference for stage in done.stages) < 1e-5
    opened = open_export(done.path)
    assert opened.metadata == done.metadata and not faults(opened.metadata, opened.said)
    vit = vitkit.load(folder)
    card = opened.metadata.card
    assert card.class_names == NAMES and card.preprocess is not None
    assert opened.metadata.fingerprint == fingerprint(vit.module)
    logits = opened.runner()(fit(card.preprocess, np.asarray(picture()))[None])["logits"]
    best = vit.classify(picture(), top=1)[0]
    assert int(logits.argmax()) == best.index
    assert torch.from_numpy(logits[0]).softmax(0).max().item() == pytest.approx(best.probability, abs=1e-6)


def test_crops_are_of_any_size_unless_it_is_fixed(folder: Path, onnx_file: Path, tmp_path: Path) -> None:
    fixed = vitkit.export(folder, tmp_path / "m.onnx", fixed_size=True)
    assert fixed.metadata.size_step is None
    shapes = [
        [side.dim_value for side in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
        for path in (onnx_file, fixed.path)
    ]
    assert shapes == [[0, 0, 0, 3], [0, 32, 32, 3]]  # 0: free
    assert open_export(onnx_file).metadata.size_step == 8


def test_a_predictor_is_exported_as_it_is(folder: Path, tmp_path: Path) -> None:
    vit = vitkit.load(folder, image_size=(48, 32))
    done = vitkit.export(vit, tmp_path / "m.onnx")
    assert done.metadata.card.preprocess is not None and done.metadata.card.preprocess.size == (48, 32)
    assert done.metadata.fingerprint == fingerprint(vit.module)


def test_a_predictor_in_bfloat16_is_exported_in_float32(folder: Path, tmp_path: Path) -> None:
    vit = vitkit.load(folder, dtype="bfloat16")
    done = vitkit.export(vit, tmp_path / "m.onnx")
    assert {tensor.data_type for tensor in onnx.load(done.path).graph.initializer} <= {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    }
    assert done.metadata.fingerprint == fingerprint(vit.module)
    assert next(vit.module.parameters()).dtype == torch.bfloat16


def test_what_a_predictor_cant_be_told_any_more_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"image_size, parity: .*vitkit\.load"):
        vitkit.export(vitkit.load(folder), tmp_path / "m.onnx", image_size=64, parity="timm")


def test_what_disagrees_is_refused_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FORMATS["onnx"].write

    def write_damaged(graph: CropGraph, file: Path, text: str) -> None:
        write(graph, file, text)
        model = onnx.load(file)
        weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("head.bias"))
        values = onnx.numpy_helper.to_array(weight).copy()
        values[3] += 1e-2
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        onnx.save(model, file)

    monkeypatch.setitem(FORMATS, "onnx", FORMATS["onnx"]._replace(write=write_damaged))  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r"logits.*allowed.*nothing was written"):
        vitkit.export(folder, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_cannot_be_run_is_one_line(folder: Path, tmp_path: Path) -> None:
    file = vitkit.export(folder, tmp_path / "m.onnx").path
    model = onnx.load(file)
    del model.graph.node[3]
    onnx.save(model, file)
    with pytest.raises(CheckpointError, match=r"m\.onnx: can't be run, it is damaged \([^\n]+\)$"):
        open_export(file).runner()
    with pytest.raises(EngineError, match=r"^onnx float32 on cpu: [^\n]+$"):
        vitkit.load(file, device="cpu").embed(np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("m.onx", {}, r"m\.onx.*\.onnx.*\.xml.*\.pt2"),
        ("m.onnx", {"to": "openvino"}, r"ends in \.onnx; --to openvino writes \.xml"),
        ("m.onnx", {"to": "tflite"}, r"tflite.*onnx, openvino, torch"),
        ("none/m.onnx", {}, "there is no folder"),
        ("m.onnx", {"form": "tensors"}, "tensors.*crops, pictures"),
        ("m.onnx", {"form": "pictures", "fixed_size": True}, "--fixed-size.*pictures are of any size"),
    ],
)
def test_a_wrong_call_is_an_error_before_anything_is_read(
    name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        vitkit.export("no/such-model", tmp_path / name, **options)


def test_what_exists_is_replaced_only_when_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx.proof.safetensors").write_text("mine")
    with pytest.raises(ConfigError, match=r"m\.onnx\.proof\.safetensors exists.*--overwrite"):
        vitkit.export(folder, tmp_path / "m.onnx")
    vitkit.export(folder, tmp_path / "m.onnx", overwrite=True)
    written = open_export(tmp_path / "m.onnx")
    assert not faults(written.metadata, written.said)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{FORMATS[kind].suffix}"
    path.write_bytes(b"no graph at all")
    with pytest.raises(CheckpointError, match=rf"{path.name}.*damaged"):
        open_export(path)


def test_a_truncated_file_is_named(onnx_file: Path, tmp_path: Path) -> None:
    content = onnx_file.read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"m\.onnx.*damaged"):
        open_export(tmp_path / "m.onnx")


def test_a_graph_of_others_and_one_without_its_proof_are_named(onnx_file: Path, tmp_path: Path) -> None:
    model = onnx.load(onnx_file)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match=r"m\.onnx\.proof\.safetensors.*no proof"):
        open_export(tmp_path / "m.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match=r"no metadata of vitkit"):
        open_export(tmp_path / "m.onnx")


def test_changed_metadata_are_noticed(onnx_file: Path, tmp_path: Path) -> None:
    model = onnx.load(onnx_file)
    entry = model.metadata_props[0]
    entry.value = entry.value.replace("class a", "class z")
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "m.onnx.proof.safetensors").write_bytes(proof_of(onnx_file).read_bytes())
    opened = open_export(tmp_path / "m.onnx")
    assert faults(opened.metadata, opened.said) == ["class_names: its metadata say other than when it was exported"]


def test_the_command_says_what_it_wrote(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vitkit", "export", "--model", str(folder), "-o", str(tmp_path / "m.onnx")]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "m.onnx (onnx; crops of any batch" in out.stdout and "compared with torch: " in out.stdout
    assert not out.stderr


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr("vitkit.api.export.write_export", full)
    checkpoint = small_folder(tmp_path / "m")
    with pytest.raises(vitkit.ConfigError, match=r"can't write .*m\.pt2.*unexpected pos 64"):
        vitkit.export(checkpoint, tmp_path / "m.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["m"]
