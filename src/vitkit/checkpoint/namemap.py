"""The name-map engine: tables of rules turn the tensors of a foreign file into ours, strictly, and back.

A rule's names are patterns: `{i}` stands for a number, `{p}` for weight or bias, `{base}` and `{root}` for what
transformers and Google may have in front, `{name}` for anything. Every tensor of the file is used, by one rule or
several, or dropped by a rule that says why, every tensor of the model is filled, every shape agrees; otherwise one
error lists all faults.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vitkit.errors import CheckpointError, list_faults

__all__ = ["Mapped", "Op", "Rule", "apply", "concat_rows", "identity", "invert", "matching", "pattern", "unstack"]

BASES = (
    "vit",
    "deit",
    "beit",
    "data2vec_vision",
    "dinov2",
    "dinov2_with_registers",
    "swin",
    "swinv2",
    "resnet",
    "bit",
    "vision_model",
    "model",
    "backbone",
)
"""transformers' base_model_prefix: the classes with a head have it before the names, those without don't.

"backbone" is Meta's, in the training states of DINO and its successors.
"""
ROOTS = ("opt/target/", "params/img/", "params/")
"""Where a flax training state, a two-tower one and a plain one keep the weights."""
PLACEHOLDERS: Mapping[str, str] = {
    "i": r"\d+",
    "j": r"\d+",
    "p": "weight|bias",
    "base": rf"(?:(?:{'|'.join(BASES)})\.)?",
    "root": rf"(?:{'|'.join(ROOTS)})?",
    "name": ".+",
}
FRONTS: Mapping[str, str] = {"base": "", "root": ""}
"""Placeholders of what a name may have in front, where it has nothing there."""


@dataclass(frozen=True)
class Op:
    """How the tensors of one rule become one of ours (`forward`), and back (`inverse`, None where there is no way)."""

    forward: Callable[[Sequence[Tensor], Any], Tensor]
    inverse: Callable[[Tensor, Any, int], Sequence[Tensor | None]] | None = None
    """Ours, the spec and the number of sources to the sources; None for one that another rule writes."""


def _same(tensors: Sequence[Tensor], spec: Any) -> Tensor:
    return tensors[0]


identity = Op(_same, lambda tensor, spec, count: [tensor])
# Weights of query, key and value, stacked in that order: the fused projection.
concat_rows = Op(lambda tensors, spec: torch.cat(list(tensors)), lambda tensor, spec, count: tensor.chunk(count))


@dataclass(frozen=True)
class Rule:
    """A row of a name table: source pattern, or patterns read together, to our name; or to None: dropped, and `why`."""

    source: str | tuple[str, ...]
    target: str | None
    op: Op = identity
    why: str = ""
    when: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the spec and the values for which the row holds; else it isn't there."""
    agrees: Callable[[Tensor, Any], bool] | None = None
    """Of a dropped tensor that the model of the spec computes itself: whether it says the same; a fault otherwise."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The source patterns, also where there is only one."""
        return (self.source,) if isinstance(self.source, str) else self.source


@dataclass(frozen=True)
class Mapped:
    """The outcome of `apply`: our state, and what happened to the file's tensors."""

    state: dict[str, Tensor]
    filled: dict[str, tuple[str, ...]]
    """Our names to the file's that each was made of."""
    dropped: dict[str, str] = field(default_factory=dict)


@functools.cache
def pattern(text: str) -> re.Pattern[str]:
    """The regular expression of a rule's name."""
    parts = re.split(r"\{(\w+)\}", text)
    return re.compile(
        "".join(re.escape(p) if n % 2 == 0 else f"(?P<{p}>{PLACEHOLDERS[p]})" for n, p in enumerate(parts))
    )


def matching(rules: Iterable[Rule], name: str) -> list[tuple[Rule, dict[str, str]]]:
    """The rules one of whose sources is `name`, and what their placeholders stand for; a drop counts alone."""
    found = []
    for rule in rules:
        match = next((match for source in rule.sources if (match := pattern(source).fullmatch(name))), None)
        if match:
            found.append((rule, match.groupdict()))
    return found[:1] if found and found[0][0].target is None else [pair for pair in found if pair[0].target]


