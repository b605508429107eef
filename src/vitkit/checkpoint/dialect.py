"""How other libraries write a model down: the names of its tensors (Layout) and its configuration (Dialect)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vitkit.checkpoint.namemap import Rule, unstack
from vitkit.errors import CheckpointError, ConfigError, list_faults
from vitkit.model.spec import AnySpec, FinalNorm, Resample

__all__ = ["Dialect", "Family", "Layout", "Outputs", "Words"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A way to name the tensors of one architecture."""

    arch: str
    """The architecture (`model.build.BUILDERS`) whose tensors the rules fill."""
    marks: tuple[str, ...]
    """Patterns that this layout has and no other: a file of this layout matches all of them."""
    without: tuple[str, ...] = ()
    """Patterns that a file of this layout doesn't match."""
    rules: tuple[Rule, ...]
    implies: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the spec that come with the layout, where the source has no configuration of its own."""
    bound: Mapping[str, str] = field(default_factory=dict)
    """Placeholders our names don't have, as this layout is written."""
    stacked: tuple[str, str] | None = None
    """Pattern of the names of tensors that hold all blocks along their first axis, and the name of each block's."""

    def unstacked(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A file's tensors under the names that the rules have."""
        return unstack(tensors, *self.stacked) if self.stacked else tensors


@dataclass(frozen=True)
class Outputs:
    """What only the tensors say, as the class that reads a file decides: 0 and False where the file has none."""

    num_classes: int
    pre_logits_dim: int
    distillation_head: bool = False
    final_norm: FinalNorm = "none"


class Words:
    """A foreign configuration, read strictly: each value that isn't supported is noted, all are named together."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.faults: list[str] = []
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, or what its absence means."""
        self.read.add(key)
        return self.config.get(key, default)

    def part(self, key: str) -> Words:
        """The configuration under `key`, empty where it is absent; its faults are noted here."""
        inner = Words(self.get(key) or {})
        inner.faults = self.faults
        return inner

    def one_of(self, key: str, table: Mapping[Any, Any], default: Any = None) -> Any:
        """Our word for the value of `key`."""
        value = self.get(key, default)
        if value not in table:
            self.faults.append(f"{key} {value!r} isn't supported; supported: {', '.join(map(str, table))}")
            return next(iter(table.values()))
        return table[value]

    def only(self, key: str, *allowed: Any) -> None:
        """Notes a fault unless `key` is absent or one of `allowed`."""
        value = self.get(key, allowed[0])
        if value not in allowed:
            self.faults.append(f"{key} {value!r} isn't supported; supported: {', '.join(map(str, allowed))}")

    def nothing_else(self) -> None:
        """Notes a fault for every key that wasn't read."""
        self.faults += [f"{key!r} isn't supported" for key in self.config if key not in self.read]

    def size(self, key: str, default: int) -> int | tuple[int, ...]:
        """A side, or a pair (height, width)."""
        value = self.get(key, default)
        return value if isinstance(value, int) else tuple(value)

    def square(self, key: str, default: int) -> int:
        """A side, also where it is written as a pair of equal ones."""
        value = self.get(key, default)
        if isinstance(value, int):
            return value
        if len(set(value)) != 1:
            self.faults.append(f"{key} {value} isn't supported; patches must be square")
        return int(value[0])


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one class of another library is configured, and which of our specs it can hold."""

    name: str
    """As people call it: "transformers' ViT"."""
    kind: str
    """transformers' model_type, or the timm class."""
    arch: str = "vit"
    classes: tuple[str, str] = ("", "")
    """The library's class with a head and without."""
    layouts: tuple[str, str]
    """The layouts it is written in, with a head and without."""
    classifier: str | tuple[str, ...] = "head"
    """timm's name of the head or the heads."""
    first_conv: str = "patch_embed.proj"
    """timm's name of the convolution that reads the pixels."""
    holds: Mapping[str, tuple[Any, ...]]
    """The spec's fields in which it isn't free, and the values it knows."""
    refuses: Callable[[Any], Iterable[str]] = lambda spec: ()
    """Other reasons why it can't hold a spec."""
    fields: Callable[[Words, Outputs], dict[str, Any]]
    """The spec's fields from its configuration."""
    config: Callable[[Any], dict[str, Any]]
    """Its configuration from a spec that it can hold."""

    def spec_fields(self, config: Mapping[str, Any], outputs: Outputs, *, origin: str) -> dict[str, Any]:
        """The fields of the spec that `config` describes; a CheckpointError names all that isn't supported."""
        words = Words(config)
        try:
            found = self.fields(words, outputs)
        except ConfigError as error:
            raise CheckpointError(f"{origin}: {error}") from None
        if words.faults:
            raise CheckpointError(f"{origin}: {list_faults(words.faults)}")
        return found

    def unheld(self, spec: AnySpec) -> list[str]:
        """The fields of a `spec` of this architecture whose values this class doesn't know."""
        return [
            f"{name} is {getattr(spec, name)!r}, it knows {' and '.join(map(repr, known))}"
            for name, known in self.holds.items()
            if getattr(spec, name) not in known
        ]

    def faults(self, spec: AnySpec) -> list[str]:
        """Why this class can't hold a model of `spec`, which is of this architecture; empty where it can."""
        return [*self.unheld(spec), *self.refuses(spec)]


@dataclass(frozen=True, kw_only=True)
class Family:
    """The layouts of one family of models, and the dialects that describe it."""

    layouts: Mapping[str, Layout]
    transformers: tuple[Dialect, ...] = ()
    timm: tuple[Dialect, ...] = ()


def plain(position_resample: Resample) -> Mapping[str, Any]:
    """What a layout implies whose only peculiarity is what its library does to positions on another grid."""
    return {"position_resample": position_resample}
