"""The same model as vitkit, transformers and timm run it, each as its users call it: what `bench` measures."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitkit.engine.measure import wait_for
from vitkit.engine.predict import BATCH_SIZE, Answer, Predictor
from vitkit.evaluation.bench import Contestant, Work, core_seconds
from vitkit.evaluation.sides import OfTimm, import_library, load_timm, refusing
from vitkit.image.decode import Decoded, Picture
from vitkit.image.preprocess import Fitted, Preprocess
from vitkit.image.quick_fit import decode_for, fit_for

__all__ = ["PEERS", "Shown", "core_seconds_of_stages", "made_pictures", "of_predictor", "of_timm", "of_transformers"]

TOP = 5
WIDTH, HEIGHT = 500, 375

T = TypeVar("T")


@dataclass(frozen=True)
class Shown:
    """What each contestant is shown."""

    pictures: Sequence[Picture]
    """The bytes of files; arrays for a model of deep pictures or other channels."""
    sizes: Sequence[int]
    """Of batches, for the model alone."""
    many: int
    """Pictures answered in one call."""


def made_pictures(count: int, preprocess: Preprocess | None = None) -> list[Picture]:
    """Smooth noise of 500x375 pixels: JPEGs about as large as photos are, or arrays where JPEG can't hold them."""
    draw = np.random.default_rng(0)
    made: list[Picture] = []
    for _ in range(count):
        if preprocess is None or (preprocess.channels == 3 and preprocess.value_range is None):
            small = Image.fromarray(draw.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8))
            file = io.BytesIO()
            small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
            made.append(file.getvalue())
        else:
            most = preprocess.full_scale
            made.append(draw.integers(0, most + 1, (HEIGHT, WIDTH, preprocess.channels), preprocess.pixel_type.type))
    return made


def of_predictor(vit: Predictor, shown: Shown) -> Contestant:
    """A vitkit model on any engine: pictures are classified, or embedded where it has no classes."""
    answer = vit.classify if vit.spec.num_classes else vit.embed
    crops = np.stack(_repeated([_fitted(vit, _decoded(vit, one)) for one in shown.pictures], max(shown.sizes)))

    def run(size: int) -> Callable[[], object]:
        batch = crops[:size]
        return lambda: vit.engine.run(batch)

    return _contestant(answer, answer, run, shown)


def of_transformers(folder: str, shown: Shown, *, device: torch.device, dtype: torch.dtype) -> Contestant:
    """transformers' own pipeline for a folder in its layout, on pictures that Pillow opens."""
    transformers = import_library("transformers")
    with refusing("transformers", folder):
        classes = "ImageClassification" in transformers.AutoConfig.from_pretrained(folder).architectures[0]
        task = "image-classification" if classes else "image-feature-extraction"
        pipeline = transformers.pipeline(task, model=folder, device=device, dtype=dtype)
    pixels = pipeline.image_processor(_open(shown.pictures[0]), return_tensors="pt")["pixel_values"]

    def several(pictures: Sequence[Picture]) -> object:
        return pipeline([_open(picture) for picture in pictures], batch_size=BATCH_SIZE)

    forward = _forward(lambda batch: pipeline.model(pixel_values=batch), pixels.to(device, dtype))
    return _contestant(lambda picture: pipeline(_open(picture)), several, forward, shown)


def of_timm(folder: str, shown: Shown, *, device: torch.device, dtype: torch.dtype) -> Contestant:
    """timm's model and evaluation transform for a folder in its layout, put together as timm's README does."""
    side = load_timm(folder, dtype=dtype)
    assert isinstance(side.preparing, OfTimm)
    module, transform = side.module.to(device), side.preparing.transform
    classes: Any = module.num_classes

    def answer(pictures: Sequence[Picture]) -> object:
        pixels = torch.stack([transform(_open(picture)) for picture in pictures]).to(device, dtype)
        with torch.inference_mode():
            outputs: Tensor = module(pixels).float()
        if classes:
            outputs = outputs.softmax(-1).topk(min(TOP, classes)).values
        return outputs.cpu()

    def several(pictures: Sequence[Picture]) -> object:
        return [answer(pictures[at : at + BATCH_SIZE]) for at in range(0, len(pictures), BATCH_SIZE)]

    forward = _forward(module, transform(_open(shown.pictures[0]))[None].to(device, dtype))
    return _contestant(lambda picture: answer([picture]), several, forward, shown)


PEERS: Mapping[str, Callable[..., Contestant]] = {"transformers": of_transformers, "timm": of_timm}


def core_seconds_of_stages(vit: Predictor, pictures: Sequence[Picture], seconds: float) -> dict[str, float]:
    """Seconds of a core that a picture takes in each stage around the engine."""
    decoded = [_decoded(vit, picture) for picture in pictures]
    stages: dict[str, Callable[[], object]] = {
        "decode": lambda: [_decoded(vit, picture) for picture in pictures],
        "resize and crop": lambda: [_fitted(vit, pixels) for pixels in decoded],
    }
    if vit.spec.num_classes:
        logits = vit.engine.run(_fitted(vit, decoded[0])[None])["logits"][0]
        answer = Answer("", logits=logits)
        stages["softmax and names"] = lambda: [vit.predictions(answer, top=TOP) for _ in pictures]
    return {name: core_seconds(Work(len(pictures), run), seconds / len(stages)) for name, run in stages.items()}


def _contestant(
    one: Callable[[Any], object],
    several: Callable[[Any], object],
    forward: Callable[[int], Callable[[], object]],
    shown: Shown,
) -> Contestant:
    turn = itertools.cycle(shown.pictures)
    many = _repeated(shown.pictures, shown.many)
    return Contestant(
        one=lambda: one(next(turn)),
        batches=tuple(Work(size, forward(size)) for size in shown.sizes),
        many=Work(shown.many, lambda: several(many)),
    )


def _forward(module: Callable[[Tensor], object], pixels: Tensor) -> Callable[[int], Callable[[], object]]:
    """The module alone on so many copies of the pixels [1, C, H, W]."""

    def of_size(size: int) -> Callable[[], object]:
        batch = pixels.repeat(size, 1, 1, 1)

        def run() -> None:
            with torch.inference_mode():
                module(batch)
            wait_for(pixels.device)

        return run

    return of_size


def _open(picture: Picture) -> Image.Image:
    assert isinstance(picture, bytes)
    return Image.open(io.BytesIO(picture)).convert("RGB")


def _decoded(vit: Predictor, picture: Picture) -> Decoded:
    return decode_for(_preprocess(vit), picture, exact=vit.exact)


def _fitted(vit: Predictor, pixels: Decoded) -> Fitted:
    return fit_for(_preprocess(vit), pixels, exact=vit.exact)


def _preprocess(vit: Predictor) -> Preprocess:
    assert vit.card.preprocess is not None  # a Predictor has one
    return vit.card.preprocess


def _repeated(items: Sequence[T], count: int) -> list[T]:
    return list(itertools.islice(itertools.cycle(items), count))
