"""explain: which patches of a picture an answer rests on."""

from __future__ import annotations

import torch

from vitkit.api.load import Source, load
from vitkit.engine.predict import Predictor
from vitkit.errors import ConfigError
from vitkit.explain.explanation import Explanation, explain_picture
from vitkit.image.decode import Picture
from vitkit.image.preprocess import Preprocess

__all__ = ["explain"]


def explain(
    model: Predictor | Source,
    picture: Picture,
    *,
    target: int | str | None = None,
    method: str = "auto",
    revision: str | None = None,
    preset: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    preprocess: Preprocess | None = None,
    parity: str | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
) -> Explanation:
    """Returns the map behind the answer to one picture: `.map`, `.caption`, `.overlay()`, `.save("why.png")`.

    `model` is a Predictor, or anything `load` takes, with its options. `target` is the class to explain, by name or
    index; None is the predicted one. `method` is "attention" (last block), "rollout", "gradient" (the one that differs
    between classes), or "auto": the attention of the class token or pooling query that the head reads where no target
    is named, else "gradient".

    Raises ConfigError for an unknown method or class and for options, ImageError for a picture that can't be used,
    CheckpointError from `load`.
    """
    if isinstance(model, Predictor):
        options: dict[str, object] = {
            "revision": revision,
            "preset": preset,
            "image_size": image_size,
            "preprocess": preprocess,
            "parity": parity,
            "device": device,
            "dtype": dtype,
        }
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise ConfigError(f"{', '.join(given)}: the model is loaded already; pass that to vitkit.load instead")
        predictor = model
    else:
        predictor = load(
            model,
            revision=revision,
            preset=preset,
            image_size=image_size,
            preprocess=preprocess,
            parity=parity,
            device=device,
            dtype=dtype,
        )
    return explain_picture(predictor.module, predictor.card, picture, target=target, method=method)
