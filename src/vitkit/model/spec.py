"""Frozen, validated, JSON-able descriptions of models: what `build` needs to make the module, and nothing more.

The axes and sizes are those of "An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021, arXiv:2010.11929), table 1
and section 3.1, in the field's terms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from vitkit.errors import ConfigError
from vitkit.model.fields import EPSILON, FACTOR, SHARE, Activation, ImageFields, ImageSpec
from vitkit.model.resnet_spec import ResNetSpec
from vitkit.model.stem_spec import Counts, StemShape, plain_stem, resnet_stem
from vitkit.model.swin_spec import SwinSpec
from vitkit.model.text_spec import TextSpec

__all__ = [
    "SPECS",
    "AnySpec",
    "ClipFields",
    "ClipSpec",
    "FinalNorm",
    "MaeFields",
    "MaeSpec",
    "ModelSpec",
    "Resample",
    "VitFields",
    "VitSpec",
]

Position = Literal["learned", "sincos", "relative", "relative_shared", "rope", "none"]
QkvBias = Literal["qkv", "qv", "none"]
Pool = Literal["cls", "mean", "cls_mean", "attention"]
FinalNorm = Literal["tokens", "pooled", "none"]
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


class VitFields(ImageFields, total=False):
    """The fields of VitSpec, as keywords for VisionTransformer. A test holds the two to each other."""

    patch_size: int
    ragged_edges: bool
    stem_depths: Counts
    stem_channels: Counts
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


@dataclass(frozen=True, kw_only=True)
class VitSpec(ImageSpec):
    """A Vision Transformer encoder with its head. Raises ConfigError listing every fault at once."""

    title: ClassVar[str] = "ViT"
    patch_size: int = field(default=16, metadata={"help": "side of the square patches in pixels"})
    ragged_edges: bool = field(
        default=False,
        metadata={"help": "sizes needn't be multiples of patch_size: what is over at the right and bottom isn't read"},
    )
    stem_depths: Counts = field(
        default=None,
        metadata={"help": "blocks per stage of a ResNet before the patches; empty = its root alone", "empty": True},
    )
    stem_channels: Counts = field(
        default=None,
        metadata={
            "help": "channels of 3x3 convolutions before the patches; one with as many as the one before it keeps the "
            "grid, every other halves it"
        },
    )
    embed_dim: int = field(default=768, metadata={"help": "width D of every token"})
    depth: int = field(default=12, metadata={"help": "number of encoder blocks", "most": 1_000})
    num_heads: int = field(default=12, metadata={"help": "attention heads; divides embed_dim"})
    mlp_dim: int = field(default=3072, metadata={"help": "hidden width of each block's MLP"})
    class_token: bool = field(default=True, metadata={"help": "a learned token in front of the patches"})
    distillation_token: bool = field(default=False, metadata={"help": "a second one, with a head of its own (DeiT)"})
    num_registers: int = field(default=0, metadata={"help": "learned tokens between these and the patches", "least": 0})
    position: Position = field(
        default="learned",
        metadata={
            "help": "added to the tokens (learned, sincos), to the attention (relative: a table per block, or shared), "
            "or a turn of queries and keys (rope)"
        },
    )
    prefix_positions: bool = field(default=True, metadata={"help": "learned positions of the prefix tokens too"})
    position_resample: Resample = field(
        default="bicubic_antialias",
        metadata={"help": "how learned positions follow another grid of patches", "policy": "resamples positions by"},
    )
    pre_norm: bool = field(
        default=False, metadata={"help": "a LayerNorm before the first block, and no bias in the patch embedding"}
    )
    qkv_bias: QkvBias = field(default="qkv", metadata={"help": "which of query, key and value have a bias"})
    layer_scale: float = field(
        default=0.0, metadata={"help": "first factor on each block's branches; 0 = none", "within": FACTOR}
    )
    gated_mlp: bool = field(
        default=False, metadata={"help": "two hidden projections, one of them activated, multiplied"}
    )
    activation: Activation = field(default="gelu", metadata={"help": "non-linearity of the MLP; gelu is exact (erf)"})
    norm_eps: float = field(default=1e-6, metadata={"help": "epsilon of every LayerNorm", "within": EPSILON})
    final_norm: FinalNorm = field(
        default="tokens", metadata={"help": "last LayerNorm on all tokens, after pooling, or none"}
    )
    pool: Pool = field(
        default="cls",
        metadata={"help": "what the head reads: class token, mean of patch tokens, both, or a learned query's answer"},
    )
    pre_logits_dim: int = field(
        default=0,
        metadata={"help": "hidden width (with tanh) of the paper's pre-training head; 0 = linear head", "least": 0},
    )
    dropout: float = field(
        default=0.0, metadata={"help": "after the positions, attention projection and MLP layers", "within": SHARE}
    )
    attention_dropout: float = field(default=0.0, metadata={"help": "on the attention weights", "within": SHARE})
    drop_path: float = field(
        default=0.0, metadata={"help": "stochastic depth of the last block, rising from 0", "within": SHARE}
    )

    def _contradictions(self) -> Iterable[str]:
        height, width = self.image_size
        if min(height, width) < self.patch_size:
            yield f"image_size {height}x{width} is smaller than one patch of {self.patch_size}"
        elif (height % self.patch_size or width % self.patch_size) and not self.ragged_edges:
            yield f"image_size {height}x{width} is not a multiple of patch_size {self.patch_size}"
        if self.patch_size % (stride := self.stem.stride):
            name = "stem_depths" if self.stem_channels is None else "stem_channels"
            yield f"patch_size {self.patch_size} is not a multiple of {stride}, the stride of {name}"
        if self.stem_channels is not None and self.stem_depths is not None:
            yield "there are stem_depths and stem_channels; a model has one stem"
        if self.stem_channels is not None and self.ragged_edges:
            yield "stem_channels read every pixel: no ragged_edges"
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
        if self.position == "learned" and self.position_resample == "geometric":
            yield "position_resample 'geometric' is for tables of relative positions, not for learned ones"

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

    @property
    def stem(self) -> StemShape:
        """What lies between the pixels and the patches."""
        if self.stem_channels is not None:
            return plain_stem(self.stem_channels, self.in_channels)
        return resnet_stem(self.stem_depths, self.in_channels)

    @property
    def _kernel(self) -> int:
        """Numbers that the patch embedding reads for one token."""
        return self.stem.channels * (self.patch_size // self.stem.stride) ** 2

    def num_parameters(self) -> int:
        """Learned numbers of the module this spec builds, in closed form (a test compares it with the module)."""
        D, M, A = self.embed_dim, self.mlp_dim, self.num_heads
        h, w = self.grid
        patch = self._kernel * D + (2 * D if self.pre_norm else D) + self.stem.parameters
        positions = self.num_positions * D if self.position == "learned" else 0
        table = A * ((2 * h - 1) * (2 * w - 1) + 3)
        tables = {"relative": self.depth * table, "relative_shared": table}.get(self.position, 0)
        attention = 4 * D * D + D + {"qkv": 3 * D, "qv": 2 * D, "none": 0}[self.qkv_bias]
        mlp = (1 + self.gated_mlp) * (D + 1) * M + (M + 1) * D
        block = 2 * 2 * D + attention + mlp + (2 * D if self.layer_scale else 0)
        pool = D + 4 * (D + 1) * D + 2 * D + (D + 1) * M + (M + 1) * D if self.pool == "attention" else 0
        pre_logits = ((2 if self.pool == "cls_mean" else 1) * D + 1) * self.pre_logits_dim
        head = (self.feature_dim + 1 + self.distillation_token) * self.num_classes
        prefix, norm = self.num_prefix_tokens * D, 2 * D * (self.final_norm != "none")
        return patch + prefix + positions + tables + self.depth * block + norm + pool + pre_logits + head

    def macs(self, image_size: tuple[int, int] | None = None) -> int:
        """Multiply-accumulates of one picture's forward pass: matrix products and attention, nothing element-wise."""
        spec = self if image_size is None else dataclasses.replace(self, image_size=image_size)
        h, w = spec.grid
        D, M, patches = self.embed_dim, self.mlp_dim, h * w
        tokens = patches + self.num_prefix_tokens
        block = tokens * (4 * D * D + (2 + self.gated_mlp) * D * M) + 2 * tokens * tokens * D
        pool = patches * 2 * D * D + 2 * D * D + 2 * patches * D + 2 * D * M if self.pool == "attention" else 0
        head = (2 if self.pool == "cls_mean" else 1) * D * self.pre_logits_dim + self.feature_dim * self.num_classes
        return self.stem.macs(spec.image_size) + patches * self._kernel * D + self.depth * block + pool + head

    def facts(self) -> Mapping[str, str]:
        """What to tell people."""
        (height, width), (rows, columns) = self.image_size, self.grid
        head = f"{self.num_classes:,} outputs" if self.num_classes else "no head"
        hidden = f", hidden layer of {self.pre_logits_dim} with tanh" if self.pre_logits_dim else ""
        registers = f", {self.num_registers} registers" if self.num_registers else ""
        blocks = "" if self.stem_depths is None else ", ".join(map(str, self.stem_depths)) or "no"
        stem = f" behind a ResNet of {blocks} blocks" if blocks else ""
        if self.stem_channels is not None:
            stem = f" behind convolutions of {', '.join(map(str, self.stem_channels))} channels"
        table = self.position == "learned" or self.position.startswith("relative")
        norm = {"tokens": "last norm on all tokens", "pooled": "last norm on the pooled token", "none": "no last norm"}
        return {
            "picture": f"{self.in_channels} channels, {height}x{width}, patches of {self.patch_size}{stem}, "
            f"grid {rows}x{columns}",
            "encoder": f"width {self.embed_dim}, depth {self.depth}, {self.num_heads} heads, "
            f"{'gated ' if self.gated_mlp else ''}MLP {self.mlp_dim} ({self.activation})",
            "details": f"bias on {self.qkv_bias}, LayerNorm eps {self.norm_eps:g}{registers}",
            "positions": self.position + (f", other sizes by {self.position_resample}" if table else ""),
            "head": f"{head}{hidden}, reads {self.pool}, {norm[self.final_norm]}",
        }


