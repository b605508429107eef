"""What makes two models part at a stage, told from their settings and from the numbers there."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any, TypeAlias

from torch import Tensor

from vitkit.errors import list_faults
from vitkit.evaluation.sides import Side
from vitkit.evaluation.stages import eps_at, walk
from vitkit.model.block import ACTIVATIONS

__all__ = ["cause"]

ALIKE = 1e-5
"""Share of the largest value: what one formula gives in two ways, and far less than what two formulas do."""

Stages: TypeAlias = Mapping[str, Tensor]
"""By name; those of the block where the models part by their names within a block."""


def cause(stage: str, a: Side, b: Side, pixels: tuple[Tensor, Tensor]) -> str:
    """What makes `stage`, the first to depart, differ when `a` and `b` are shown `pixels`; "" where that isn't seen."""
    if stage in PREPARED_BY:
        words = [None if side.preparing is None else side.preparing.preprocess for side in (a, b)]
        return _differing(words[0], words[1], PREPARED_BY[stage])
    eps_a, eps_b = (eps_at(side.module, side.anatomy, stage) for side in (a, b))
    if eps_a != eps_b and eps_a is not None and eps_b is not None:
        return f"LayerNorm eps: {eps_a:g} against {eps_b:g}"
    block, name = re.fullmatch(r"(blocks\.\d+\.?)?(.*)", stage).groups(default="")  # type: ignore[union-attr]
    told = ""
    if name in EVIDENCE:
        told = EVIDENCE[name](*(_near(side, block, shown) for side, shown in zip((a, b), pixels, strict=True)))
    return told or _differing(getattr(a.module, "spec", None), getattr(b.module, "spec", None))


def _near(side: Side, block: str, pixels: Tensor) -> Stages:
    """The stages of `block` and those outside of all blocks."""
    found = {"pixels": pixels}

    def see(name: str, value: Tensor) -> None:
        if not name.startswith("blocks.") or (block and name.startswith(block)):
            found[name.removeprefix(block)] = value.double()

    walk(side.module, side.anatomy, pixels, see)
    return found


def _differing(a: Any, b: Any, names: Collection[str] | None = None) -> str:
    """The fields, of those named, in which two dataclasses differ; "" where one is missing."""
    if a is None or b is None:
        return ""
    asked = [field.name for field in fields(a)] if names is None else names
    values = [(name, getattr(a, name), getattr(b, name, None)) for name in asked]
    return list_faults(f"{name}: {x!r} against {y!r}" for name, x, y in values if x != y)


def _same(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and float((x - y).abs().max()) <= ALIKE * float(y.abs().max())


def _order(a: Stages, b: Stages) -> str:
    tokens, (height, width) = a["patch_embed"], a["pixels"].shape[2:]
    B, N, D = tokens.shape
    rows = round(math.sqrt(N * height / width))
    turned = N % rows == 0 and _same(tokens.view(B, rows, -1, D).transpose(1, 2).flatten(1, 2), b["patch_embed"])
    return "the same patches, row by row against column by column" if turned else ""


def _swap(a: Stages, b: Stages) -> str:
    swapped = _same(a["attn.q"], b["attn.k"]) and _same(a["attn.k"], b["attn.q"])
    return "queries and keys are swapped" if swapped else ""


def _activation(a: Stages, b: Stages) -> str:
    def name(x: Stages) -> str | None:
        before = x.get("mlp.fc1")
        found = (n for n, f in ACTIVATIONS.items() if before is not None and _same(f(before), x["mlp.hidden"]))
        return next(found, None)

    return _against("activation", name(a), name(b))


def _scale(branch: str, scaled: str) -> Callable[[Stages, Stages], str]:
    def factor(x: Stages) -> str | None:
        return f"{float(x[scaled].norm() / x[branch].norm()):.3g}" if branch in x else None

    return lambda a, b: _against("the branch is scaled by about", factor(a), factor(b))


def _pooling(a: Stages, b: Stages) -> str:
    def name(x: Stages) -> str | None:
        tokens = x.get("norm")
        if tokens is None:
            return None
        prefix = tokens.shape[1] - x["patch_embed"].shape[1]
        ways = {
            "the class token": tokens[:, 0],
            "the mean of the patch tokens": tokens[:, prefix:].mean(dim=1),
            "the mean of all tokens": tokens.mean(dim=1),
        }
        return next((way for way, value in ways.items() if _same(value, x["pooled"])), None)

    return _against("pooling:", name(a), name(b))


def _against(what: str, a: str | None, b: str | None) -> str:
    return "" if None in (a, b) or a == b else f"{what} {a} against {b}"


EVIDENCE: Mapping[str, Callable[[Stages, Stages], str]] = {
    "patch_embed": _order,
    "attn.q": _swap,
    "ls1": _scale("attn", "ls1"),
    "mlp.hidden": _activation,
    "ls2": _scale("mlp", "ls2"),
    "pooled": _pooling,
}
"""By the stage."""
PREPARED_BY: Mapping[str, Collection[str]] = {
    "picture": (),
    "resized": ("size", "resize", "resize_size", "crop", "interpolation", "order"),
    "pixels": ("size", "mean", "std", "order"),
}
"""The fields of a Preprocess that make a stage."""
