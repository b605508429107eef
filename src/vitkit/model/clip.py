"""CLIP and SigLIP: an image tower and a text tower whose embeddings share one space.

"Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., 2021, arXiv:2103.00020),
figure 3; "Sigmoid Loss for Language Image Pre-Training" (Zhai et al., 2023, arXiv:2303.15343), which adds a bias.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.errors import ConfigError
from vitkit.model.fields import from_keywords
from vitkit.model.head import UnitLinear, zeros_head
from vitkit.model.spec import ClipFields, ClipSpec, VitSpec
from vitkit.model.text import TextTransformer
from vitkit.model.vit import VisionTransformer

__all__ = ["Clip"]

TEMPERATURE, SIGMOID_TEMPERATURE, SIGMOID_BIAS = 0.07, 0.1, -10.0
"""What similarities are divided by at the start: CLIP's section 2.5, and SigLIP's 3.2 with its bias."""


class Clip(VisionTransformer):
    """A Vision Transformer whose embeddings are projected into a space shared with those of texts.

    The keywords are the fields of `ClipSpec`. Without a text tower it is the image half alone.
    """

    spec: ClipSpec

    def __init__(self, **fields: Unpack[ClipFields]) -> None:
        spec = from_keywords(ClipSpec, fields, owner="Clip")
        super().__init__(**{entry.name: getattr(spec, entry.name) for entry in dataclasses.fields(VitSpec)})
        self.spec = spec
        D, E = spec.embed_dim, spec.feature_dim
        self.projection = nn.Linear(D, E, bias=False) if spec.projection_dim else nn.Identity()
        if isinstance(self.projection, nn.Linear):
            nn.init.normal_(self.projection.weight, std=D**-0.5)  # OpenAI's clip/model.py
        self.text = None if spec.text is None else TextTransformer(spec.text, E)
        first = 1 / (SIGMOID_TEMPERATURE if spec.logit_bias else TEMPERATURE)
        self.logit_scale = None if spec.text is None else nn.Parameter(torch.tensor(math.log(first)))
        self.logit_bias = nn.Parameter(torch.tensor(SIGMOID_BIAS)) if spec.logit_bias else None
        self.head = self.new_head()

    def new_head(self) -> nn.Module:
        """As any image model's, on embeddings scaled to length 1 where the spec says so."""
        spec = self.spec
        return zeros_head(spec.feature_dim, spec.num_classes, kind=UnitLinear if spec.unit_head else nn.Linear)

    def embed(self, pixels: Tensor) -> Tensor:
        """Pixels [B, C, H, W] to embeddings [B, E] in the shared space, of any length."""
        embedding: Tensor = self.projection(super().embed(pixels))
        return embedding

    def embed_text(self, token_ids: Tensor) -> Tensor:
        """Token ids, int64 [T, N], to embeddings [T, E] in the shared space, of any length."""
        return self._with_text()(token_ids)  # type: ignore[no-any-return]

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Logits [B, T] of embeddings [B, E] and [T, E]: for a softmax over the texts, or, with a bias, a sigmoid."""
        self._with_text()
        assert self.logit_scale is not None
        logits = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T * self.logit_scale.exp()
        return logits if self.logit_bias is None else logits + self.logit_bias

    def with_texts(self, texts: Tensor) -> Clip:
        """The image half alone, weights shared, under a head whose classes are texts, given as embeddings [K, E].

        Its logits [B, K] are those of `similarity`.
        """
        self._with_text()
        assert self.logit_scale is not None
        changed = {"num_classes": len(texts), "text": None, "logit_bias": False, "unit_head": True}
        with torch.device("meta"):
            half = Clip(**{**vars(self.spec), **changed})
        weight = F.normalize(texts, dim=-1) * self.logit_scale.exp()
        bias = weight.new_zeros(len(texts)) if self.logit_bias is None else self.logit_bias.expand(len(texts))
        state = {**self.state_dict(), "head.weight": weight.detach(), "head.bias": bias.detach().clone()}
        half.load_state_dict({name: state[name] for name in half.state_dict()}, assign=True)
        return half.train(self.training)

    def _with_text(self) -> TextTransformer:
        if self.text is None:
            raise ConfigError("this model is the image half alone, it has no text tower; load the whole checkpoint")
        return self.text
