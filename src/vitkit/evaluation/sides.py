"""What is compared: a module, and how its pictures become pixels, here or in the library that the module is of."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from vitkit.checkpoint.hub import parse
from vitkit.checkpoint.presets import find_preset
from vitkit.errors import CheckpointError, ConfigError, EngineError, list_faults
from vitkit.evaluation.stages import Anatomy, anatomy_of
from vitkit.image.decode import Decoded, Picture, decode
from vitkit.image.fetch import is_url
from vitkit.image.preprocess import Preprocess, apply, fit
from vitkit.image.sources import from_timm, from_transformers

__all__ = ["Ours", "Preparing", "Side", "import_library", "load_timm", "load_transformers", "refusing"]

Pair = tuple[int, int]

BROKEN = "{} can't be imported here: {}; a torchvision made for another torch does that: install both from one index"


class Preparing(Protocol):
    """From a picture to pixels, as one library does it."""

    @property
    def preprocess(self) -> Preprocess | None:
        """The same in our words, where we have them."""

    def open(self, picture: Picture) -> Decoded:
        """Decoded, uint8 [H, W, C]."""

    def fit(self, rgb: Decoded) -> Decoded | None:
        """Resized and cropped, uint8 [h, w, C]; None where floats are resized."""

    def apply(self, rgb: Decoded) -> NDArray[np.float32]:
        """Resized, cropped and normalised, float32 [C, h, w]."""


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two that are compared."""

    name: str
    module: nn.Module
    """In eval mode on the CPU, in one dtype."""
    preparing: Preparing | None
    """None: it is shown the other's pixels."""

    @property
    def dtype(self) -> torch.dtype:
        """In which the module computes."""
        return next(self.module.parameters()).dtype

    @property
    def anatomy(self) -> Anatomy:
        """Where the module has its stages."""
        return anatomy_of(self.module)


@dataclass(frozen=True)
class Ours:
    """vitkit's own preparation."""

    preprocess: Preprocess

    def open(self, picture: Picture) -> Decoded:
        """Decoded, uint8 [H, W, C], or uint16 of deep pictures."""
        return decode(picture, channels=self.preprocess.channels, value_range=self.preprocess.value_range)

    def fit(self, rgb: Decoded) -> Decoded | None:
        """Resized and cropped, uint8 [h, w, C]; None where floats are resized."""
        return fit(self.preprocess, rgb) if self.preprocess.order == "resize_first" else None

    def apply(self, rgb: Decoded) -> NDArray[np.float32]:
        """Resized, cropped and normalised, float32 [C, h, w]."""
        return apply(self.preprocess, rgb)


class OfTimm:
    """timm's evaluation transform, on pictures read as its data sets read them (timm/data/dataset.py)."""

    def __init__(self, transform: Any, preprocess: Preprocess | None, channels: int) -> None:
        self.transform = transform
        self.preprocess = preprocess
        self.channels = channels

    def open(self, picture: Picture) -> Decoded:
        """Decoded, uint8 [H, W, C], not turned as EXIF says."""
        decoded, path = decode(picture, channels=self.channels), _path(picture)  # with our checks and errors
        if path is None:
            return decoded
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB" if self.channels == 3 else "L"))
        return pixels.reshape(*pixels.shape[:2], self.channels)

    def fit(self, rgb: Decoded) -> Decoded | None:
        """Resized and cropped, uint8 [h, w, C]."""
        image: Any = _image(rgb)
        for step in self.transform.transforms:
            fitted = step(image)
            if not isinstance(fitted, Image.Image):
                break
            image = fitted
        pixels = np.asarray(image)
        return pixels.reshape(*pixels.shape[:2], self.channels)

    def apply(self, rgb: Decoded) -> NDArray[np.float32]:
        """Resized, cropped and normalised, float32 [C, h, w]."""
        return np.asarray(self.transform(_image(rgb)), np.float32)


