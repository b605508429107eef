"""Classes that are texts: the ensemble's closed form, what is embedded when, and everything that can be missing."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitkit
from small import picture, small_folder
from texts import two_towers
from vitkit import CheckpointError, ConfigError, Prediction, Predictor
from vitkit.checkpoint.card import Card
from vitkit.model.clip import Clip

LABELS = ["a cat", "two dogs", "the small bird"]
TEMPLATES = ["a photo of {}", "a bad drawing of {}, or {}", "{}"]


@pytest.fixture
def vit(tmp_path: Path) -> Predictor:
    two_towers().save_pretrained(tmp_path / "clip")
    return vitkit.load(tmp_path / "clip", device="cpu")


def changed(vit: Predictor, **card: Any) -> Predictor:
    """The same model with another card."""
    return Predictor(vit.module, vit.engine, dataclasses.replace(vit.card, **card), vit.report)


def assert_alike(found: list[Prediction], expected: list[Prediction]) -> None:
    """The same classes, and probabilities but for the last bits, which follow from where tensors lie in memory."""
    assert [p.class_name for p in found] == [p.class_name for p in expected]
    np.testing.assert_allclose([p.probability for p in found], [p.probability for p in expected], rtol=1e-6)


def unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("bias", [False, True])
def test_a_class_is_the_mean_of_its_prompts_each_of_length_one(tmp_path: Path, bias: bool) -> None:
    two_towers(logit_bias=bias).save_pretrained(tmp_path / "clip")
    vit = vitkit.load(tmp_path / "clip", device="cpu")
    pictures = [picture(seed=1), picture(seed=2)]
    rows = [unit(vit.embed_text([t.replace("{}", label) for t in TEMPLATES])).mean(axis=0) for label in LABELS]
    module = vit.module
    assert isinstance(module, Clip) and module.logit_scale is not None
    logits = np.exp(module.logit_scale.item()) * unit(vit.embed(pictures)) @ unit(np.stack(rows)).T
    logits += module.logit_bias.item() if module.logit_bias is not None else 0
    labelled = vit.with_labels(LABELS, templates=TEMPLATES)
    found = np.stack([answer.logits for answer in labelled.answers(pictures) if answer.logits is not None])
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-6)
    chances = 1 / (1 + np.exp(-logits)) if bias else np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, answers in zip(chances, labelled.classify(pictures), strict=True):
        assert {p.class_name: p.index for p in answers} == {label: index for index, label in enumerate(LABELS)}
        np.testing.assert_allclose([p.probability for p in answers], sorted(row, reverse=True), rtol=1e-5)


def test_texts_are_embedded_once_and_the_model_is_left_as_it_was(vit: Predictor) -> None:
    calls: list[int] = []
    module = vit.module
    assert isinstance(module, Clip) and module.text is not None
    module.text.register_forward_hook(lambda part, inputs, output: calls.append(len(output)))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    labelled = vit.with_labels(LABELS, templates=TEMPLATES)
    for _ in range(3):
        labelled.classify(picture())
    assert calls == [9]
    assert vit.class_names is None and vit.spec.num_classes == 0
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    # The weights are shared, not copied.
    assert labelled.module.get_parameter("pos_embed").data_ptr() == module.get_parameter("pos_embed").data_ptr()


def test_many_texts_are_what_each_is_alone(vit: Predictor) -> None:
    texts = [f"a photo of {number} cats{', and a dog' * (number % 5)}" for number in range(150)]
    together = vit.embed_text(texts)
    alone = np.stack([vit.embed_text(text) for text in texts])
    assert together.shape == (150, 24) and together.dtype == np.float32
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert vit.embed_text([]).shape == (0, 24)


def test_a_labelled_model_is_saved_as_an_ordinary_classifier(vit: Predictor, tmp_path: Path) -> None:
    labelled = vit.with_labels(LABELS)
    vitkit.save(labelled.module, tmp_path / "saved")
    again = vitkit.load(tmp_path / "saved", device="cpu")
    assert_alike(again.classify(picture()), labelled.classify(picture()))
    assert again.class_names == tuple(LABELS)
    assert not {"vocab.json", "merges.txt"} & {file.name for file in (tmp_path / "saved").iterdir()}
    assert not any(name.startswith("text.") for name in again.module.state_dict())
    with pytest.raises(ConfigError, match="no text tower"):
        again.with_labels(LABELS)


def test_a_label_is_explained(vit: Predictor) -> None:
    labelled = vit.with_labels(LABELS)
    why = labelled.explain(picture(), target="two dogs", method="gradient")
    assert why.class_name == "two dogs" and np.ptp(why.map) > 0
    other = labelled.explain(picture(), target="a cat", method="gradient")
    assert np.abs(why.map - other.map).max() > 1e-3


def test_half_precision_agrees(tmp_path: Path) -> None:
    two_towers().save_pretrained(tmp_path / "clip")
    exact = vitkit.load(tmp_path / "clip", device="cpu").with_labels(LABELS).classify(picture())
    half = vitkit.load(tmp_path / "clip", device="cpu", dtype="bfloat16").with_labels(LABELS)
    assert half.engine.name == "torch bfloat16 on cpu"
    for a, b in zip(
        exact, sorted(half.classify(picture()), key=lambda p: [e.index for e in exact].index(p.index)), strict=True
    ):
        assert abs(a.probability - b.probability) < 0.02


def test_the_tokenizer_belongs_to_the_native_folder(vit: Predictor, tmp_path: Path) -> None:
    vitkit.convert(tmp_path / "clip", tmp_path / "again")
    assert vitkit.load(tmp_path / "again", device="cpu").card.tokenizer == vit.card.tokenizer != {}
    digests = json.loads((tmp_path / "again/vitkit.json").read_text())
    assert {"vocab.json", "merges.txt"} <= digests["sha256"].keys() and "tokenizer" not in digests["card"]
    (tmp_path / "again/merges.txt").write_text("a b")
    with pytest.raises(CheckpointError, match="changed since they were written: merges.txt"):
        vitkit.load(tmp_path / "again")


def test_a_tokenizer_put_beside_the_weights_is_used(vit: Predictor, tmp_path: Path) -> None:
    module = two_towers()
    module.card = Card(preprocess=vit.card.preprocess)
    module.save_pretrained(tmp_path / "bare")
    bare = vitkit.load(tmp_path / "bare", device="cpu")
    with pytest.raises(CheckpointError, match="holds no tokenizer.*put the tokenizer.json"):
        bare.with_labels(LABELS)
    for name, content in vit.card.tokenizer.items():
        (tmp_path / "bare" / name).write_bytes(content)
    again = vitkit.load(tmp_path / "bare", device="cpu")
    assert_alike(again.with_labels(LABELS).classify(picture()), vit.with_labels(LABELS).classify(picture()))


@pytest.mark.parametrize(
    ("labels", "templates", "fault"),
    [
        ([], ["{}"], "there are no labels"),
        (["a", "b", "a"], ["{}"], "label 'a' is there twice"),
        (["a", " "], ["{}"], "a label is empty"),
        (["a"], ["a photo"], "template 'a photo' has no {} for the label"),
        (["a"], [], "there are no templates; the usual one is 'This is a photo of {}.'"),
        (["a", "a"], ["x"], "label 'a' is there twice; template 'x' has no {}"),
    ],
)
def test_labels_that_make_no_sense_are_errors(
    vit: Predictor, labels: list[str], templates: list[str], fault: str
) -> None:
    with pytest.raises(ConfigError) as error:
        vit.with_labels(labels, templates=templates)
    assert fault in str(error.value)


def test_a_string_is_no_list_of_labels(vit: Predictor) -> None:
    with pytest.raises(ConfigError, match="labels is the text 'a cat'"):
        vit.with_labels("a cat")
    with pytest.raises(ConfigError, match="templates is the text"):
        vit.with_labels(LABELS, templates="a {}")


def test_braces_in_labels_are_plain_letters(vit: Predictor) -> None:
    odd = ["{0}", "{x", "%s"]
    found = vit.with_labels(odd, templates=["a {} of {y}"]).classify(picture())
    assert sorted(p.class_name for p in found) == sorted(odd)


def test_models_without_a_text_tower_say_so(tmp_path: Path, vit: Predictor) -> None:
    plain = vitkit.load(small_folder(tmp_path / "vit"), device="cpu")
    for call in (lambda: plain.with_labels(LABELS), lambda: plain.embed_text("a cat")):
        with pytest.raises(ConfigError, match="no text tower.*openai/clip-vit-base-patch32"):
            call()
    with pytest.raises(ConfigError, match="no classes of its own.*--labels"):
        vit.classify(picture())


def test_a_tokenizer_of_another_model_is_refused(vit: Predictor, tmp_path: Path) -> None:
    two_towers(text={"vocab_size": 100, "end_token": 99}).save_pretrained(tmp_path / "small")
    with pytest.raises(CheckpointError, match="isn't this text tower's.* for 100 tokens"):
        vitkit.load(tmp_path / "small", device="cpu").with_labels(LABELS)
    two_towers(text={"end_token": 5}).save_pretrained(tmp_path / "end")
    with pytest.raises(CheckpointError, match="isn't this text tower's.*must end with 5"):
        vitkit.load(tmp_path / "end", device="cpu").with_labels(LABELS)


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"tokenizer.json": b"{"}, "tokenizer.json is damaged"),
        ({"tokenizer.json": b"[]"}, "tokenizer.json is damaged"),
        ({"vocab.json": b"{}", "merges.txt": b"a b"}, "vocab.json or merges.txt is damaged"),
        ({"vocab.json": b"{}", "merges.txt": b"\xff\xfe"}, "vocab.json or merges.txt is damaged"),
        ({"tokenizer_config.json": b"7"}, "tokenizer_config.json is no JSON object"),
        ({"special_tokens_map.json": b"x"}, "special_tokens_map.json is no JSON object"),
        (
            {"open_clip_config.json": b'{"model_cfg": {"text_cfg": {"tokenizer_kwargs": {"clean": "scrub"}}}}'},
            "clean 'scrub' isn't supported",
        ),
    ],
)
def test_damaged_tokenizer_files_are_named(vit: Predictor, files: dict[str, bytes], fault: str) -> None:
    broken = changed(vit, tokenizer={**vit.card.tokenizer, **files})
    with pytest.raises(CheckpointError, match=fault):
        broken.with_labels(LABELS)


def test_a_missing_library_names_its_extra(vit: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"pip install 'vitkit\[text\]'"):
        vit.with_labels(LABELS)
    assert vit.embed(picture()).shape == (24,)


def test_a_text_that_is_too_long_is_cut_with_a_warning(vit: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    words = "cat dog " * 60
    with caplog.at_level(logging.WARNING, logger="vitkit"):
        cut = vit.embed_text(words)
    assert "more than 77 tokens; its end is left out" in caplog.text
    assert np.isfinite(cut).all() and not np.array_equal(cut, vit.embed_text("cat dog"))
    np.testing.assert_array_equal(cut, vit.embed_text(words + "and nothing else"))
