"""convert: any checkpoint to a folder in another layout, with the report of what was read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vitkit.api.load import Source, read_source
from vitkit.api.save import LAYOUTS
from vitkit.checkpoint.read import Checkpoint
from vitkit.errors import ConfigError
from vitkit.files import check_new_folder
from vitkit.image.preprocess import Preprocess

__all__ = ["Conversion", "convert"]


@dataclass(frozen=True)
class Conversion:
    """What was read and where it was written."""

    checkpoint: Checkpoint
    folder: Path
    notes: tuple[str, ...]
    """What the written layout can't express."""


def convert(
    source: Source,
    output: str | os.PathLike[str],
    *,
    to: str = "native",
    revision: str | None = None,
    preset: str | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    in_channels: int | None = None,
    preprocess: Preprocess | None = None,
    parity: str | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Reads `source` as `load` does, and pickled files too (weights only), and writes it to the new folder `output`."""
    if to not in LAYOUTS:
        raise ConfigError(f"--to {to!r} is unknown; allowed: {', '.join(LAYOUTS)}")
    check_new_folder(output, overwrite=overwrite)
    checkpoint = read_source(
        source,
        revision=revision,
        preset=preset,
        num_classes=num_classes,
        image_size=image_size,
        patch_size=patch_size,
        in_channels=in_channels,
        preprocess=preprocess,
        parity=parity,
        allow_pickle=True,
    )
    notes = LAYOUTS[to](checkpoint.module(), output, card=checkpoint.card, overwrite=overwrite)
    return Conversion(checkpoint, Path(output), tuple(notes))