class ClipFields(VitFields, total=False):
    """The fields of ClipSpec, as keywords for Clip. A test holds the two to each other."""

    projection_dim: int
    text: TextSpec | None
    logit_bias: bool
    unit_head: bool


@dataclass(frozen=True, kw_only=True)
class ClipSpec(VitSpec):
    """An image tower, said as a VitSpec, whose embeddings share a space with those of a text tower.

    Radford et al., 2021, arXiv:2103.00020, section 2.4. Raises ConfigError listing every fault at once.
    """

    title: ClassVar[str] = "CLIP"
    num_classes: int = field(default=0, metadata={"help": "outputs of a head on the embedding; 0 = none", "least": 0})
    projection_dim: int = field(
        default=0,
        metadata={"help": "width of the shared space, by a linear layer without bias; 0 = embed_dim", "least": 0},
    )
    text: TextSpec | None = field(default=None, metadata={"help": "the text tower; none = the image half alone"})
    logit_bias: bool = field(default=False, metadata={"help": "similarities have a bias, as SigLIP's"})
    unit_head: bool = field(
        default=False, metadata={"help": "a head reads embeddings scaled to length 1, as similarities do"}
    )

    def _contradictions(self) -> Iterable[str]:
        yield from super()._contradictions()
        if self.distillation_token or self.pre_logits_dim or self.pool == "cls_mean":
            yield "projection_dim starts from one pooled token: no distillation_token, pre_logits_dim, pool 'cls_mean'"
        if self.logit_bias and self.text is None:
            yield "logit_bias is for similarities with texts; it needs a text tower"

    @property
    def has_text(self) -> bool:
        """Whether there is a text tower: not in the image half alone."""
        return self.text is not None

    @property
    def feature_dim(self) -> int:
        """E: width of the shared space, which a head reads as well."""
        return self.projection_dim or super().feature_dim

    def num_parameters(self) -> int:
        """Learned numbers of the module this spec builds, in closed form (a test compares it with the module)."""
        text = 0 if self.text is None else self.text.num_parameters(self.feature_dim) + 1 + self.logit_bias
        return super().num_parameters() + self.embed_dim * self.projection_dim + text

    def macs(self, image_size: tuple[int, int] | None = None) -> int:
        """Of one picture's embedding, as VitSpec's: texts are embedded once for many pictures."""
        return super().macs(image_size) + self.embed_dim * self.projection_dim

    def facts(self) -> Mapping[str, str]:
        """What to tell people."""
        text = self.text
        said = "none, the image half alone"
        if text is not None:
            said = f"width {text.embed_dim}, depth {text.depth}, {text.num_heads} heads, MLP {text.mlp_dim}"
            said += f", up to {text.context_length} tokens"
        return {**super().facts(), "shared space": f"{self.feature_dim} wide", "text": said}


