"""Whether an export says and answers what it did when it was made: its metadata and its graph against its proof.

The proof holds pictures, their pixels and logits as the float32 model gave them, and in its head a digest of everything
that metadata say and answers depend on. So what is changed in one of the three alone, graph, metadata or proof, shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.checkpoint.proof import Stage, check_answers, check_pixels, pictures, shown
from vitkit.exports.artifact import Run
from vitkit.exports.metadata import Metadata, digests
from vitkit.exports.resize import first_kept
from vitkit.image.preprocess import Fitted, Preprocess, fit

__all__ = ["check_graph", "faults", "uncropped"]

NUDGE = 2 / 255
"""How far pixels of a resize inside a graph may lie from Pillow's."""


def faults(metadata: Metadata, said: Mapping[str, str]) -> list[str]:
    """A line for each thing that the metadata say otherwise than when the proof, of these digests, was made."""
    now = digests(metadata)
    if not now.keys() & said.keys():
        return ["its proof isn't one of an export: nothing there ties the metadata to the weights"]
    changed = [name for name in now if said.get(name) != now[name]]
    return [f"{name}: its metadata say other than when it was exported" for name in changed]


def check_graph(
    metadata: Metadata, proof: Mapping[str, Tensor], run: Run, constants: Sequence[NDArray[Any]] = ()
) -> tuple[list[Stage], list[str]]:
    """The stages of an export, "pixels", "logits" and, of whole pictures, "resize"; and what is wrong with the graph.

    `constants` are the small arrays in it, among which its normalisation is looked for.
    """
    preprocess = metadata.card.preprocess
    assert preprocess is not None, "metadata aren't read without it"
    proofs = shown(proof)
    crops = [fit(preprocess, picture) for picture in proofs]
    resizes = metadata.form == "pictures"
    rounds = preprocess.order == "resize_first"
    # A graph that resizes sees the very crops as pictures that need no resize; floats' need none of this, unrounded.
    exact = crops if not resizes else [uncropped(preprocess, crop) for crop in crops] if rounds else proofs
    answers = _answers(run, exact)
    stages = [check_pixels(preprocess, proof), check_answers(answers, proof)]
    if not all(stage.agrees for stage in stages):
        return stages, _causes(preprocess, stages, check_answers(_answers(run, _reversed(exact)), proof), constants)
    if resizes and rounds:
        stages.append(_check_resize(preprocess, proofs + _larger(preprocess), run))
    return stages, []


def _check_resize(preprocess: Preprocess, given: Sequence[Fitted], run: Run) -> Stage:
    """How far a graph's own resize moves embeddings, in shares of what pixels moved by NUDGE do.

    Embeddings, as a new head's answers are all 0, whatever it is shown.
    """
    exact = [uncropped(preprocess, fit(preprocess, picture)) for picture in given]
    expected = _answers(run, exact, "embedding")
    nudged = [_answers(run, moved, "embedding") for moved in _nudged(preprocess, exact)]
    allowed = max(float((there - expected).abs().max()) for there in nudged)
    found = float((_answers(run, given, "embedding") - expected).abs().max())
    return Stage("resize", found / max(allowed, 1e-30), 1.0)


def _larger(preprocess: Preprocess) -> list[NDArray[np.uint8 | np.uint16]]:
    """Pictures that are made smaller, both ways; a tall one too, whose columns a graph resizes first."""
    height, width = preprocess.resize_size or preprocess.size
    sizes = ((3 * height, 3 * width), (6 * height, 2 * width))
    return pictures(preprocess.channels, sizes, full_scale=preprocess.full_scale)


def uncropped(preprocess: Preprocess, crop: Fitted) -> Fitted:
    """A picture that the preprocessing leaves as large as it is, and of which it cuts `crop` [h, w, C]."""
    picture = np.zeros((*(preprocess.resize_size or preprocess.size), preprocess.channels), crop.dtype)
    cuts = []
    for held, wanted in zip(picture.shape, preprocess.size, strict=False):
        first = int(first_kept(preprocess, torch.tensor(held), wanted))
        cuts.append((slice(max(first, 0), first + wanted), slice(max(-first, 0), held - first)))
    picture[cuts[0][0], cuts[1][0]] = crop[cuts[0][1], cuts[1][1]]
    return picture


def _answers(run: Run, inputs: Sequence[NDArray[Any]], wanted: str = "logits") -> Tensor:
    """Logits [n, K], or what else is `wanted`, of inputs one by one; embeddings of a model that has no head."""
    outputs = [run(one[None]) for one in inputs]
    return torch.from_numpy(np.concatenate([one[wanted if wanted in one else "embedding"] for one in outputs]))


def _reversed(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    return [np.ascontiguousarray(one[..., ::-1]) for one in inputs]


def _nudged(preprocess: Preprocess, inputs: Sequence[Fitted]) -> Iterator[list[Fitted]]:
    """The inputs with every pixel as far off as a resize inside a graph may be: lighter, darker, some of each."""
    most = preprocess.full_scale
    signs = np.random.default_rng(0).choice([-1, 1], inputs[0].shape)
    for step in (np.ones_like(signs), -np.ones_like(signs), signs):
        yield [(one + step * round(NUDGE * most)).clip(0, most).astype(one.dtype) for one in inputs]


def _causes(
    preprocess: Preprocess, stages: Sequence[Stage], swapped: Stage, constants: Sequence[NDArray[Any]]
) -> list[str]:
    """What makes the stages depart."""
    if not stages[0].agrees:
        return ["pixels: the preprocessing in its metadata isn't the one that it was exported with"]
    if swapped.agrees:
        return ["channels: the graph reads them in the reverse order, BGR for RGB"]
    said = [np.array(values, np.float32) for values in (preprocess.mean, preprocess.std)]
    per_channel = [one.ravel() for one in constants if one.ndim > 1 and one.size == preprocess.channels]
    strange = [one.tolist() for one in per_channel if not any(np.array_equal(one, values) for values in said)]
    if strange:
        found = ", ".join(f"({', '.join(f'{value:.4g}' for value in values)})" for values in strange)
        return [f"mean or std: the graph normalises by {found}, its metadata by {preprocess.mean} and {preprocess.std}"]
    return ["weights: the graph answers otherwise than the weights that were exported"]
