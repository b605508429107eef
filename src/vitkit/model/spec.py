"""Frozen, validated, JSON-able descriptions of models: what `build` needs to make the module, and nothing more.

The axes and sizes are those of "An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021, arXiv:2010.11929), table 1
and section 3.1, in the field's terms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from vitkit.errors import ConfigError, list_faults, nearest

__all__ = ["AnySpec", "ModelSpec", "VitFields", "VitSpec"]

# A side alone stands for a square when a spec is made or read; every instance holds (height, width).
if TYPE_CHECKING:
    Size: TypeAlias = tuple[int, int]
else:
    Size = int | tuple[int, int]

# Other libraries' words for what a VitSpec says. They are errors that name ours, never aliases: one word per thing.
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

Position = Literal["learned", "sincos", "relative", "relative_shared", "rope", "none"]
QkvBias = Literal["qkv", "qv", "none"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"]
Pool = Literal["cls", "mean", "cls_mean", "attention"]
FinalNorm = Literal["tokens", "pooled"]
Resample = Literal[
    "bicubic",
    "bicubic_antialias",
    "bicubic_align_corners",
    "bicubic_offset",
    "bilinear",
    "bilinear_align_corners",
    "nearest",
    "geometric",
]


class VitFields(TypedDict, total=False):
    """The fields of VitSpec, as keywords for VisionTransformer. A test holds the two to each other."""

    image_size: int | tuple[int, int]
    patch_size: int
    in_channels: int
    num_classes: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    class_token: bool
    distillation_token: bool
    num_registers: int
    position: Position
    prefix_positions: bool
    position_resample: Resample
    pre_norm: bool
    qkv_bias: QkvBias
    layer_scale: float
    gated_mlp: bool
    activation: Activation
    norm_eps: float
    final_norm: FinalNorm
    pool: Pool
    pre_logits_dim: int
    dropout: float
    attention_dropout: float
    drop_path: float


# Far above any model: what a damaged file asks for is refused before it is built.
MOST_ANY, MOST = 1_000_000, {"depth": 1_000}


@dataclass(frozen=True, kw_only=True)
class VitSpec:
    """A Vision Transformer encoder with its head. Raises ConfigError listing every fault at once."""

    image_size: Size = field(
        default=(224, 224), metadata={"help": "trained size in pixels, one number or (height, width)"}
    )
    patch_size: int = field(default=16, metadata={"help": "side of the square patches in pixels"})
    in_channels: int = field(default=3, metadata={"help": "channels of a picture: 1 grey, 3 RGB, or more"})
    num_classes: int = field(default=1000, metadata={"help": "outputs of the head; 0 = no head, the model embeds"})
    embed_dim: int = field(default=768, metadata={"help": "width D of every token"})
    depth: int = field(default=12, metadata={"help": "number of encoder blocks"})
    num_heads: int = field(default=12, metadata={"help": "attention heads; divides embed_dim"})
    mlp_dim: int = field(default=3072, metadata={"help": "hidden width of each block's MLP"})
    class_token: bool = field(default=True, metadata={"help": "a learned token in front of the patches"})
    distillation_token: bool = field(default=False, metadata={"help": "a second one, with a head of its own (DeiT)"})
    num_registers: int = field(default=0, metadata={"help": "learned tokens between these and the patches"})
    position: Position = field(
        default="learned",
        metadata={
            "help": "added to the tokens (learned, sincos), to the attention (relative: a table per block, or shared), "
            "or a turn of queries and keys (rope)"
        },
    )
    prefix_positions: bool = field(default=True, metadata={"help": "learned positions of the prefix tokens too"})
    position_resample: Resample = field(
        default="bicubic_antialias", metadata={"help": "how learned positions follow another grid of patches"}
    )
    pre_norm: bool = field(
        default=False, metadata={"help": "a LayerNorm before the first block, and no bias in the patch embedding"}
    )
    qkv_bias: QkvBias = field(default="qkv", metadata={"help": "which of query, key and value have a bias"})
    layer_scale: float = field(default=0.0, metadata={"help": "first factor on each block's branches; 0 = none"})
    gated_mlp: bool = field(
        default=False, metadata={"help": "two hidden projections, one of them activated, multiplied"}
    )
    activation: Activation = field(default="gelu", metadata={"help": "non-linearity of the MLP; gelu is exact (erf)"})
    norm_eps: float = field(default=1e-6, metadata={"help": "epsilon of every LayerNorm"})
    final_norm: FinalNorm = field(default="tokens", metadata={"help": "last LayerNorm on all tokens, or after pooling"})
    pool: Pool = field(
        default="cls",
        metadata={"help": "what the head reads: class token, mean of patch tokens, both, or a learned query's answer"},
    )
    pre_logits_dim: int = field(
        default=0, metadata={"help": "hidden width (with tanh) of the paper's pre-training head; 0 = linear head"}
    )
    dropout: float = field(default=0.0, metadata={"help": "after the positions, attention projection and MLP layers"})
    attention_dropout: float = field(default=0.0, metadata={"help": "on the attention weights"})
    drop_path: float = field(default=0.0, metadata={"help": "stochastic depth of the last block, rising from 0"})

    def __post_init__(self) -> None:
        """Makes image_size a pair and checks everything."""
        faults: list[str] = []
        object.__setattr__(self, "image_size", _pair(self.image_size, faults))
        for name, least in (
            ("patch_size", 1),
            ("in_channels", 1),
            ("num_classes", 0),
            ("embed_dim", 1),
            ("depth", 1),
            ("num_heads", 1),
            ("mlp_dim", 1),
            ("pre_logits_dim", 0),
            ("num_registers", 0),
        ):
            value = getattr(self, name)
            most = MOST.get(name, MOST_ANY)
            if type(value) is not int or not least <= value <= most:
                faults.append(f"{name} is {value!r}, not a whole number from {least} to {most:,}")
        for name in ("dropout", "attention_dropout", "drop_path"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < 1:
                faults.append(f"{name} is {value!r}, not a number from 0 to below 1")
        if not isinstance(self.layer_scale, int | float) or not 0 <= self.layer_scale <= 1:
            faults.append(f"layer_scale is {self.layer_scale!r}, not a number from 0 to 1")
        if not isinstance(self.norm_eps, int | float) or not 0 < self.norm_eps < 1:
            faults.append(f"norm_eps is {self.norm_eps!r}, not a number between 0 and 1")
        for name, options in CHOICES.items():
            if getattr(self, name) not in options:
                faults.append(f"{name} is {getattr(self, name)!r}, allowed: {', '.join(map(repr, options))}")
        for name in ("class_token", "distillation_token", "prefix_positions", "pre_norm", "gated_mlp"):
            if not isinstance(getattr(self, name), bool):
                faults.append(f"{name} is {getattr(self, name)!r}, not true or false")
        if not faults:
            faults += self._contradictions()
        if faults:
            raise ConfigError(list_faults(faults))

    def _contradictions(self) -> Iterable[str]:
        height, width = self.image_size
        if height % self.patch_size or width % self.patch_size:
            yield f"image_size {height}x{width} is not a multiple of patch_size {self.patch_size}"
        if self.embed_dim % self.num_heads:
            yield f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}"
        if self.pool in ("cls", "cls_mean") and not self.class_token:
            yield f"pool {self.pool!r} needs class_token; use pool='mean' without one"
        if self.distillation_token and (self.pool != "cls" or self.final_norm != "tokens" or self.pre_logits_dim):
            yield "distillation_token has a head of its own: it needs pool 'cls', final_norm 'tokens', pre_logits_dim 0"
        if self.final_norm == "pooled" and self.pool in ("cls_mean", "attention"):
            yield f"final_norm 'pooled' is for pool 'cls' or 'mean', not {self.pool!r}"
        if self.position == "sincos" and self.embed_dim % 4:
            yield f"position 'sincos' needs an embed_dim that is a multiple of 4, not {self.embed_dim}"
        if self.position == "rope" and self.embed_dim // self.num_heads % 4:
            yield f"position 'rope' needs heads of a multiple of 4 wide, not {self.embed_dim // self.num_heads}"
        if self.position.startswith("relative") and (not self.class_token or self.num_prefix_tokens != 1):
            yield f"position {self.position!r} knows one prefix token, the class token"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns (h, w) of patches at the trained size."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

    @property
    def num_blocks(self) -> int:
        """Encoder blocks in all."""
        return self.depth

    @property
    def num_prefix_tokens(self) -> int:
        """P: tokens in front of the patch tokens, in the order class, distillation, registers."""
        return int(self.class_token) + int(self.distillation_token) + self.num_registers

    @property
    def num_positions(self) -> int:
        """Rows of the table of learned positions."""
        return self.grid[0] * self.grid[1] + self.num_prefix_tokens * self.prefix_positions

    @property
    def feature_dim(self) -> int:
        """Width of what the last linear layer reads; of what the two heads read, together."""
        if self.pool == "cls_mean" and not self.pre_logits_dim:
            return 2 * self.embed_dim
        return self.pre_logits_dim or self.embed_dim * (1 + self.distillation_token)

    def num_parameters(self) -> int:
        """Learned numbers of the module this spec builds, in closed form (a test compares it with the module)."""
        D, M, A = self.embed_dim, self.mlp_dim, self.num_heads
        h, w = self.grid
        patch = self.in_channels * self.patch_size**2 * D + (2 * D if self.pre_norm else D)
        positions = self.num_positions * D if self.position == "learned" else 0
        table = A * ((2 * h - 1) * (2 * w - 1) + 3)
        tables = {"relative": self.depth * table, "relative_shared": table}.get(self.position, 0)
        attention = 4 * D * D + D + {"qkv": 3 * D, "qv": 2 * D, "none": 0}[self.qkv_bias]
        mlp = (1 + self.gated_mlp) * (D + 1) * M + (M + 1) * D
        block = 2 * 2 * D + attention + mlp + (2 * D if self.layer_scale else 0)
        pool = D + 4 * (D + 1) * D + 2 * D + (D + 1) * M + (M + 1) * D if self.pool == "attention" else 0
        pre_logits = ((2 if self.pool == "cls_mean" else 1) * D + 1) * self.pre_logits_dim
        head = (self.feature_dim + 1 + self.distillation_token) * self.num_classes
        prefix = self.num_prefix_tokens * D
        return patch + prefix + positions + tables + self.depth * block + 2 * D + pool + pre_logits + head

    def macs(self, image_size: tuple[int, int] | None = None) -> int:
        """Multiply-accumulates of one picture's forward pass: matrix products and attention, nothing element-wise."""
        spec = self if image_size is None else dataclasses.replace(self, image_size=image_size)
        h, w = spec.grid
        D, M, patches = self.embed_dim, self.mlp_dim, h * w
        tokens = patches + self.num_prefix_tokens
        block = tokens * (4 * D * D + (2 + self.gated_mlp) * D * M) + 2 * tokens * tokens * D
        pool = tokens * 2 * D * D + 2 * D * D + 2 * tokens * D + 2 * D * M if self.pool == "attention" else 0
        head = (2 if self.pool == "cls_mean" else 1) * D * self.pre_logits_dim + self.feature_dim * self.num_classes
        return patches * self.in_channels * self.patch_size**2 * D + self.depth * block + pool + head


