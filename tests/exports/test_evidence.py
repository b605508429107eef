"""What is planted in an export's graph, its metadata or its file alone is found, and called by its name."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_library
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from small import NAMES, PREPROCESS, picture_file, randomise, small_folder, small_model
from vitkit import Preprocess, ResNet, VisionTransformer, export
from vitkit.checkpoint import proof
from vitkit.checkpoint.card import Card
from vitkit.cli import main
from vitkit.exports.artifact import FORMATS, Run, format_of, proof_of, write_export
from vitkit.exports.evidence import check_graph, uncropped
from vitkit.exports.graph import CropGraph
from vitkit.exports.metadata import describe
from vitkit.exports.resize import PictureGraph
from vitkit.image.preprocess import fit

CARD = Card(preprocess=PREPROCESS, class_names=NAMES)


def written(file: Path, module: VisionTransformer, graph: CropGraph | None = None) -> Path:
    """An export of `module` with its proof; its graph another one, where that is planted."""
    write_export(CropGraph(module, PREPROCESS), CARD, file)
    if graph is not None:
        kind = FORMATS[format_of(file)]
        text = kind.read_text(file)
        assert text is not None
        kind.write(graph, file, text)
    return file


class Bgr(CropGraph):
    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        return super().forward(crops.flip(-1))


class BgrPictures(PictureGraph):
    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        return super().forward(pictures.flip(-1))


def other_weights() -> VisionTransformer:
    module = small_model()
    with torch.no_grad():
        module.blocks[1].mlp.fc1.weight[3, 5] += 0.5
    return module


def edited(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes what an ONNX file says of itself."""
    model = onnx_library.load(file)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "vitkit")
    content = json.loads(entry.value)
    change(content)
    entry.value = json.dumps(content)
    onnx_library.save(model, file)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("sound") / "m.onnx", small_model())


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    for file in sound.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / sound.name


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def verify(*arguments: object) -> tuple[int, str]:
        code = main(["verify", *(str(argument) for argument in arguments)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return verify


Verify = Callable[..., tuple[int, str]]
NAMED_MEAN = "mean or std: the graph normalises by (0.485, 0.456, 0.406), its metadata by (0.5, 0.4, 0.3)"
ANOTHER_MEAN = dataclasses.replace(PREPROCESS, mean=(0.485, 0.456, 0.406))


def test_a_sound_export_is_proved(sound: Path, verify: Verify) -> None:
    code, said = verify(sound)
    assert code == 0 and "proved, 2 stages agree" in said


@pytest.mark.parametrize(
    ("graph", "named"),
    [
        (CropGraph(other_weights(), PREPROCESS), "weights: the graph answers otherwise"),
        (
            CropGraph(small_model(), ANOTHER_MEAN),
            NAMED_MEAN,
        ),
        (Bgr(small_model(), PREPROCESS), "channels: the graph reads them in the reverse order, BGR for RGB"),
    ],
)
def test_a_graph_that_is_another_is_named(graph: CropGraph, named: str, tmp_path: Path, verify: Verify) -> None:
    code, said = verify(written(tmp_path / "m.onnx", small_model(), graph))
    assert code == 1 and "departs first at logits" in said and named in said


@pytest.mark.parametrize(
    ("graph", "stage", "named"),
    [
        (PictureGraph(small_model(), PREPROCESS), None, None),
        (PictureGraph(other_weights(), PREPROCESS), "logits", "weights: the graph answers otherwise"),
        (
            PictureGraph(small_model(), ANOTHER_MEAN),
            "logits",
            "mean or std: the graph normalises by (0.485, 0.456, 0.406)",
        ),
        (BgrPictures(small_model(), PREPROCESS), "logits", "channels: the graph reads them"),
        (PictureGraph(small_model(), dataclasses.replace(PREPROCESS, interpolation="bilinear")), "resize", None),
    ],
)
def test_so_is_one_of_whole_pictures(graph: PictureGraph, stage: str | None, named: str | None) -> None:
    said = describe(small_model(), CARD, form="pictures", size_step=1)
    constants = [graph.mean.numpy(), graph.std.numpy()]
    stages, causes = check_graph(said, proof.make(small_model(), PREPROCESS), run_of(graph), constants)
    departure = proof.first_departure(stages)
    assert (departure.name if departure else None) == stage
    assert len(causes) == (named is not None) and (named is None or named in causes[0])


@pytest.mark.parametrize("antialias", [True, False])
def test_a_resize_is_seen_making_pictures_smaller(antialias: bool) -> None:
    """The proof's own pictures hardly are, and those that are small hide that nothing is smoothed."""
    preprocess = dataclasses.replace(PREPROCESS, size=96, resize_size=100, interpolation="bilinear")
    module = small_model(image_size=96)
    graph = PictureGraph(module, dataclasses.replace(preprocess, antialias=antialias))
    said = describe(module, dataclasses.replace(CARD, preprocess=preprocess), form="pictures", size_step=1)
    stages, _ = check_graph(said, proof.make(module, preprocess), run_of(graph))
    assert [stage.agrees for stage in stages] == [True, True, antialias]


def run_of(graph: CropGraph) -> Run:
    """It as an export's runner."""

    def run(pixels: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            return {name: values.numpy() for name, values in graph(torch.from_numpy(pixels)).items()}

    return run


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (lambda said: said["card"].pop("scores"), 2, "don't say how pictures are prepared or what its scores are"),
        (lambda said: said["card"].update(scores="sigmoid"), 1, "scores: its metadata say other"),
        (lambda said: said["card"]["class_names"].reverse(), 1, "class_names: its metadata say other"),
        (lambda said: said["card"]["preprocess"].update(mean=[0.5, 0.5, 0.5]), 1, "pixels: the preprocessing in its"),
        (lambda said: said.update(fingerprint="0" * 64), 1, "fingerprint: its metadata say other"),
    ],
)
def test_metadata_that_were_changed_are_named(
    change: Callable[[dict[str, Any]], object], code: int, named: str, copy: Path, verify: Verify
) -> None:
    edited(copy, change)
    found, said = verify(copy)
    assert found == code and named in said


def test_metadata_of_another_size_are_named_though_the_graph_cant_be_run_so(tmp_path: Path, verify: Verify) -> None:
    file = written(tmp_path / "m.onnx", small_model(), CropGraph(small_model(), PREPROCESS, fixed_size=True))
    edited(file, lambda said: said["card"]["preprocess"].update(size=[40, 40]))
    code, said = verify(file)
    assert code == 1 and "preprocess: its metadata say other" in said and "can't be run" in said


def test_a_graph_that_breaks_as_it_runs_is_named_in_one_line(copy: Path, verify: Verify) -> None:
    model = onnx_library.load(copy)
    weight = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    weight.dims[:] = [weight.dims[0] * weight.dims[1]] + [1] * (len(weight.dims) - 1)
    onnx_library.save(model, copy)
    code, said = verify(copy)
    assert code == 2 and f"{copy}: can't be run, it is damaged" in said and said.count("\n") == 1


def test_a_proof_without_answers_is_refused(copy: Path, verify: Verify) -> None:
    file = proof_of(copy)
    proof.write_proof(file, {name: one for name, one in proof.read_proof(file).items() if name != "stage.logits"})
    code, said = verify(copy)
    assert code == 2 and f"{file}: the proof lacks stage.logits" in said


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
@pytest.mark.parametrize("ending", ["", ".proof.safetensors"])
def test_a_file_cut_short_is_named_in_one_line(kept: float, ending: str, copy: Path, verify: Verify) -> None:
    file = copy.with_name(copy.name + ending)
    cut(file, kept)
    code, said = verify(copy)
    assert code != 0 and str(file) in said and said.count("\n") == 1


def cut(file: Path, kept: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(kept if kept > 1 else len(content) * kept)])


