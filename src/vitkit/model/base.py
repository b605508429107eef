"""What every image model here has in common: spec, card, head, optimiser groups, and the verbs of a checkpoint."""

from __future__ import annotations

import dataclasses
import os
from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.model.head import zeros_head
from vitkit.model.spec import AnySpec

__all__ = ["HEADS", "UNDECAYED", "Card", "Features", "ImageModel"]

HEADS = ("head.", "head_dist.")
"""First words of the names of classifiers."""
UNDECAYED = (
    *("cls_token", "dist_token", "reg_token", "mask_token", "pos_embed", "table", "latent"),
    *("logit_scale", "cpb_mlp.0.weight", "cpb_mlp.2.weight"),
)
"""Last words of the names of tokens and positions, which weight decay leaves alone though they aren't vectors."""


class Features(NamedTuple):
    """What the encoder says about B pictures, after the final norm where the model norms its tokens."""

    prefix_tokens: Tensor
    """[B, P, D]: class token, distillation token and registers, as far as there are any."""
    patch_tokens: Tensor
    """[B, h*w, D], row by row."""
    grid: tuple[int, int]
    """Rows and columns (h, w) of patches."""
    layers: tuple[Tensor, ...]
    """Outputs [B, P + h*w, D] of the blocks asked for, in the order asked, before the final norm."""


class Card(Protocol):
    """What a checkpoint says beside the weights (preprocessing, class names, ...): opaque to the model."""

    def without_classes(self) -> Any:
        """The same card for another head."""


class ImageModel(nn.Module, metaclass=ABCMeta):
    """Base of the classifiers: pixels [B, C, H, W] to logits [B, num_classes]."""

    spec: AnySpec
    head: nn.Module
    card: Card | None = None

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """What the last linear layer reads, [B, feature_dim]."""

    @abstractmethod
    def features(self, pixels: Tensor, layers: Sequence[int] = ()) -> Features:
        """Tokens of the encoder; and the outputs of the blocks numbered in `layers`, from 0 (-1 is the last)."""

    @abstractmethod
    def layer_of(self, name: str) -> int:
        """The layer of the parameter `name`, from 0, the embedding, to `num_layers`, what comes after the blocks."""

    @property
    @abstractmethod
    def encoder_blocks(self) -> list[nn.Module]:
        """The blocks that `features` numbers, in order."""

    @staticmethod
    def resized_state(state: dict[str, Tensor], old: Any, new: Any) -> dict[str, Tensor]:
        """The weights of a model of spec `old` for `new`, of another grid of patches: positions are resampled."""
        return state

    @property
    def num_layers(self) -> int:
        """The number of the last layer in the sense of `layer_of`."""
        return self.spec.num_blocks + 1

    def train(self, mode: bool = True) -> Self:
        """Modes as usual, but that frozen parts stay as they are used: no dropout, BatchNorm by what it has learned."""
        super().train(mode)
        if mode and not all(parameter.requires_grad for parameter in self.parameters()):
            for part in self.modules():
                learns = [parameter.requires_grad for parameter in part.parameters()]
                if learns and not any(learns):
                    part.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, C, H, W] to logits [B, num_classes], or embeddings [B, feature_dim] without a head."""
        return self.logits(self.embed(pixels))

    def logits(self, embedding: Tensor) -> Tensor:
        """What `embed` gives, [B, feature_dim], to logits [B, num_classes]; a distilled model's two heads averaged."""
        logits = self.heads(embedding)
        return logits[0] if len(logits) == 1 else (logits[0] + logits[1]) / 2

    def heads(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, num_classes] of each head: of one, but in a distilled model."""
        return (self.head(embedding),)

    def new_head(self) -> nn.Module:
        """A head of `spec.num_classes` outputs, zero at the start as in the paper."""
        return zeros_head(self.spec.feature_dim, self.spec.num_classes)

    def block_number(self, layer: int) -> int:
        """The block that `layer` asks for, from 0; -1 is the last. Raises ConfigError where there is none."""
        count = self.spec.num_blocks
        if not -count <= layer < count:
            raise ConfigError(f"layer {layer} is asked for; this model has the blocks 0 to {count - 1}")
        return layer % count

    def reset_head(self, num_classes: int) -> Self:
        """Replaces the head by a new one of `num_classes` outputs, zero at the start as in the paper; 0 removes it."""
        self.spec = dataclasses.replace(self.spec, num_classes=num_classes)
        self.head = self.new_head().to(next(self.parameters()))
        self.card = None if self.card is None else self.card.without_classes()
        return self

    def parameter_groups(
        self, lr: float, *, weight_decay: float = 0.05, layer_decay: float = 1.0
    ) -> list[dict[str, Any]]:
        """Optimiser groups: no decay for biases, norms, tokens and positions; lower layers learn more slowly.

        A parameter of layer n of L has the rate lr * layer_decay^(L - n): the embedding is layer 0, block i layer
        i + 1, what comes after the blocks layer L (BEiT, Bao et al., 2022). At most two groups per layer.
        """
        groups: dict[tuple[int, bool], dict[str, Any]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            layer = self.num_layers if layer_decay == 1 else self.layer_of(name)
            decays = parameter.ndim > 1 and not name.endswith(UNDECAYED)
            rate = lr * layer_decay ** (self.num_layers - layer)
            group = {"params": [], "names": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0}
            groups.setdefault((layer, decays), group)
            groups[layer, decays]["params"].append(parameter)
            groups[layer, decays]["names"].append(name)
        return list(groups.values())

    # Checkpoints live on a higher floor: these three are the package's public verbs, looked up when called.

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **options: Any) -> Self:
        """The module of `vitkit.load(source, **options)`, on the CPU unless `device` says otherwise, in eval mode."""
        import vitkit

        module = vitkit.load(source, **{"device": "cpu", **options}).module
        if not isinstance(module, cls):
            raise ConfigError(f"{source} is a {type(module).__name__}, not a {cls.__name__}; use vitkit.load")
        return module

    def save_pretrained(self, folder: str | os.PathLike[str], **options: Any) -> None:
        """`vitkit.save(self, folder, **options)`: a new native folder, whole or absent."""
        import vitkit

        vitkit.save(self, folder, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """`vitkit.push(self, repo_id, **options)`: the native folder as a Hub repository; returns the commit's URL."""
        import vitkit

        return vitkit.push(self, repo_id, **options)
