"""Every family in every layout, against foreign code: both ways, other sizes, gradients, no tensor unread."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vitkit
from peers.families import ROWS
from peers.families.page import page
from peers.families.row import Answer, Foreign, Row
from small import relative
from vitkit import CheckpointError
from vitkit.checkpoint.families import LAYOUTS
from vitkit.checkpoint.namemap import apply
from vitkit.checkpoint.presets import PRESETS
from vitkit.checkpoint.read import Checkpoint, read
from vitkit.checkpoint.weights import find_weights, read_tensors
from vitkit.model.base import ImageModel
from vitkit.model.clip import Clip

pytestmark = pytest.mark.peer

TOLERANCE = 1e-5
EXACT, NOTICED = 1e-10, 1e-7
"""In float64: what gradients may differ by, and what an element changed by a tenth must change."""
PRESET = "made_by_a_test"
ROOT = Path(__file__).resolve().parents[2]

every_row = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


def load(foreign: Foreign, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """What vitkit reads of the checkpoint that `foreign` was written as."""
    preset = foreign.preset()
    if preset is not None:
        monkeypatch.setitem(PRESETS, PRESET, preset)  # type: ignore[arg-type]
    path = folder / foreign.file if foreign.file else folder
    return read(path, preset=PRESET if preset else None, allow_pickle=True)


def ours(module: ImageModel, pixels: Tensor, kinds: Answer, texts: Tensor | None = None) -> Answer:
    """The same answers as a foreign one."""
    features = module.features(pixels)
    answers = {
        "tokens": torch.cat([features.prefix_tokens, features.patch_tokens], dim=1),
        "patch_tokens": features.patch_tokens,
    }
    if "logits" in kinds:
        answers["logits"] = module(pixels)
    if "embedding" in kinds:
        answers["embedding"] = module.embed(pixels)
    if texts is not None:
        assert isinstance(module, Clip)
        answers["text_embedding"] = module.embed_text(texts)
        answers["similarity"] = module.similarity(module.embed(pixels), answers["text_embedding"])
    return {name: answers[name] for name in kinds}


def pixels_of(checkpoint: Checkpoint, size: tuple[int, int] | None = None) -> Tensor:
    spec = checkpoint.model.spec
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, spec.in_channels, *(size or spec.image_size), generator=generator)


def assert_equal(module: ImageModel, foreign: Foreign, pixels: Tensor, tolerance: float = TOLERANCE) -> None:
    with torch.no_grad():
        expected = foreign.answer(foreign.module, pixels)
        found = ours(module, pixels, expected, foreign.texts)
    assert expected
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert relative(found[name], value) < tolerance, name


@every_row
def test_read_here_it_answers_as_there(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = row.write(tmp_path / "m")
    checkpoint = load(foreign, tmp_path / "m", monkeypatch)
    module = checkpoint.module()
    assert_equal(module, foreign, pixels_of(checkpoint))
    for size in row.sizes:
        assert_equal(module, foreign, pixels_of(checkpoint, size))


@every_row
def test_written_back_the_foreign_code_answers_the_same(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = row.write(tmp_path / "m")
    checkpoint = load(foreign, tmp_path / "m", monkeypatch)
    if row.back is None or row.to is None:
        assert row.why
        return
    path = tmp_path / "m" / foreign.file if foreign.file else tmp_path / "m"
    vitkit.convert(path, tmp_path / "back", to=row.to, preset=PRESET if foreign.spec else None)
    assert_equal(checkpoint.module(), row.back(tmp_path / "back"), pixels_of(checkpoint))


@pytest.mark.parametrize("row", [row for row in ROWS if row.to == "timm"], ids=lambda row: row.name)
def test_timm_can_put_another_head_on_what_was_written_for_it(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    foreign = row.write(tmp_path / "m")
    load(foreign, tmp_path / "m", monkeypatch)
    path = tmp_path / "m" / foreign.file if foreign.file else tmp_path / "m"
    vitkit.convert(path, tmp_path / "back", to="timm", preset=PRESET if foreign.spec else None)
    module = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True, num_classes=5).eval()
    pixels = torch.randn(2, *module.pretrained_cfg["input_size"])
    assert row.back is not None
    with torch.no_grad():
        expected = foreign.answer(foreign.module, pixels)["tokens"]
        found = row.back(tmp_path / "back").answer(module, pixels)
    assert found["logits"].shape == (2, 5) and relative(found["tokens"], expected) < TOLERANCE


@every_row
def test_no_element_is_read_past(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = row.write(tmp_path / "m")
    checkpoint = load(foreign, tmp_path / "m", monkeypatch)
    files = [tmp_path / "m" / foreign.file] if foreign.file else find_weights(tmp_path / "m", allow_pickle=True)
    layout = LAYOUTS[checkpoint.report.layout]
    tensors, rules = layout.unstacked(read_tensors(files, allow_pickle=True)), layout.rules
    module = checkpoint.module().double()
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    pixels = pixels_of(checkpoint).double()

    def answers(changed: dict[str, Tensor]) -> Tensor:
        mapped = apply(rules, changed, checkpoint.model.spec, shapes, origin="file")
        module.load_state_dict(mapped.state)
        with torch.no_grad():
            features = module.features(pixels)
            read = [module(pixels), features.prefix_tokens, features.patch_tokens]
            if foreign.texts is not None and isinstance(module, Clip):
                read.append(module.similarity(read[0], module.embed_text(foreign.texts)))
            return torch.cat([answer.flatten() for answer in read])

    expected = answers(tensors)
    unseen = []
    for name, tensor in tensors.items():
        changed = tensor.clone()
        if not changed.is_floating_point():
            unseen.append(name)
            continue
        last = changed.view(-1)[changed.numel() * 2 // 3 :]  # of a fused bias, the values': softmax can't see keys'
        last[last.abs().argmax()] *= 1.1
        with contextlib.suppress(CheckpointError):  # refused, so noticed
            if relative(answers({**tensors, name: changed}), expected) < NOTICED:
                unseen.append(name)
    assert [name for name in unseen if not any(re.fullmatch(pattern, name) for pattern in row.unseen)] == []


@pytest.mark.parametrize("row", [row for row in ROWS if row.gradients], ids=lambda row: row.name)
def test_gradients_are_equal(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = row.write(tmp_path / "m")
    checkpoint = load(foreign, tmp_path / "m", monkeypatch)
    module, theirs = checkpoint.module().double(), foreign.module.double()
    pixels = pixels_of(checkpoint).double()
    expected, found = pixels.clone().requires_grad_(), pixels.clone().requires_grad_()
    answers = foreign.answer(theirs, expected)
    torch.autograd.backward([value.square().sum() for value in answers.values()])
    torch.autograd.backward([value.square().sum() for value in ours(module, found, answers, foreign.texts).values()])
    assert expected.grad is not None and found.grad is not None
    assert relative(found.grad, expected.grad) < EXACT
    # The maps of names are linear, so they carry gradients as they carry weights.
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert gradients and all(gradient.isfinite().all() for gradient in gradients.values())
    total = sum(float(gradient.square().sum()) for gradient in gradients.values())
    mine = sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None)
    assert abs(mine / total - 1) < EXACT


def test_every_layout_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts without a row would be claims without evidence."""
    assert len({row.name for row in ROWS}) == len(ROWS)
    folders = [tmp_path / str(number) for number in range(len(ROWS))]
    read_as = {load(row.write(f), f, monkeypatch).report.layout for row, f in zip(ROWS, folders, strict=True)}
    assert set(LAYOUTS) - read_as == set()


def test_the_page_is_made_from_the_rows() -> None:
    assert (ROOT / "docs" / "FAMILIES.md").read_text(encoding="utf-8") == page(ROWS)
