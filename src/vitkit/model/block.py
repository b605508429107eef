"""The pre-norm encoder block (paper, equations 2 and 3) and its parts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.model.attention import Attention
from vitkit.model.position import NOWHERE, Places, RelativeBias
from vitkit.model.spec import VitSpec

__all__ = ["ACTIVATIONS", "Block", "DropPath", "LayerScale", "Mlp", "dropping_as_one"]


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI CLIP's x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation, flax's default for `nn.gelu` and so that of Google's original MLP."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": F.silu,
    "relu": F.relu,
}


class Mlp(nn.Module):
    """Linear, activation, linear, on every token alike."""

    def __init__(self, embed_dim: int, mlp_dim: int, *, activation: str, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, mlp_dim)
        self.activation = ACTIVATIONS[activation]
        self.drop = nn.Dropout(dropout)
        self.fc2 = nn.Linear(mlp_dim, embed_dim)
        for linear in (self.fc1, self.fc2):  # vit_jax/models_vit.py, MlpBlock
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] to tokens [B, N, D]."""
        out: Tensor = self.drop(self.fc2(self.drop(self.activation(self.fc1(x)))))
        return out


class GatedMlp(nn.Module):
    """Two projections in one, its rows gate first: activation(gate) * value, then linear (Shazeer, 2020)."""

    def __init__(self, embed_dim: int, mlp_dim: int, *, activation: str, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, 2 * mlp_dim)
        self.activation = ACTIVATIONS[activation]
        self.drop = nn.Dropout(dropout)
        self.fc2 = nn.Linear(mlp_dim, embed_dim)
        for part in (*self.fc1.weight.data.chunk(2), self.fc2.weight.data):
            nn.init.xavier_uniform_(part)
        for linear in (self.fc1, self.fc2):
            nn.init.normal_(linear.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] to tokens [B, N, D]."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        out: Tensor = self.drop(self.fc2(self.drop(self.activation(gate) * value)))
        return out


class LayerScale(nn.Module):
    """A learned factor per channel on a branch, small at the start (CaiT, Touvron et al., 2021)."""

    def __init__(self, embed_dim: int, first: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((embed_dim,), first))

    def forward(self, x: Tensor) -> Tensor:
        """Branch [B, N, D], scaled."""
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): in training, a branch is dropped per picture, the others are scaled up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.rows: Tensor | None = None
        self.size = 0

    def forward(self, x: Tensor) -> Tensor:
        """Branch [B, N, D] to the branch, zeroed for a random share `rate` of the B pictures."""
        if self.rate == 0 or not self.training:
            return x
        ones = (1,) * (x.ndim - 1)
        if self.rows is None:
            keep = x.new_empty(x.shape[0], *ones).bernoulli_(1 - self.rate)
        else:  # views of the slice, one after another
            whole = x.new_empty(x.shape[0] // len(self.rows), self.size, *ones).bernoulli_(1 - self.rate)
            keep = whole[:, self.rows].flatten(0, 1)
        return x * keep / (1 - self.rate)

    def extra_repr(self) -> str:
        """The rate, for print(model)."""
        return f"rate={self.rate:.3g}"


@contextlib.contextmanager
def dropping_as_one(module: nn.Module, rows: Tensor, size: int) -> Iterator[None]:
    """Inside, every DropPath of `module` draws for a batch of `size` pictures, of which those at `rows` [B] are given.

    So that what a picture draws doesn't depend on how a batch is cut into slices, if torch's generator is the same.
    """
    paths = [each for each in module.modules() if isinstance(each, DropPath)]
    for path in paths:
        path.rows, path.size = rows, size
    try:
        yield
    finally:
        for path in paths:
            path.rows, path.size = None, 0


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); branches are scaled where the spec says so."""

    def __init__(self, spec: VitSpec, *, drop_path: float) -> None:
        super().__init__()
        D = spec.embed_dim
        own_bias = spec.position == "relative"
        self.norm1 = nn.LayerNorm(D, eps=spec.norm_eps)
        self.attn = Attention(
            D,
            spec.num_heads,
            qkv_bias=spec.qkv_bias,
            dropout=spec.dropout,
            attention_dropout=spec.attention_dropout,
            relative_bias=RelativeBias(spec.grid, spec.num_heads, spec.position_resample) if own_bias else None,
        )
        self.ls1 = LayerScale(D, spec.layer_scale) if spec.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(D, eps=spec.norm_eps)
        mlp = GatedMlp if spec.gated_mlp else Mlp
        self.mlp = mlp(D, spec.mlp_dim, activation=spec.activation, dropout=spec.dropout)
        self.ls2 = LayerScale(D, spec.layer_scale) if spec.layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, places: Places = NOWHERE) -> Tensor:
        """Tokens [B, N, D] to tokens [B, N, D]."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), places)))
        out: Tensor = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return out
