"""What an export says of itself: one JSON text under the key "vitkit", in whatever way its format keeps texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

import vitkit
from vitkit.checkpoint.card import Card
from vitkit.config import from_dict, to_dict
from vitkit.errors import CheckpointError, ConfigError
from vitkit.model.base import ImageModel
from vitkit.model.build import model_spec
from vitkit.model.spec import ModelSpec

__all__ = ["ANSWERS_DEPEND_ON", "KEY", "Form", "Metadata", "describe", "digests", "fingerprint", "from_text", "to_text"]

KEY = "vitkit"
"""Under which the text is kept: ONNX metadata_props, OpenVINO rt_info, an extra file of a torch program."""

ANSWERS_DEPEND_ON = ("form", "model", "preprocess", "class_names", "class_ids", "scores", "fingerprint")
"""Of all that metadata say, beside the graph."""

Form = Literal["crops", "pictures"]


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Everything that an answer depends on beside the graph, and where the weights come from."""

    format: Literal[1]
    form: Form
    """What the graph takes: "crops" [B, H, W, C], resized and cropped, or "pictures" of any size."""
    size_step: int | None
    """H and W are any multiples of it; None: they are those of `card.preprocess.size`."""
    model: ModelSpec
    card: Card
    """Preprocess, class names and ids, softmax or sigmoid, provenance: as in a native folder's vitkit.json."""
    fingerprint: str
    """`fingerprint` of the float32 weights."""
    versions: Mapping[str, str]
    """Of what made the export: vitkit and torch."""


def describe(module: ImageModel, card: Card, *, form: Form, size_step: int | None) -> Metadata:
    """The metadata of an export of `module`."""
    return Metadata(
        format=1,
        form=form,
        size_step=size_step,
        model=model_spec(module.spec),
        card=card,
        fingerprint=fingerprint(module),
        versions={"vitkit": vitkit.__version__, "torch": torch.__version__},
    )


def fingerprint(module: ImageModel) -> str:
    """SHA-256 of names, shapes and float32 values of the whole state, in the order of the names: 64 digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().float().cpu().contiguous().numpy()
        digest.update(f"{name} {list(values.shape)}\n".encode())
        digest.update(np.asarray(values, dtype="<f4").data)
    return digest.hexdigest()


def digests(metadata: Metadata) -> dict[str, str]:
    """Name to SHA-256 of each of ANSWERS_DEPEND_ON: what a proof keeps of the metadata that it was made with."""
    content = to_dict(metadata)
    content |= content.pop("card")
    texts = {name: json.dumps(content[name], sort_keys=True) for name in ANSWERS_DEPEND_ON}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def to_text(metadata: Metadata) -> str:
    """The JSON text."""
    return json.dumps(to_dict(metadata), ensure_ascii=False)


def from_text(text: str, *, origin: str) -> Metadata:
    """The metadata that `text` says; CheckpointError, naming `origin`, where it is incomplete or another's."""
    try:
        content = json.loads(text)
        card = content["card"]
        # A checkpoint may leave this to its default; an answer read by the wrong policy is worse than none.
        if "scores" not in card or card.get("preprocess") is None:
            raise CheckpointError(f"{origin}: its metadata don't say how pictures are prepared or what its scores are")
        return from_dict(Metadata, content, origin=f"{origin}: metadata")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{origin}: its metadata aren't those of an export ({error!r:.80})") from None
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
