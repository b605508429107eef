"""Maps of held-out pictures for a run's page: what the answers rest on."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vitkit.api.verdicts import percent, picture_of
from vitkit.checkpoint.card import Card
from vitkit.data.loader import Loader
from vitkit.data.samples import Samples
from vitkit.explain.explanation import Explanation, explain_pixels
from vitkit.explain.overlay import enlarge
from vitkit.model.base import ImageModel
from vitkit.model.vit import VisionTransformer
from vitkit.report.html import Block, Figure, Figures, Heading, Paragraph

__all__ = ["show_maps"]

EXPLAINED = 6
"""Pictures whose maps are shown."""


def show_maps(module: ImageModel, card: Card, samples: Samples, evaluation: Loader) -> list[Block]:
    """Maps of the first held-out pictures of as many classes as fit, where there is attention over the picture."""
    if not isinstance(module, VisionTransformer):
        return []
    borne = np.flatnonzero(samples.counts())[:EXPLAINED]
    bears = samples.labels[:, borne].T if samples.multi_label else samples.labels == borne[:, None]
    first = [int(np.flatnonzero(row)[0]) for row in bears]
    found = explain_pixels(module, card, torch.stack([picture_of(evaluation, index) for index in first]))
    captions = [
        f"{samples.label_text(index)}, said {each.class_name} ({percent(each.probability or 0)})"
        for index, each in zip(first, found, strict=True)
    ]
    figures = [
        Figure(_png(_beside(each)), f"A held-out picture and its map: {caption}", caption)
        for each, caption in zip(found, captions, strict=True)
    ]
    lead = (
        f"Held-out pictures, each with its map laid over it: {found[0].method}. The brightest patches count most for "
        "what the model said."
    )
    return [Heading("What its answers rest on"), Paragraph(lead), Figures(figures, width=290)]


def _beside(explanation: Explanation) -> NDArray[np.uint8]:
    """The picture and, right of it, its map laid over it."""
    left, right = enlarge(explanation.picture), explanation.overlay()
    return np.concatenate([left, np.full((len(left), len(left) // 40, 3), 255, np.uint8), right], axis=1)


def _png(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