def apply(
    rules: Sequence[Rule], tensors: Mapping[str, Tensor], spec: Any, expected: Mapping[str, torch.Size], *, origin: str
) -> Mapped:
    """Maps `tensors` by `rules` onto the names and shapes `expected` of the model that `spec` builds.

    Raises CheckpointError, naming `origin` and all missing, unexpected and misshapen tensors at once.
    """
    rules = _holding(rules, spec)
    missing: list[str] = []
    unexpected: list[str] = []
    misshapen: list[str] = []
    state: dict[str, Tensor] = {}
    filled: dict[str, tuple[str, ...]] = {}
    dropped: dict[str, str] = {}
    for name in tensors:
        matches = matching(rules, name)
        if not matches:
            unexpected.append(name)
        for rule, bound in matches:
            if rule.target is None:
                if rule.agrees is None or rule.agrees(tensors[name], spec):
                    dropped[name] = rule.why
                else:
                    unexpected.append(f"{name} (not as the model computes it)")
                continue
            target = rule.target.format(**bound)
            sources = tuple(source.format(**bound) for source in rule.sources)
            if target not in expected:
                unexpected.append(name)
                continue
            if name != next(source for source in sources if source in tensors):
                continue  # the rule was applied at its first source
            if target in filled:
                unexpected.append(f"{name} (says the same as {' + '.join(filled[target])})")
                continue
            filled[target] = sources
            absent = [source for source in sources if source not in tensors]
            if absent:
                missing += absent
                continue
            shapes = ", ".join(str(list(tensors[source].shape)) for source in sources)
            needs = f"{' + '.join(sources)} {shapes}, the model needs {list(expected[target])}"
            try:
                state[target] = rule.op.forward([tensors[source] for source in sources], spec)
            except (RuntimeError, ValueError, IndexError):
                misshapen.append(needs)
                continue
            if state[target].shape != expected[target]:
                misshapen.append(needs if target == name else f"{needs} for {target}")
    missing += [spelt for name in expected if name not in filled for spelt in _spellings(rules, name, tensors)]
    faults = [
        f"{len(names)} {word}: {list_faults(names)}"
        for word, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise CheckpointError(f"{origin}: the weights don't fit the model, nothing was loaded; " + "; ".join(faults))
    return Mapped(state, filled, dropped)


def invert(
    rules: Sequence[Rule], state: Mapping[str, Tensor], spec: Any, *, bound: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """Our `state` under the names of the table; `bound` fills placeholders that our names don't have.

    Raises CheckpointError where the table has no row, or no way back, for one of our tensors.
    """
    rules = _holding(rules, spec)
    tensors: dict[str, Tensor] = {}
    lost: list[str] = []
    for name, tensor in state.items():
        for rule in rules:
            found = rule.target is not None and pattern(rule.target).fullmatch(name)
            if found and rule.op.inverse is not None:
                values = {**(bound or {}), **found.groupdict()}
                parts = rule.op.inverse(tensor, spec, len(rule.sources))
                named = zip(rule.sources, parts, strict=True)
                for source, part in ((s.format(**values), t.contiguous()) for s, t in named if t is not None):
                    # Rows of one tensor that fill several of ours, in the order of the module.
                    tensors[source] = torch.cat([tensors[source], part]) if source in tensors else part
                break
        else:
            lost.append(name)
    if lost:
        raise CheckpointError(f"this layout has no place for {len(lost)} of the model's tensors: {list_faults(lost)}")
    return tensors


def unstack(tensors: Mapping[str, Tensor], stacked: str, apart: str) -> dict[str, Tensor]:
    """`tensors`, those whose names match `stacked` cut along their first axis: piece i is called `apart` with its i."""
    cut: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = pattern(stacked).fullmatch(name)
        if match and tensor.ndim:
            cut |= {apart.format(i=i, **match.groupdict()): piece for i, piece in enumerate(tensor.unbind())}
        else:
            cut[name] = tensor
    return cut


def _holding(rules: Iterable[Rule], spec: Any) -> list[Rule]:
    return [rule for rule in rules if all(getattr(spec, name) == value for name, value in rule.when.items())]


def _spellings(rules: Sequence[Rule], target: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """Our missing name in the file's own words, where a rule has them."""
    for rule in rules:
        if rule.target is not None and (found := pattern(rule.target).fullmatch(target)):
            fronts = (bound for name in tensors for _, bound in matching(rules, name) if bound.keys() & FRONTS.keys())
            values = {**FRONTS, **next(fronts, {}), **found.groupdict()}
            return [source.format(**values) for source in rule.sources]
    return [target]
