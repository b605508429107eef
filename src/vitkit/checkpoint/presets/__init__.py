"""Published models by name: spec, preprocessing, source, licence, accuracy. Data only; `vitkit models` lists them."""

from __future__ import annotations

from collections.abc import Mapping

from vitkit.checkpoint.presets import beit, clip, data2vec, deit, dino, hybrid, mae, resnet, swin, torchvision, vit
from vitkit.checkpoint.presets.preset import Preset
from vitkit.errors import ConfigError, nearest

__all__ = ["DEFAULT_MODEL", "PRESETS", "Preset", "find_preset"]

DEFAULT_MODEL = "google/vit-base-patch16-224"
"""What `vitkit classify` and its siblings load when no model is named."""

PRESETS: Mapping[str, Preset] = {
    **vit.PRESETS,
    **hybrid.PRESETS,
    **deit.PRESETS,
    **beit.PRESETS,
    **dino.PRESETS,
    **swin.PRESETS,
    **clip.PRESETS,
    **data2vec.PRESETS,
    **mae.PRESETS,
    **torchvision.PRESETS,
    **resnet.PRESETS,
}


def find_preset(name: str) -> Preset:
    """The preset called `name`; a ConfigError with the nearest name otherwise."""
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown{nearest(name, PRESETS)}; list: vitkit models")
    return PRESETS[name]
