"""LoRA: fine-tuning adds to frozen weights a product of two narrow matrices (Hu et al., 2022, arXiv:2106.09685).

The sum is a torch parametrization of the weight: no forward pass knows of it, and the merged model, whose weights are
those sums, gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

from vitkit.errors import ConfigError, list_faults
from vitkit.model.attention import Attention
from vitkit.model.base import ImageModel
from vitkit.model.block import GatedMlp, Mlp

__all__ = ["LoraSpec", "add_lora", "merge_lora"]


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """Which weights get a product, and how large it is."""

    rank: int = field(default=8, metadata={"help": "columns and rows that the two matrices share"})
    alpha: float = field(default=16.0, metadata={"help": "the product is scaled by alpha / rank"})
    mlp: bool = field(default=False, metadata={"help": "the MLPs' layers too, not only attention's"})

    def __post_init__(self) -> None:
        """Checks the ranges."""
        faults = [f"rank is {self.rank}; at least 1"] if self.rank < 1 else []
        if not self.alpha > 0:
            faults.append(f"alpha is {self.alpha}; it must be larger than 0")
        if faults:
            raise ConfigError(f"lora: {list_faults(faults)}")


class LowRank(nn.Module):
    """W + (alpha / rank) B A, where A starts random and B at zero, so that nothing changes at first (section 4.1)."""

    def __init__(self, weight: Tensor, spec: LoraSpec) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.a = nn.Parameter(weight.new_empty(spec.rank, columns).normal_(std=columns**-0.5))
        self.b = nn.Parameter(weight.new_zeros(rows, spec.rank))
        self.scale = spec.alpha / spec.rank

    def forward(self, weight: Tensor) -> Tensor:
        """[rows, columns] to the same."""
        return torch.addmm(weight, self.b, self.a, alpha=self.scale)


def add_lora(model: ImageModel, spec: LoraSpec) -> None:
    """Freezes the linear layers of every block's attention (and MLP), and adds a product to each; in place.

    Raises ConfigError for a model without attention.
    """
    kinds = (Attention, Mlp, GatedMlp) if spec.mlp else (Attention,)
    for name, part in list(model.named_modules()):
        if isinstance(part, kinds) and 0 < model.layer_of(name) < model.num_layers:
            for layer in [child for child in part.children() if isinstance(child, nn.Linear)]:
                layer.requires_grad_(False)
                register_parametrization(layer, "weight", LowRank(layer.weight, spec))
    if not _adapted(model):
        raise ConfigError(f"LoRA changes attention, and a {model.spec.title} has none; tune it 'full' or its 'head'")


def merge_lora(model: ImageModel) -> None:
    """Makes the sums ordinary weights, in place; nothing where there are none."""
    for layer in _adapted(model):
        remove_parametrizations(layer, "weight")


def _adapted(model: ImageModel) -> list[nn.Module]:
    return [part for part in model.modules() if is_parametrized(part, "weight")]