CHOICES: Mapping[str, tuple[str, ...]] = {
    "position": Position.__args__,  # type: ignore[attr-defined]
    "position_resample": Resample.__args__,  # type: ignore[attr-defined]
    "qkv_bias": QkvBias.__args__,  # type: ignore[attr-defined]
    "activation": Activation.__args__,  # type: ignore[attr-defined]
    "final_norm": FinalNorm.__args__,  # type: ignore[attr-defined]
    "pool": Pool.__args__,  # type: ignore[attr-defined]
}


AnySpec: TypeAlias = VitSpec
"""The spec of any image model."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Any model vitkit can build: the architecture's name in `build.BUILDERS` and its spec, as files store it."""

    arch: Literal["vit"]
    spec: AnySpec
    format: Literal[1] = 1


def vit_spec(fields: Mapping[str, Any]) -> VitSpec:
    """A VitSpec from keywords; a foreign or misspelt keyword is a ConfigError that names ours."""
    ours = {entry.name for entry in dataclasses.fields(VitSpec)}
    faults = []
    for name in fields:
        if name in FOREIGN_WORDS:
            faults.append(f"{name!r} is called {FOREIGN_WORDS[name]} here")
        elif name not in ours:
            faults.append(f"VisionTransformer has no keyword {name!r}{nearest(name, ours)}")
    if faults:
        raise ConfigError(list_faults(faults))
    return VitSpec(**fields)


def _pair(value: object, faults: list[str]) -> tuple[int, ...]:
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, tuple | list) else ()
    if len(pair) != 2 or not all(type(side) is int and 0 < side <= MOST_ANY for side in pair):
        faults.append(f"image_size is {value!r}, not a positive whole number or a pair (height, width)")
    return pair
