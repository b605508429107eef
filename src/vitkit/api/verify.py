"""verify: does a checkpoint, or an export of one, answer here as it did where it was written?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vitkit.api.load import Source, read_source
from vitkit.checkpoint.proof import FILE, STAGE_TOLERANCE, Stage, check, first_departure, read_proof, relative
from vitkit.checkpoint.read import Checkpoint
from vitkit.engine.predict import probabilities
from vitkit.errors import CheckpointError, ConfigError, ImageError
from vitkit.exports.artifact import Export, Run, is_export, open_export
from vitkit.exports.evidence import check_graph, faults
from vitkit.exports.graph import CropGraph
from vitkit.exports.metadata import fingerprint
from vitkit.image.decode import Picture, decode, describe
from vitkit.image.preprocess import fit

__all__ = ["Comparison", "Verification", "verify"]

MARGIN = 0.05
"""Between the float32 model's two best probabilities: where it is closer than this, either class is as good."""
RESIZED_TOLERANCE = 0.05
"""Largest difference of answers, relative to the largest, where a graph resizes pictures within 2 of 255 of Pillow."""


@dataclass(frozen=True)
class Comparison:
    """Real pictures, answered by an export and by the float32 model in torch."""

    model: str
    pictures: int
    same_top1: int | None
    """How many have the same best class; None for a model without classes."""
    difference: float
    """Largest difference of logits (of embeddings, where there is no head), relative to the largest."""
    tolerance: float
    probability_difference: float | None
    departed: tuple[str, ...]
    """Pictures with another best class than the model's clear one."""
    errors: tuple[str, ...]
    """What kept pictures from being read."""

    @property
    def agrees(self) -> bool:
        """Whether every picture that could be read is answered alike."""
        return not self.departed and self.difference <= self.tolerance


@dataclass(frozen=True)
class Verification:
    """The proof, repeated."""

    source: str
    stages: tuple[Stage, ...]
    faults: tuple[str, ...] = ()
    """What is wrong with an export, a line each."""
    comparison: Comparison | None = None

    @property
    def agrees(self) -> bool:
        """Whether every stage, from the pixels to the logits, is what it was, and so are an export's words."""
        compared = self.comparison is None or self.comparison.agrees
        return self.departure is None and not self.faults and compared

    @property
    def departure(self) -> Stage | None:
        """The first stage that departs."""
        return first_departure(list(self.stages))


def verify(
    source: Source,
    *,
    revision: str | None = None,
    images: Iterable[Picture] | None = None,
    model: Source | None = None,
    preset: str | None = None,
    parity: str | None = None,
    allow_pickle: bool = False,
) -> Verification:
    """Repeats the proof that `source` carries: a native folder, a Hub repository of one, or an export.

    `images` go through an export and through `model` (with `preset` and `parity`, as it was exported), float32 in
    torch; None: where the export says that it comes from. A torch program (.pt2) may run code as it is read, and is
    refused unless `allow_pickle`. Raises CheckpointError where there is no proof, or anything can't be read at all.
    """
    if is_export(Path(source)):
        if Path(source).suffix == ".pt2" and not allow_pickle:
            raise CheckpointError(
                f"{source}: reading a torch program (.pt2) can run code from it; if you trust it, say --allow-pickle "
                "(allow_pickle=True)"
            )
        return _verify_export(open_export(Path(source)), images, model, preset, parity)
    if images is not None or model is not None:
        raise ConfigError(f"images and model are for exports, and {source} is none (.onnx, .xml, .pt2)")
    if Path(source).is_file():
        raise CheckpointError(f"{source}: a bare weight file carries no proof; vitkit convert writes a folder with one")
    checkpoint = read_source(source, revision=revision)
    assert checkpoint.folder is not None, "anything but a bare file has a folder"
    proof = read_proof(checkpoint.folder / FILE)
    if checkpoint.card.preprocess is None:
        raise CheckpointError(
            f"{source}: nothing there says how pictures become pixels, so its proof can't be repeated"
        )
    return Verification(checkpoint.report.source, tuple(check(checkpoint.module(), checkpoint.card.preprocess, proof)))


