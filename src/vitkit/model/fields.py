"""What the specs of all architectures share: pictures and classes, fields checked by type, other libraries' words."""

from __future__ import annotations

import dataclasses
import functools
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias, TypedDict, TypeVar

from vitkit.errors import ConfigError, list_faults, nearest

__all__ = [
    "EPSILON",
    "FACTOR",
    "FOREIGN_WORDS",
    "SHARE",
    "Activation",
    "ImageFields",
    "ImageSpec",
    "Size",
    "Within",
    "field_faults",
    "from_keywords",
]

# A side alone stands for a square when a spec is made or read; every instance holds (height, width).
if TYPE_CHECKING:
    Size: TypeAlias = tuple[int, int]
else:
    Size = int | tuple[int, int]

# Other libraries' words for what our specs say. They are errors that name ours, never aliases: one word per thing.
FOREIGN_WORDS: Mapping[str, str] = {
    "img_size": "image_size",
    "input_size": "image_size",
    "patch": "patch_size",
    "in_chans": "in_channels",
    "channels": "in_channels",
    "num_channels": "in_channels",
    "n_classes": "num_classes",
    "num_labels": "num_classes",
    "dim": "embed_dim",
    "d_model": "embed_dim",
    "hidden_size": "embed_dim",
    "hidden_dim": "embed_dim",
    "width": "embed_dim",
    "num_layers": "depth",
    "n_layers": "depth",
    "layers": "depth",
    "num_hidden_layers": "depth",
    "heads": "num_heads",
    "n_heads": "num_heads",
    "n_head": "num_heads",
    "num_attention_heads": "num_heads",
    "d_ff": "mlp_dim",
    "mlp_ratio": "mlp_dim (embed_dim times the ratio)",
    "intermediate_size": "mlp_dim",
    "global_pool": "pool",
    "drop_rate": "dropout",
    "hidden_dropout_prob": "dropout",
    "emb_dropout": "dropout",
    "attn_drop_rate": "attention_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "drop_path_rate": "drop_path",
    "stochastic_depth": "drop_path",
    "layer_norm_eps": "norm_eps",
    "eps": "norm_eps",
    "act_layer": "activation",
    "hidden_act": "activation",
    "pos_embed": "position",
    "representation_size": "pre_logits_dim",
    "reg_tokens": "num_registers",
    "num_register_tokens": "num_registers",
    "init_values": "layer_scale",
    "layerscale_value": "layer_scale",
    "layer_scale_init_value": "layer_scale",
    "use_swiglu_ffn": "gated_mlp",
    "no_embed_class": "prefix_positions (the opposite of it)",
}

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"]

# Far above any model: what a damaged file asks for is refused before it is built.
MOST = 1_000_000


class Within(NamedTuple):
    """The numbers that a field allows, in its metadata."""

    words: str
    allows: Callable[[float], bool]


SHARE = Within("a number from 0 to below 1", lambda value: 0 <= value < 1)
FACTOR = Within("a number from 0 to 1", lambda value: 0 <= value <= 1)
EPSILON = Within("a number between 0 and 1", lambda value: 0 < value < 1)


