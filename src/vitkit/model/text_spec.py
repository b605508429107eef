"""The spec of text towers: what CLIP and SigLIP set beside their image tower.

"Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., 2021, arXiv:2103.00020),
section 2.4, and "Sigmoid Loss for Language Image Pre-Training" (Zhai et al., 2023, arXiv:2303.15343).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vitkit.errors import ConfigError, list_faults
from vitkit.model.fields import EPSILON, SHARE, Activation, field_faults

__all__ = ["TextSpec"]

TextPool = Literal["end", "highest", "last"]


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """A Transformer from token ids to one embedding per text; the defaults are CLIP's beside a ViT-B.

    Raises ConfigError listing every fault at once.
    """

    vocab_size: int = field(default=49_408, metadata={"help": "rows of the token embedding"})
    context_length: int = field(default=77, metadata={"help": "rows of the table of positions: most tokens of a text"})
    embed_dim: int = field(default=512, metadata={"help": "width D of every token"})
    depth: int = field(default=12, metadata={"help": "number of blocks", "most": 1_000})
    num_heads: int = field(default=8, metadata={"help": "attention heads; divides embed_dim"})
    mlp_dim: int = field(default=2048, metadata={"help": "hidden width of each block's MLP"})
    causal: bool = field(default=True, metadata={"help": "a token sees those before it alone"})
    pool: TextPool = field(
        default="end", metadata={"help": "the token that speaks for the text: first end_token, highest id, last"}
    )
    end_token: int = field(default=49_407, metadata={"help": "id that ends a text, for pool 'end'", "least": 0})
    output_bias: bool = field(default=False, metadata={"help": "the projection after pooling has a bias"})
    activation: Activation = field(default="quick_gelu", metadata={"help": "non-linearity of the MLP"})
    norm_eps: float = field(default=1e-5, metadata={"help": "epsilon of every LayerNorm", "within": EPSILON})
    attention_dropout: float = field(default=0.0, metadata={"help": "on the attention weights", "within": SHARE})

    def __post_init__(self) -> None:
        """Checks everything."""
        faults = field_faults(self)
        if not faults and self.embed_dim % self.num_heads:
            faults.append(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if not faults and self.pool == "end" and self.end_token >= self.vocab_size:
            faults.append(f"end_token {self.end_token} is beyond vocab_size {self.vocab_size}")
        if faults:
            raise ConfigError(f"text: {list_faults(faults)}")

    def num_parameters(self, output_dim: int) -> int:
        """Learned numbers of the tower, in closed form, with a projection to `output_dim`."""
        D, M = self.embed_dim, self.mlp_dim
        block = 4 * (D + 1) * D + (D + 1) * M + (M + 1) * D + 4 * D
        tables = (self.vocab_size + self.context_length) * D
        return tables + self.depth * block + 2 * D + (D + self.output_bias) * output_dim
