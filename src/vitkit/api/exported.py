"""An export as a Predictor: the graph alone, run by the engine that reads its format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vitkit.checkpoint.read import Report
from vitkit.engine.engines import settle
from vitkit.engine.predict import Predictor
from vitkit.errors import ConfigError
from vitkit.exports.artifact import format_of, read_metadata

__all__ = ["load_export"]

READERS: Mapping[str, tuple[str, ...]] = {"onnx": ("onnx", "openvino"), "openvino": ("openvino",)}
"""The engines that run an export in each format; the first where none is named."""


def load_export(
    path: Path,
    *,
    changes: Sequence[str],
    device: str | None,
    dtype: str | torch.dtype | None,
    engine: str | None,
    exact: bool,
) -> Predictor:
    """The Predictor of an export; `changes` names the options given that only a checkpoint can follow.

    Raises ConfigError for these, for an engine that doesn't read the format and for an export of whole pictures,
    CheckpointError where the file is damaged or says nothing of itself.
    """
    form = format_of(path)
    if form not in READERS:
        raise ConfigError(f"{path} is a torch program, which torch.export.load runs; load its checkpoint")
    readers = READERS[form]
    if changes:
        raise ConfigError(f"{', '.join(changes)}: an export is as it was made; load its checkpoint to change {path}")
    if engine not in (None, *readers):
        raise ConfigError(f"engine {engine!r} doesn't run {path}; allowed: {', '.join(readers)}")
    setup = settle(engine or readers[0], device, dtype)
    metadata = read_metadata(path)
    if metadata.form != "crops":
        raise ConfigError(f"{path} takes whole pictures and resizes them itself (docs/EXPORT.md): export crops")
    card = metadata.card
    assert card.preprocess is not None
    report = Report(source=str(path), layout=form, weights=(path.name,), origins={}, filled={}, dropped={})
    return Predictor(metadata, setup.run(path, card.preprocess), card, report, exact=exact)
