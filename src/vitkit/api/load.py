"""load: from anything that holds a model to a Predictor ready for pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch

from vitkit.api.exported import load_export
from vitkit.checkpoint.adapt import adapt
from vitkit.checkpoint.hub import download, parse
from vitkit.checkpoint.parity import check_parity, with_parity
from vitkit.checkpoint.presets import PRESETS
from vitkit.checkpoint.read import Checkpoint, read
from vitkit.engine.choose import AUTO, candidates, choose
from vitkit.engine.engines import settle
from vitkit.engine.onnx_engine import onnx_bytes
from vitkit.engine.predict import Predictor
from vitkit.errors import CheckpointError, ConfigError, nearest
from vitkit.exports.artifact import is_export
from vitkit.image.decode import Picture
from vitkit.image.preprocess import Preprocess

__all__ = ["load", "read_source"]

Source = str | os.PathLike[str]


def load(
    source: Source,
    *,
    revision: str | None = None,
    preset: str | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    in_channels: int | None = None,
    preprocess: Preprocess | None = None,
    parity: str | None = None,
    device: str | None = "auto",
    dtype: str | torch.dtype | None = None,
    engine: str | None = None,
    try_on: Sequence[Picture] = (),
    exact: bool = False,
) -> Predictor:
    """Loads a model, completely or not at all.

    `source` is a folder (native, transformers or timm), a weight file with `preset` naming what it is, a Hub id,
    "org/name" or "org/name@revision", or an export (NAME.onnx, NAME.xml), which answers but has no `.module`. A path
    that exists wins over a Hub id of the same spelling. `num_classes` (a new
    head, zero at the start), `image_size`, `patch_size` (kernels by the pseudo-inverse, as FlexiViT's) and
    `in_channels` change the model on request; `preprocess` replaces the checkpoint's own. With
    `parity` "timm", "hf" (transformers) or "original" (the authors' code) these weights run as they do there, where
    that is known; `.report.differences` tells what that changes. `dtype` is float32 unless said. `engine` is what runs
    the model: "torch" unless said, "onnx" (ONNX Runtime), "openvino", or "auto": the fastest of them here that agrees
    with float32 on a few pictures, `try_on` among them, in `dtype` if that is given; it is measured once, and
    `.engine_choice` says why. `exact` prepares pictures to the bit as the model's own library does; otherwise much
    larger JPEGs are decoded smaller, and resizing is within 1 of 255 (`evaluate` and what compares models are always
    exact). Raises CheckpointError naming all faults, ConfigError for options, also for an engine that isn't installed
    or can't do what is asked.
    """
    if is_export(Path(source)):
        changes = {
            "revision": revision,
            "preset": preset,
            "num_classes": num_classes,
            "image_size": image_size,
            "patch_size": patch_size,
            "in_channels": in_channels,
            "preprocess": preprocess,
            "parity": parity,
        }
        return load_export(
            Path(source),
            changes=[name for name, value in changes.items() if value is not None],
            device=device,
            dtype=dtype,
            engine=engine,
            exact=exact,
        )
    setups = candidates(device, dtype) if engine == AUTO else [settle(engine, device, dtype)]
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
    )
    card = checkpoint.card
    if card.preprocess is None:
        raise CheckpointError(
            f"{checkpoint.report.source}: nothing there says how pictures become pixels (preprocessor_config.json is "
            "missing), and it isn't guessed: name a preset whose preprocessing is meant (--preset), or pass preprocess="
        )
    choice, onnx, setup = None, None, setups[0]
    if engine == AUTO:
        plain = checkpoint.module()
        onnx = cache(partial(onnx_bytes, plain, card.preprocess))  # the slowest of it all, once
        choice = choose(plain, card, setups, try_on, onnx=onnx)
        setup = settle(choice.engine, device, choice.dtype)
    module = checkpoint.module(dtype=setup.module_dtype)
    runner = setup.make(module, card.preprocess, onnx=onnx)
    return Predictor(module, runner, card, checkpoint.report, engine_choice=choice, exact=exact)


def read_source(
    source: Source,
    *,
    revision: str | None = None,
    preset: str | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    in_channels: int | None = None,
    preprocess: Preprocess | None = None,
    parity: str | None = None,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Reads `source` from the disk or the Hub and makes the changes asked for: the core of `load` and `convert`."""
    check_parity(parity)
    if parity is not None and preprocess is not None:
        raise ConfigError(f"parity {parity!r} and preprocess both say how pictures are prepared; leave one out")
    name = os.fspath(source)
    path, called = Path(name), name
    if not path.exists():
        hub = parse(name, revision=revision) if isinstance(source, str) else None
        if hub is None:
            known = f"{name!r} is a preset's name, not weights; the file or Hub id comes first, --preset after it"
            raise CheckpointError(
                known
                if name in PRESETS
                else f"{name!r} is neither a file or folder here nor a Hub id (org/name){nearest(name, PRESETS)}"
            )
        fetched = download(hub, allow_pickle=allow_pickle)
        path, called = fetched.folder, f"{fetched.repo_id}@{fetched.commit}"
    elif revision is not None:
        raise ConfigError(f"revision {revision!r} belongs to a Hub id, but {name!r} is a path here")
    checkpoint = read(path, source=called, preset=preset, num_classes=num_classes, allow_pickle=allow_pickle)
    checkpoint = with_parity(checkpoint, parity, preset=preset)
    checkpoint = adapt(
        checkpoint, num_classes=num_classes, image_size=image_size, patch_size=patch_size, in_channels=in_channels
    )
    return checkpoint if preprocess is None else checkpoint.with_preprocess(preprocess)
