"""A row of docs/FAMILIES.md: a family in a layout, written by foreign code, read here, and written back for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from safetensors.torch import save_file
from torch import Tensor, nn

from small import randomise
from vitkit.checkpoint.presets import Preset
from vitkit.image.preprocess import Preprocess
from vitkit.model.build import model_spec
from vitkit.model.spec import AnySpec

Answer: TypeAlias = dict[str, Tensor]
"""Any of "logits" [B, K], "tokens" [B, P + h*w, D] (after the final norm), "patch_tokens", "embedding", and of two
towers "text_embedding" [T, E] and "similarity" [B, T]."""
Answering: TypeAlias = Callable[[Tensor], Answer]
"""From pixels [B, C, H, W]."""

STATISTICS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.2, 0.25]}


@dataclass(frozen=True)
class Foreign:
    """A model of foreign code, every parameter N(0, 0.2), and how it answers."""

    module: nn.Module
    answer: Callable[[nn.Module, Tensor], Answer]
    file: str | None = None
    """The bare weight file in the folder; None: the folder itself is read."""
    spec: AnySpec | None = None
    """Of a bare file: what a preset would say."""
    texts: Tensor | None = None
    """Token ids [T, N] that a text tower is asked about."""

    def preset(self) -> Preset | None:
        """A preset for the bare file."""
        if self.spec is None:
            return None
        size = self.spec.image_size
        preprocess = Preprocess(
            size=size,
            resize="squash",
            resize_size=size,
            crop="none",
            interpolation="bicubic",
            mean=(0.5,) * self.spec.in_channels,
            std=(0.5,) * self.spec.in_channels,
        )
        return Preset(model_spec(self.spec), preprocess, "made by a test", None, None, None, imagenet1k=False, timm="")


@dataclass(frozen=True)
class Row:
    """What is checked for one family in one layout."""

    family: str
    layout: str
    """Whose: transformers, timm, or the original's name."""
    write: Callable[[Path], Foreign]
    """Writes a checkpoint into the folder with foreign code."""
    back: Callable[[Path], Foreign] | None = None
    """Reads with foreign code what `convert(to=...)` wrote from that checkpoint."""
    to: str | None = None
    """The layout of `convert` for the way back; None with `why` where there is none."""
    why: str = ""
    sizes: tuple[tuple[int, int], ...] = ()
    """Other sizes (height, width) that the foreign code takes as well, by its own interpolation."""
    unseen: tuple[str, ...] = ()
    """Patterns of tensors of the file that no output depends on: key biases, mask tokens, ..."""
    gradients: bool = False
    """Gradients are compared too: one row per family."""
    note: str = ""

    @property
    def name(self) -> str:
        """For test ids."""
        return f"{self.family} | {self.layout}"


def transformers_folder(folder: Path, module: Any, *, processor: Mapping[str, Any] | None = None) -> Any:
    """Randomises a transformers model and saves it with an image processor's configuration."""
    randomise(module)
    module.save_pretrained(folder)
    size = getattr(module.config, "vision_config", module.config).image_size
    size = [size, size] if isinstance(size, int) else list(size)
    squash = {"image_processor_type": "ViTImageProcessor", "size": {"height": size[0], "width": size[1]}}
    content = {**squash, **STATISTICS, **(processor or {})}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return module


def timm_folder(folder: Path, module: Any) -> Any:
    """Randomises a timm model and saves it as timm does for the Hub."""
    from timm.models import save_for_hf

    randomise(module)
    save_for_hf(module, folder, safe_serialization=True)
    return module


def timm_answer(module: Any, pixels: Tensor) -> Answer:
    """Tokens and logits of a timm model."""
    tokens = module.forward_features(pixels)
    return {"tokens": tokens, "logits": module.forward_head(tokens)}


def timm_back(folder: Path) -> Foreign:
    """timm's own loading of a converted folder."""
    import timm

    return Foreign(timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), timm_answer)


def bare_file(folder: Path, state: Mapping[str, Tensor], name: str = "weights.safetensors") -> str:
    """Writes a bare weight file; returns its name."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.detach().clone().contiguous() for key, tensor in state.items()}, folder / name)
    return name