class ImageFields(TypedDict, total=False):
    """The fields of ImageSpec, as keywords for its module."""

    image_size: int | tuple[int, int]
    in_channels: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class ImageSpec(ABC):
    """Base of every image model's spec. Raises ConfigError listing every fault at once.

    The type of a field is its check; metadata narrow it: "least" (1) and "most" of whole numbers, "within" of others,
    "empty" where a row of numbers may be.
    "policy" marks what libraries do differently at other sizes than the trained one, in words before the value.
    """

    title: ClassVar[str]
    """What people call the architecture."""
    any_size: ClassVar[bool] = False
    """Whether no part of the model depends on image_size, which is then the size that pictures are prepared for."""
    image_size: Size = field(
        default=(224, 224), metadata={"help": "trained size in pixels, one number or (height, width)"}
    )
    in_channels: int = field(default=3, metadata={"help": "channels of a picture: 1 grey, 3 RGB, or more"})
    num_classes: int = field(default=1000, metadata={"help": "outputs of the head; 0 = no head", "least": 0})

    def __post_init__(self) -> None:
        """Makes a pair of image_size and tuples of lists, and checks everything."""
        for name, value in [(entry.name, getattr(self, entry.name)) for entry in dataclasses.fields(self)]:
            if name == "image_size" and isinstance(value, int):
                object.__setattr__(self, name, (value, value))
            elif isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        faults = field_faults(self) or list(self._contradictions())
        if faults:
            raise ConfigError(list_faults(faults))

    def _contradictions(self) -> Iterable[str]:
        """What is wrong with fields that are right by themselves."""
        return ()

    @property
    def has_text(self) -> bool:
        """Whether there is a text tower."""
        return False

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Rows and columns (h, w) of the patch tokens that come out at the trained size."""

    @property
    @abstractmethod
    def num_blocks(self) -> int:
        """Blocks in all."""

    @property
    def num_prefix_tokens(self) -> int:
        """P: tokens in front of the patch tokens."""
        return 0

    @property
    @abstractmethod
    def feature_dim(self) -> int:
        """Width of what the last linear layer reads."""

    @property
    def policies(self) -> Mapping[str, str]:
        """The fields marked as policies, and their values."""
        return {
            entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self) if "policy" in entry.metadata
        }

    @abstractmethod
    def num_parameters(self) -> int:
        """Learned numbers of the module this spec builds, in closed form."""

    @abstractmethod
    def macs(self, image_size: tuple[int, int] | None = None) -> int:
        """Multiply-accumulates of one picture's forward pass: matrix products and attention, nothing element-wise."""

    @abstractmethod
    def facts(self) -> Mapping[str, str]:
        """What to tell people, in this order: "picture" and "encoder", then what the architecture leaves open."""


def field_faults(spec: Any) -> list[str]:
    """What is wrong with each field of a spec by itself."""
    hints = _hints(type(spec))  # type: ignore[arg-type]
    checks = ((entry.name, getattr(spec, entry.name), entry.metadata) for entry in dataclasses.fields(spec))
    found = ((name, value, _allowed(hints[name], value, metadata)) for name, value, metadata in checks)
    return [f"{name} is {value!r}, {allowed}" for name, value, allowed in found if allowed]


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _allowed(hint: Any, value: Any, metadata: Mapping[str, Any]) -> str:
    """What a field allows, where `value` is something else; else nothing."""
    least, most = metadata.get("least", 1), metadata.get("most", MOST)

    def whole(number: object) -> bool:
        return type(number) is int and least <= number <= most

    if hint is bool:
        return "" if isinstance(value, bool) else "not true or false"
    if hint is int:
        return "" if whole(value) else f"not a whole number from {least} to {most:,}"
    if hint is float:
        within: Within = metadata["within"]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if number and within.allows(value) else f"not {within.words}"
    if typing.get_origin(hint) is Literal:
        options = typing.get_args(hint)
        known = any(type(value) is type(option) and value == option for option in options)
        return "" if known else f"allowed: {', '.join(map(repr, options))}"
    spec = next((kind.__name__ for kind in typing.get_args(hint) if hasattr(kind, "__dataclass_fields__")), None)
    if spec:  # which has checked itself
        return "" if isinstance(value, hint) else f"not a {spec}"
    if value is None and type(None) in typing.get_args(hint):
        return ""
    several = isinstance(value, tuple) and (bool(value) or "empty" in metadata) and all(map(whole, value))
    if hint == Size:
        pair = several and len(value) == 2
        return "" if pair else "not a positive whole number or a pair (height, width)"
    return "" if several else f"not whole numbers from {least} to {most:,}"


S = TypeVar("S")


def from_keywords(kind: type[S], fields: Mapping[str, Any], *, owner: str) -> S:
    """A spec from the keywords of its module `owner`; a foreign or misspelt one is a ConfigError that names ours."""
    ours = {entry.name for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    faults = []
    for name in (name for name in fields if name not in ours):
        if FOREIGN_WORDS.get(name, "").partition(" ")[0] in ours:
            faults.append(f"{name!r} is called {FOREIGN_WORDS[name]} here")
        else:
            faults.append(f"{owner} has no keyword {name!r}{nearest(name, ours)}")
    if faults:
        raise ConfigError(list_faults(faults))
    return kind(**fields)