def test_a_proof_of_something_else_proves_nothing(copy: Path, verify: Verify) -> None:
    file = proof_of(copy)
    proof.write_proof(file, proof.make(small_model(), PREPROCESS))
    code, said = verify(copy)
    assert code == 1 and "nothing there ties the metadata to the weights" in said
    file.unlink()
    assert verify(copy)[0] == 2


@pytest.mark.parametrize(("ending", "weights"), [(".xml", ".bin"), (".pt2", ".pt2")])
def test_the_other_formats_are_proved_and_their_faults_named(
    ending: str, weights: str, tmp_path: Path, verify: Verify
) -> None:
    file = written(tmp_path / f"m{ending}", small_model())
    trust = ["--allow-pickle"] if ending == ".pt2" else []
    assert verify(file, *trust)[0] == 0
    cut(file.with_suffix(weights), 0.9)
    code, said = verify(file, *trust)
    assert code != 0 and str(file) in said and said.count("\n") == 1
    code, said = verify(written(file, small_model(), CropGraph(small_model(), ANOTHER_MEAN)), *trust)
    assert code == 1 and NAMED_MEAN in said


def test_a_torch_program_isnt_opened_unless_it_is_trusted(
    tmp_path: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "m.pt2", small_model())
    monkeypatch.setattr(torch.export, "load", lambda file: pytest.fail("it was opened"))
    code, said = verify(file)
    assert code == 2 and f"{file}: reading a torch program" in said and "--allow-pickle" in said
    assert said.count("\n") == 1