class OfTransformers:
    """A processor of transformers, its Pillow one where there is one."""

    def __init__(self, processor: Any, preprocess: Preprocess | None) -> None:
        self.processor = processor
        self.preprocess = preprocess

    def open(self, picture: Picture) -> Decoded:
        """Decoded, uint8 [H, W, 3]."""
        decoded, path = decode(picture), _path(picture)  # with our checks and errors
        if path is None:
            return decoded
        from transformers.image_utils import load_image

        return np.asarray(load_image(path))

    def fit(self, rgb: Decoded) -> Decoded | None:
        """Resized and cropped, uint8 [h, w, 3]; None where the processor resizes floats."""
        if not type(self.processor).__name__.endswith("Pil"):
            return None
        raw = self.processor(_image(rgb), do_rescale=False, do_normalize=False, return_tensors="np")
        fitted: Decoded = np.moveaxis(raw["pixel_values"][0], 0, -1).astype(np.uint8)
        return fitted

    def apply(self, rgb: Decoded) -> NDArray[np.float32]:
        """Resized, cropped and normalised, float32 [3, h, w]."""
        return np.asarray(self.processor(_image(rgb), return_tensors="pt")["pixel_values"][0], np.float32)


def load_timm(
    source: str, *, preset: str | None = None, image_size: Pair | None = None, dtype: torch.dtype = torch.float64
) -> Side:
    """What timm itself makes of a folder, a weight file of the architecture `preset`, a Hub id or a name of its own."""
    timm = import_library("timm")
    data = importlib.import_module("timm.data")
    options: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    if Path(source).is_file():
        if preset is None:
            raise ConfigError(f"timm:{source}: a bare weight file; name what it is with a preset")
        name = (find_preset(preset).hub_id or preset).removeprefix("timm/")
        options["pretrained_cfg_overlay"] = {"file": source}
    elif Path(source).is_dir():
        name = f"local-dir:{source}"
    else:
        name = source if parse(source) is None else f"hf-hub:{source.removeprefix('hf-hub:')}"
    with refusing("timm", source):
        module = timm.create_model(name, pretrained=True, **options)
        channels = module.pretrained_cfg["input_size"][0]
        size = {} if image_size is None else {"input_size": (channels, *image_size)}
        words = data.resolve_data_config(size, model=module)
        preparing = OfTimm(data.create_transform(**words), _in_our_words(from_timm, words), channels)
    return Side(f"timm:{source}", module.to(dtype).eval(), preparing)


def load_transformers(source: str, *, dtype: torch.dtype = torch.float64) -> Side:
    """What transformers itself makes of a folder or a Hub id, by the class that its configuration names."""
    transformers = import_library("transformers")
    named = None if Path(source).is_dir() else parse(source)
    where: dict[str, Any] = {"pretrained_model_name_or_path": source if named is None else named.repo_id}
    if named is not None and named.revision is not None:
        where["revision"] = named.revision
    with refusing("transformers", source):
        config = transformers.AutoConfig.from_pretrained(**where)
        default = "AutoModelForImageClassification" if config.model_type == "timm_wrapper" else "AutoModel"
        kind = getattr(transformers, (config.architectures or [default])[0])
        module, loaded = kind.from_pretrained(**where, dtype=torch.float32, output_loading_info=True)
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(**where, backend="pil")
        except OSError:  # a checkpoint that doesn't say
            processor = None
    if loaded["missing_keys"]:
        missing = list_faults(sorted(loaded["missing_keys"]), first=4)
        raise CheckpointError(f"hf:{source}: transformers fills {missing} with random numbers; the file lacks them")
    module = getattr(module, "timm_model", module)  # as transformers runs timm's folders
    preparing = processor and OfTransformers(processor, _in_our_words(from_transformers, processor.to_dict()))
    return Side(f"hf:{source}", module.to(dtype).eval(), preparing)


def import_library(name: str) -> Any:
    """timm or transformers; raises EngineError where it isn't installed, or can't be imported."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise EngineError(f"{name} isn't installed here; pip install {name}") from None
    except RuntimeError as error:
        raise EngineError(BROKEN.format(name, error)) from error


@contextmanager
def refusing(library: str, source: str) -> Iterator[None]:
    """Turns what a library raises over a model into CheckpointError, over its own parts into EngineError."""
    try:
        yield
    except ImportError as error:  # transformers imports its parts when they are first used
        raise EngineError(BROKEN.format(library, " ".join(str(error).split()))) from error
    except (OSError, RuntimeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        raise CheckpointError(f"{source}: {library} can't load it: {' '.join(str(error).split())}") from error


def _in_our_words(read: Any, words: Any) -> Preprocess | None:
    try:
        found: Preprocess = read(words)
    except ConfigError:
        return None
    return found


def _path(picture: object) -> str | None:
    path = os.fsdecode(picture) if isinstance(picture, str | os.PathLike) else None
    return None if path is None or is_url(path) else path


def _image(rgb: Decoded) -> Image.Image:
    return Image.fromarray(rgb[..., 0] if rgb.shape[2] == 1 else rgb)
