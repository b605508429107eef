"""An export loaded as a model: it answers as its checkpoint does, and says what it can't do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import vitkit
from small import NAMES, picture, picture_file, small_folder
from vitkit import CheckpointError, ConfigError, Predictor
from vitkit.cli import main
from vitkit.exports.artifact import proof_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and its exports, m.onnx and m.xml, without their proofs."""
    folder = tmp_path_factory.mktemp("exports")
    checkpoint = small_folder(folder / "m")
    for name in ("m.onnx", "m.xml"):
        vitkit.export(checkpoint, folder / name)
        proof_of(folder / name).unlink()
    return folder


@pytest.fixture(scope="module")
def plain(folder: Path) -> Predictor:
    return vitkit.load(folder / "m", device="cpu")


@pytest.mark.parametrize(
    ("name", "engine", "dtype", "tolerance"),
    [
        ("m.onnx", None, None, 1e-5),
        ("m.onnx", "openvino", None, 1e-5),
        ("m.xml", None, "float32", 1e-5),
        ("m.xml", None, "bfloat16", 0.05),
    ],
)
def test_an_export_answers_as_its_checkpoint(
    name: str, engine: str | None, dtype: str | None, tolerance: float, folder: Path, plain: Predictor
) -> None:
    vit = vitkit.load(folder / name, engine=engine, dtype=dtype, device="cpu")
    assert (vit.spec, vit.class_names, vit.fingerprint) == (plain.spec, NAMES, plain.fingerprint)
    pictures = [picture(seed=seed) for seed in range(3)]
    for found, expected in zip(vit.classify(pictures, top=7), plain.classify(pictures, top=7), strict=True):
        chances = {each.class_name: each.probability for each in expected}
        assert {each.class_name: each.probability for each in found} == pytest.approx(chances, abs=tolerance)
    embeddings = plain.embed(pictures)
    assert np.abs(vit.embed(pictures) - embeddings).max() <= tolerance * np.abs(embeddings).max()


def test_commands_take_an_export_as_their_model(
    folder: Path, plain: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = picture_file(tmp_path / "d" / NAMES[0] / "a.png")
    assert main(["classify", str(file), "--model", str(folder / "m.onnx"), "--json", "--device", "cpu"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["engine"] == "onnx float32 on cpu"
    assert answer["predictions"][0]["class_name"] == plain.classify(str(file))[0].class_name
    for name in NAMES[1:]:
        picture_file(tmp_path / "d" / name / "a.png")
    how = ["--model", str(folder / "m.xml"), "--device", "cpu"]
    assert main(["evaluate", str(tmp_path / "d"), *how]) == 0
    assert "openvino float32 on cpu" in capsys.readouterr().out


def test_what_needs_the_torch_model_says_so(folder: Path) -> None:
    vit = vitkit.load(folder / "m.onnx", device="cpu")
    message = r"m\.onnx is an export, without the torch model that this needs: load the checkpoint it was made of"
    for use in (
        lambda: vit.module,
        lambda: vit.explain(picture()),
        lambda: vit.reconstruct(picture()),
        lambda: vit.with_labels(["a cat"]),
    ):
        with pytest.raises(ConfigError, match=message):
            use()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("m.onnx", {"engine": "torch"}, r"engine 'torch' doesn't run .*m\.onnx; allowed: onnx, openvino"),
        ("m.xml", {"engine": "onnx"}, r"engine 'onnx' doesn't run .*m\.xml; allowed: openvino"),
        ("m.xml", {"engine": "auto"}, r"engine 'auto' doesn't run"),
        ("m.onnx", {"dtype": "bfloat16"}, "engine 'onnx' doesn't compute in bfloat16"),
        ("m.onnx", {"image_size": 48, "parity": "timm"}, "image_size, parity: an export is as it was made"),
        ("m.pt2", {}, "is a torch program"),
    ],
)
def test_what_an_export_cannot_do_is_said(name: str, options: dict[str, object], message: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        vitkit.load(folder / name, device="cpu", **options)  # type: ignore[arg-type]


def test_a_missing_and_a_damaged_export_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone.onnx: there is no such file"):
        vitkit.load(tmp_path / "gone.onnx")
    (tmp_path / "cut.onnx").write_bytes((folder / "m.onnx").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cut.onnx"):
        vitkit.load(tmp_path / "cut.onnx")