def test_real_pictures_are_answered_as_the_model_does(sound: Path, tmp_path: Path, verify: Verify) -> None:
    folder = small_folder(tmp_path / "model")
    for seed in range(5):
        picture_file(tmp_path / "pictures" / f"{seed}.png", 40 + seed, 50, seed=seed)
    options = ("--images", tmp_path / "pictures", "--model", folder)
    code, said = verify(sound, *options)
    assert code == 0 and "5 pictures against" in said and "the same class for 5" in said
    images = json.loads(verify(sound, *options, "--json")[1])["images"]
    assert images["agrees"] and images["same_top1"] == images["pictures"] == 5 and images["difference"] < 1e-5
    code, said = verify(sound, "--images", tmp_path / "pictures")
    assert code == 2 and "--model" in said
    (tmp_path / "pictures" / "bad.png").write_bytes(b"no picture")
    code, said = verify(sound, *options)
    assert code == 1 and "bad.png" in said and "5 pictures against" in said


def test_a_model_that_was_changed_since_is_named(sound: Path, tmp_path: Path, verify: Verify) -> None:
    other_weights().save_pretrained(tmp_path / "other", preprocess=PREPROCESS, class_names=NAMES[::-1])
    picture_file(tmp_path / "p.png")
    code, said = verify(sound, "--images", tmp_path / "p.png", "--model", tmp_path / "other")
    assert code == 1
    assert f"class_names: {tmp_path / 'other'} says other" in said
    assert f"weights: {tmp_path / 'other'} has others" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"resize": "shortest", "resize_size": 36, "crop": "center_round"},
        {"resize": "shortest", "resize_size": (40, 33), "size": (35, 28), "crop": "center_floor"},
        {"resize": "squash", "resize_size": (20, 31), "crop": "center_round"},
        {"resize": "squash", "resize_size": 32, "crop": "none"},
        {"resize": "none", "crop": "center_floor"},
    ],
)
def test_an_uncropped_picture_is_cropped_to_what_it_was(changes: dict[str, Any]) -> None:
    wanted = Preprocess(**{"size": 32, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.2,) * 3, **changes})
    crop = fit(wanted, np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8))
    np.testing.assert_array_equal(fit(wanted, uncropped(wanted, crop)), crop)


def test_what_answers_nothing_or_no_number_departs_by_all() -> None:
    zeros, some = torch.zeros(2, 3), torch.full((2, 3), 0.5)
    assert proof.relative(zeros, zeros) == 0
    assert 1e20 < proof.relative(some, zeros) < math.inf
    assert proof.relative(zeros, some) == 1
    for found in (torch.full((2, 3), math.nan), torch.full((2, 3), math.inf), torch.zeros(2, 4)):
        assert proof.relative(found, some) == proof.relative(found, zeros) == math.inf


def test_a_new_head_is_proved_and_its_figures_are_json(tmp_path: Path, verify: Verify) -> None:
    """It answers 0 to everything, so nothing may be divided by its largest answer."""
    module = small_model()
    torch.nn.init.zeros_(module.head.weight)
    torch.nn.init.zeros_(module.head.bias)
    module.save_pretrained(tmp_path / "model", preprocess=PREPROCESS, class_names=NAMES)
    picture_file(tmp_path / "p.png")
    options = ("--images", tmp_path / "p.png", "--model", tmp_path / "model", "--json", "--allow-pickle")
    for form in ("crops", "pictures"):
        file = export(tmp_path / "model", tmp_path / f"{form}.pt2", form=form).path
        code, said = verify(file, *options)
        assert code == 0 and json.loads(said)["images"]["difference"] == 0, said


@pytest.mark.parametrize("size", [32, 34])
@pytest.mark.parametrize("form", ["crops", "pictures"])
def test_a_resnet_is_exported_for_crops_as_small_as_its_last_grid(size: int, form: str, tmp_path: Path) -> None:
    module = randomise(ResNet(image_size=size, num_classes=3, width=8, depths=(1, 1, 1, 1), block="basic"))
    module.save_pretrained(tmp_path / "model", preprocess=dataclasses.replace(PREPROCESS, size=size))
    done = export(tmp_path / "model", tmp_path / "m.pt2", form=form)
    assert done.metadata.size_step == (None if form == "crops" and size == 32 else 1)


def test_a_model_of_the_same_weights_that_computes_otherwise_is_named(
    sound: Path, tmp_path: Path, verify: Verify
) -> None:
    """What the norms add isn't among the weights."""
    small_folder(tmp_path / "other", norm_eps=1e-3)
    code, said = verify(sound, "--model", tmp_path / "other")
    assert code == 1 and f"model: {tmp_path / 'other'} computes otherwise" in said
