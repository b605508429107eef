"""save and push: a module as a folder on disk or a repository on the Hub."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vitkit.checkpoint.card import Card
from vitkit.checkpoint.hub import upload
from vitkit.checkpoint.save import save_native, save_timm, save_transformers
from vitkit.errors import ConfigError
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel

__all__ = ["LAYOUTS", "push", "save"]

LAYOUTS = {"native": save_native, "hf": save_transformers, "timm": save_timm}


def save(
    module: ImageModel,
    folder: str | os.PathLike[str],
    *,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    layout: str = "native",
    overwrite: bool = False,
) -> list[str]:
    """Writes `module` to a new `folder`, whole or not at all; returns notes on what a layout can't express.

    What `preprocess` and `class_names` don't say comes from the card of the checkpoint the module was loaded from.
    `layout` is "native" (which timm loads as well where its names are ours), "hf" (transformers) or "timm". Raises
    CheckpointError where no class of that library computes the same, ConfigError for a folder that isn't empty, unless
    `overwrite`.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout {layout!r} is unknown; allowed: {', '.join(LAYOUTS)}")
    card = module.card if isinstance(module.card, Card) else Card()
    if preprocess is not None:
        card = dataclasses.replace(card, preprocess=preprocess)
    if class_names is not None:
        card = dataclasses.replace(card, class_names=tuple(class_names), class_ids=None)
    return LAYOUTS[layout](module, folder, card=card, overwrite=overwrite)


def push(
    module: ImageModel,
    repo_id: str,
    *,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    private: bool = False,
    token: str | None = None,
    message: str = "Upload with vitkit",
) -> str:
    """Writes the native folder and uploads it as one commit to the Hub repository `repo_id`; returns its URL."""
    with tempfile.TemporaryDirectory(prefix="vitkit-push-") as parent:
        folder = Path(parent) / "model"
        save(module, folder, preprocess=preprocess, class_names=class_names)
        return upload(folder, repo_id, private=private, token=token, message=message)