def _verify_export(
    export: Export, images: Iterable[Picture] | None, model: Source | None, preset: str | None, parity: str | None
) -> Verification:
    reference = None if images is None and model is None else _reference(export, model, preset, parity)
    wrong = faults(export.metadata, export.said)
    run = export.runner()
    try:
        stages, found = check_graph(export.metadata, export.proof, run, export.constants())
    except CheckpointError as error:
        if not wrong:
            raise
        return Verification(str(export.path), (), (*wrong, str(error)))
    wrong += found
    if reference is not None:
        wrong += _unlike(export, reference)
    comparison = None if images is None or reference is None else _compare(export, run, reference, images)
    return Verification(str(export.path), tuple(stages), tuple(wrong), comparison)


def _reference(export: Export, model: Source | None, preset: str | None, parity: str | None) -> Checkpoint:
    """The checkpoint that an export was made of, at the export's size."""
    provenance = export.metadata.card.provenance
    if model is None and provenance is not None and Path(provenance.source).is_dir():
        model = provenance.source
    if model is None:
        raise ConfigError(
            f"{export.path}: pictures are compared with the model that it was exported from; name it (--model)"
        )
    checkpoint = read_source(model, preset=preset, parity=parity)
    size = export.metadata.model.spec.image_size
    if checkpoint.model.spec.image_size == size:
        return checkpoint
    return read_source(model, preset=preset, parity=parity, image_size=size)


def _unlike(export: Export, checkpoint: Checkpoint) -> list[str]:
    """A line for each thing that a checkpoint says otherwise than the export."""
    said, source = export.metadata.card, checkpoint.report.source
    names = ("preprocess", "class_names", "class_ids", "scores")
    wrong = [f"{name}: {source} says other" for name in names if getattr(checkpoint.card, name) != getattr(said, name)]
    if checkpoint.module().spec != export.metadata.model.spec:
        wrong.append(f"model: {source} computes otherwise; if it was exported with a parity, say it (--parity)")
    if fingerprint(checkpoint.module()) != export.metadata.fingerprint:
        wrong.append(f"weights: {source} has others than those that were exported")
    return wrong


def _compare(export: Export, run: Run, checkpoint: Checkpoint, images: Iterable[Picture]) -> Comparison:
    preprocess = export.metadata.card.preprocess
    assert preprocess is not None, "metadata aren't read without it"
    module = checkpoint.module()
    graph = CropGraph(module, preprocess)
    ours, theirs, read, errors = [], [], [], []
    for image in images:
        try:
            rgb = decode(image, channels=preprocess.channels, value_range=preprocess.value_range)
            crop = fit(preprocess, rgb)
        except ImageError as error:
            errors.append(str(error))
            continue
        read.append(describe(image))
        outputs = run((crop if export.metadata.form == "crops" else rgb)[None])
        with torch.inference_mode():
            expected = {name: values.numpy() for name, values in graph(torch.from_numpy(crop)[None]).items()}
        wanted = "logits" if module.spec.num_classes else "embedding"
        ours.append(outputs[wanted][0])
        theirs.append(expected[wanted][0])
    if not read:
        raise ConfigError(f"none of the pictures can be read: {errors[0]}" if errors else "there are no pictures")
    return _comparison(export, checkpoint, np.stack(ours), np.stack(theirs), read, errors)


def _comparison(
    export: Export,
    checkpoint: Checkpoint,
    ours: NDArray[np.float32],
    theirs: NDArray[np.float32],
    read: list[str],
    errors: list[str],
) -> Comparison:
    same_top1, chance_difference, departed = None, None, []
    if checkpoint.model.spec.num_classes:
        mine, chances = (probabilities(logits, export.metadata.card.scores) for logits in (ours, theirs))
        same = mine.argmax(1) == chances.argmax(1)
        best = np.sort(chances, axis=1)[:, -2:]
        clear = best[:, -1] - best[:, 0] >= MARGIN
        same_top1, chance_difference = int(same.sum()), float(np.abs(mine - chances).max())
        departed = [name for name, fault in zip(read, ~same & clear, strict=True) if fault]
    return Comparison(
        model=checkpoint.report.source,
        pictures=len(read),
        same_top1=same_top1,
        difference=relative(torch.from_numpy(ours), torch.from_numpy(theirs)),
        tolerance=STAGE_TOLERANCE if export.metadata.form == "crops" else RESIZED_TOLERANCE,
        probability_difference=chance_difference,
        departed=tuple(departed),
        errors=tuple(errors),
    )
