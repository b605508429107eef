"""What an export says of itself."""

from __future__ import annotations

import json

import pytest

from small import NAMES, PREPROCESS, small_model
from vitkit import CheckpointError
from vitkit.checkpoint.card import Card
from vitkit.exports.metadata import describe, fingerprint, from_text, to_text

CARD = Card(preprocess=PREPROCESS, class_names=NAMES, scores="sigmoid")


def test_metadata_come_back_from_their_text() -> None:
    said = describe(small_model(), CARD, form="crops", size_step=None)
    assert from_text(to_text(said), origin="x.onnx") == said
    card = json.loads(to_text(said))["card"]
    assert card["class_names"] == list(NAMES) and card["scores"] == "sigmoid" and card["preprocess"]["size"] == [32, 32]


@pytest.mark.parametrize("key", ["scores", "preprocess"])
def test_what_an_answer_depends_on_is_never_left_to_a_default(key: str) -> None:
    content = json.loads(to_text(describe(small_model(), CARD, form="crops", size_step=None)))
    del content["card"][key]
    with pytest.raises(CheckpointError, match="x.onnx"):
        from_text(json.dumps(content), origin="x.onnx")


@pytest.mark.parametrize("text", ["", "[]", "{}", "no JSON", '{"card": 3}'])
def test_another_text_is_an_error(text: str) -> None:
    with pytest.raises(CheckpointError, match="x.onnx"):
        from_text(text, origin="x.onnx")


def test_a_fingerprint_is_of_the_values_alone() -> None:
    module = small_model()
    assert fingerprint(module) == fingerprint(small_model().double())
    other = small_model()
    other.head.bias.data[3] += 1e-6  # type: ignore[union-attr,operator]
    assert fingerprint(other) != fingerprint(module)