class MaeFields(VitFields, total=False):
    """The fields of MaeSpec, as keywords for MaskedAutoencoder. A test holds the two to each other."""

    decoder_dim: int
    decoder_depth: int
    decoder_heads: int
    decoder_mlp_dim: int
    norm_pix_loss: bool


@dataclass(frozen=True, kw_only=True)
class MaeSpec(VitSpec):
    """A masked autoencoder: an encoder, said as a VitSpec, and a decoder to pixels, narrower and shallower.

    He et al., 2022, arXiv:2111.06377, section 3 and table 1. Raises ConfigError listing every fault at once.
    """

    title: ClassVar[str] = "MAE"
    num_classes: int = field(default=0, metadata={"help": "outputs of a head on the encoder; 0 = none", "least": 0})
    decoder_dim: int = field(default=512, metadata={"help": "width of the decoder's tokens"})
    decoder_depth: int = field(default=8, metadata={"help": "number of decoder blocks", "most": 1_000})
    decoder_heads: int = field(default=16, metadata={"help": "the decoder's attention heads; divides decoder_dim"})
    decoder_mlp_dim: int = field(default=2048, metadata={"help": "hidden width of each decoder block's MLP"})
    norm_pix_loss: bool = field(
        default=False, metadata={"help": "predicts each patch's pixels normalised by their own mean and variance"}
    )

    def _contradictions(self) -> Iterable[str]:
        yield from super()._contradictions()
        if self.ragged_edges:
            yield "a masked autoencoder paints every pixel: no ragged_edges"
        if not self.class_token or self.num_prefix_tokens > 1:
            yield "a masked autoencoder has one prefix token, the class token"
        if self.position != "learned" or not self.prefix_positions:
            yield "a masked autoencoder has a table of positions, the class token's too: position 'learned'"
        if self.decoder_dim % self.decoder_heads:
            yield f"decoder_dim {self.decoder_dim} is not a multiple of decoder_heads {self.decoder_heads}"
        for name, width in (("embed_dim", self.embed_dim), ("decoder_dim", self.decoder_dim)):
            if width % 4:
                yield f"{name} {width} is not a multiple of 4, which the table of sines and cosines needs"

    @property
    def decoder(self) -> VitSpec:
        """The decoder's blocks, as those of an encoder."""
        return VitSpec(
            image_size=self.image_size,
            patch_size=self.patch_size,
            in_channels=self.in_channels,
            num_classes=0,
            embed_dim=self.decoder_dim,
            depth=self.decoder_depth,
            num_heads=self.decoder_heads,
            mlp_dim=self.decoder_mlp_dim,
            qkv_bias=self.qkv_bias,
            layer_scale=self.layer_scale,
            gated_mlp=self.gated_mlp,
            activation=self.activation,
            norm_eps=self.norm_eps,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )

    def num_parameters(self) -> int:
        """Numbers of the module this spec builds, in closed form (a test compares it with the module)."""
        # The decoder is an encoder of as many tokens, its mask token in the class token's place; instead of projecting
        # patches to its tokens, it projects the encoder's tokens to them, and them to patches.
        pixels = self.in_channels * self.patch_size**2
        return super().num_parameters() + self.decoder.num_parameters() + self.embed_dim * self.decoder_dim + pixels

    def facts(self) -> Mapping[str, str]:
        """What to tell people."""
        target = "each patch's normalised pixels" if self.norm_pix_loss else "pixels"
        said = f"width {self.decoder_dim}, depth {self.decoder_depth}, {self.decoder_heads} heads, "
        return {**super().facts(), "decoder": f"{said}MLP {self.decoder_mlp_dim}, predicts {target}"}


AnySpec: TypeAlias = VitSpec | SwinSpec | ResNetSpec
"""The spec of any image model."""

Arch = Literal["vit", "clip", "mae", "swin", "resnet"]
SPECS: Mapping[str, type[AnySpec]] = {
    "vit": VitSpec,
    "clip": ClipSpec,
    "mae": MaeSpec,
    "swin": SwinSpec,
    "resnet": ResNetSpec,
}
"""The spec of each architecture."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Any model vitkit can build: the architecture's name in `build.BUILDERS` and its spec, as files store it."""

    arch: Arch
    spec: AnySpec = field(metadata={"chosen_by": ("arch", SPECS)})
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        """Checks that the spec is the architecture's."""
        kind = SPECS.get(self.arch)
        if kind is None or type(self.spec) is not kind:
            known = ", ".join(f"{arch!r} with a {spec.__name__}" for arch, spec in SPECS.items())
            raise ConfigError(f"arch is {self.arch!r} with a {type(self.spec).__name__}; allowed: {known}")
