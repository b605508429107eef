"""Which patches an answer rests on: maps from attention or features and their gradients, one per picture.

Attention rollout: Abnar and Zuidema, 2020, arXiv:2005.00928, equation 1. Gradient-weighted attention: Chefer, Gur and
Wolf, "Generic Attention-model Explainability", 2021, arXiv:2103.15679, equations 5 and 6.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitkit.errors import ConfigError, EngineError, nearest
from vitkit.explain.record import record, record_pooled
from vitkit.model.base import ImageModel
from vitkit.model.vit import VisionTransformer

__all__ = [
    "METHODS",
    "Maps",
    "attention_rollout",
    "check_method",
    "class_token_attention",
    "eval_mode",
    "explain",
    "grad_cam",
    "gradient_weighted",
    "patch_attention",
    "pooled_attention",
]

Pool: TypeAlias = Literal["cls", "mean", "cls_mean", "attention"]

METHODS = ("auto", "attention", "rollout", "gradient")


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of B pictures, and what they explain."""

    values: NDArray[np.float32]
    """[B, h, w] over the patches, >= 0; each picture's sum to 1, all equal where nothing stands out."""
    method: str
    """What was computed, in words for a caption."""
    targets: NDArray[np.int64] | None
    """[B] the classes explained, or None without a head. Attention and rollout maps are the same for every class."""
    outputs: NDArray[np.float32]
    """[B, K] logits, or embeddings without a head."""


def pooled_attention(attention: Sequence[Tensor]) -> Tensor:
    """Where the pooling query looks, mean of the heads: layers, its own [B, A, 1, h*w] the last, to [B, h*w]."""
    return attention[-1].mean(dim=1)[:, 0]


def class_token_attention(attention: Sequence[Tensor], num_prefix: int) -> Tensor:
    """Where the class token looks in the last layer, mean of the heads: layers [B, A, N, N] to [B, h*w]."""
    return _read(attention[-1].mean(dim=1), "cls", num_prefix)


def patch_attention(attention: Sequence[Tensor], num_prefix: int) -> Tensor:
    """Where the patches look in the last layer, mean of heads and patches: layers [B, A, N, N] to [B, h*w]."""
    return _read(attention[-1].mean(dim=1), "mean", num_prefix)


def attention_rollout(attention: Sequence[Tensor], pool: Pool, num_prefix: int) -> Tensor:
    """Attention multiplied through all layers, half of each the residual: layers [B, A, N, N] to [B, h*w].

    A pooling query, whose attention [B, A, 1, h*w] comes last, has no residual.
    """
    layers = attention[:-1] if pool == "attention" else attention
    identity = torch.eye(attention[0].shape[-1], device=attention[0].device)
    rolled = identity
    for weights in layers:
        mixed = 0.5 * weights.mean(dim=1) + 0.5 * identity
        rolled = mixed / mixed.sum(dim=-1, keepdim=True) @ rolled
    if pool == "attention":
        return _through_query(pooled_attention(attention), rolled, num_prefix)
    return _read(rolled, pool, num_prefix)


def gradient_weighted(attention: Sequence[Tensor], gradients: Sequence[Tensor], pool: Pool, num_prefix: int) -> Tensor:
    """C = relu(dA * A), mean of the heads, accumulated as R = R + C R from R = 1: layers [B, A, N, N] to [B, h*w].

    The starting identity, which says the same of every patch, is left out: below, `relevance` is R - 1. A pooling
    query, whose attention [B, A, 1, h*w] comes last, is one more token with a row of its own, C R.
    """
    changes = [(g * weights).relu().mean(dim=1) for weights, g in zip(attention, gradients, strict=True)]
    relevance = torch.zeros_like(changes[0])
    for change in changes[:-1] if pool == "attention" else changes:
        relevance = relevance + change + change @ relevance
    if pool == "attention":
        query = changes[-1][:, 0]
        return query + _through_query(query, relevance, num_prefix)
    return _read(relevance, pool, num_prefix)


def grad_cam(tokens: Tensor, gradients: Tensor) -> Tensor:
    """Where features speak for the score, each weighted by its mean gradient: [B, h*w, D] both, to [B, h*w].

    Selvaraju et al., "Grad-CAM", 2017, arXiv:1610.02391, equations 1 and 2.
    """
    return (tokens * gradients.mean(dim=1, keepdim=True)).sum(dim=-1).relu()


def explain(
    module: ImageModel,
    pixels: Tensor,
    *,
    target: int | Sequence[int] | None = None,
    method: str = "auto",
) -> Maps:
    """Maps of the patches behind the answers to normalised pixels [B, C, H, W]; `target` None: the predicted classes.

    "auto" is the attention of what the head reads, a class token or a pooling query, else gradient-weighted; with a
    `target` always the latter, the only one that differs between classes. "gradient" explains the target's logit, or
    the embedding's squared norm where there is no head; of a ResNet, which has no attention, by Grad-CAM. The module is
    run in eval mode and left as it was.

    Raises ConfigError for an unknown method or class, or for one that such a model has no map for, EngineError where
    the model's answer isn't a number.
    """
    spec = module.spec
    with torch.inference_mode(False), eval_mode(module):  # nothing born in inference mode can take part in a graph
        targets = _check_targets(target, method, spec.num_classes, len(pixels))
        pixels = pixels.to(next(module.parameters())).clone()
        if isinstance(module, VisionTransformer):
            values, name, asked = _maps_of_attention(module, pixels, targets, method)
        else:
            values, name, asked = _maps_of_features(module, pixels, targets, method)
    grid = dataclasses.replace(spec, image_size=(pixels.shape[2], pixels.shape[3])).grid
    return Maps(
        values=_normalise(values).reshape(-1, *grid).numpy(),
        method=name,
        targets=None if asked.targets is None else asked.targets.numpy(),
        outputs=asked.outputs.detach().float().cpu().numpy(),
    )


class _Asked(NamedTuple):
    """What the model said, the classes explained, and the score [B, ...] that speaks for them."""

    outputs: Tensor
    targets: Tensor | None
    score: Tensor

    @property
    def of_what(self) -> str:
        """For a caption."""
        return " of the embedding's norm" if self.targets is None else ""


def _ask(module: ImageModel, pixels: Tensor, targets: Tensor | None) -> _Asked:
    outputs = module(pixels)
    if not outputs.isfinite().all():
        raise EngineError("the model answers with values that aren't finite; damaged weights, or dtype")
    if targets is None and module.spec.num_classes:
        targets = outputs.detach().argmax(dim=-1).cpu()
    score = outputs.float().square() if targets is None else outputs.gather(1, targets[:, None].to(outputs.device))
    return _Asked(outputs, targets, score)


def _maps_of_attention(
    module: VisionTransformer, pixels: Tensor, targets: Tensor | None, method: str
) -> tuple[Tensor, str, _Asked]:
    spec = module.spec
    if method == "auto":
        method = "attention" if spec.pool in ("cls", "attention") and targets is None else "gradient"
    by_gradient = method == "gradient"
    layers = [-1] if method == "attention" else None
    with torch.set_grad_enabled(by_gradient), record(_pixels_path(module), layers, gradients=by_gradient) as recorded:
        asked = _ask(module, pixels, targets)
        gradients = recorded.attention_gradients(asked.score) if by_gradient else []
    attention, P = recorded.attention(), spec.num_prefix_tokens
    if by_gradient:
        values, name = gradient_weighted(attention, gradients, spec.pool, P), "gradient-weighted attention"
        name += asked.of_what
    elif method == "rollout":
        values, name = attention_rollout(attention, spec.pool, P), "attention rollout"
    elif spec.pool == "attention":
        values, name = pooled_attention(attention), "attention of the pooling query"
    elif spec.pool == "cls":
        values, name = class_token_attention(attention, P), "class-token attention, last block"
    else:
        values, name = patch_attention(attention, P), "attention between patches, last block"
    return values, name, asked


def _maps_of_features(
    module: ImageModel, pixels: Tensor, targets: Tensor | None, method: str
) -> tuple[Tensor, str, _Asked]:
    """From what the mean is taken of."""
    with torch.enable_grad(), record_pooled(module) as pooled:
        if method not in ("auto", "gradient"):
            raise ConfigError(f"method {method!r} needs attention, and a {module.spec.title} has none; use 'gradient'")
        asked = _ask(module, pixels, targets)
        (gradients,) = torch.autograd.grad(asked.score.sum(), pooled)
    (tokens,) = pooled
    return grad_cam(tokens.detach().float(), gradients.float()), f"Grad-CAM, last stage{asked.of_what}", asked


def _through_query(query: Tensor, relevance_BNN: Tensor, num_prefix: int) -> Tensor:
    """What a query that takes `query` [B, h*w] of the patches takes from each patch, by way of the layers below."""
    return (query[:, None] @ relevance_BNN[:, num_prefix:, num_prefix:])[:, 0]


def _read(relevance_BNN: Tensor, pool: Pool, num_prefix: int) -> Tensor:
    """What the pooled token takes from each patch: the class token's row, the mean of the patches' rows, or both's."""
    of_class, of_patches = relevance_BNN[:, 0], relevance_BNN[:, num_prefix:].mean(dim=1)
    rows = {"cls": of_class, "cls_mean": of_class + of_patches}.get(pool, of_patches)
    return rows[:, num_prefix:]


def _normalise(values: Tensor) -> Tensor:
    """[B, h*w] to sums of 1; all equal where a picture's values are all zero."""
    values = values.cpu().double()  # MPS has no float64
    total = values.sum(dim=1, keepdim=True)
    return torch.where(total > 0, values / total, 1 / values.shape[1]).float()


def _pixels_path(module: VisionTransformer) -> nn.Module:
    """The parts of `module` with attention that pixels go through, in that order: not a text tower's."""
    return nn.ModuleList([module.blocks, *([] if module.attn_pool is None else [module.attn_pool])])


def _check_targets(target: int | Sequence[int] | None, method: str, num_classes: int, count: int) -> Tensor | None:
    check_method(method, target)
    if target is None:
        return None
    if not num_classes:
        raise ConfigError(f"class {target} is to be explained, but the model has no head; leave the class out")
    targets = [target] * count if isinstance(target, int) else [int(index) for index in target]
    if len(targets) != count:
        raise ConfigError(f"{len(targets)} classes are to be explained for {count} pictures; give one each")
    for index in targets:
        if not 0 <= index < num_classes:
            raise ConfigError(f"class {index} is to be explained; this model has the classes 0 to {num_classes - 1}")
    return torch.tensor(targets)


def check_method(method: str, target: object = None) -> None:
    """Raises ConfigError for an unknown method, or one that can't explain a chosen class."""
    if method not in METHODS:
        raise ConfigError(f"method {method!r} is unknown; allowed: {', '.join(METHODS)}{nearest(method, METHODS)}")
    if target is not None and method in ("attention", "rollout"):
        raise ConfigError(f"method {method!r} gives one map for all classes; for class {target} use 'gradient'")


@contextlib.contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Puts every part of `module` in eval mode inside the block, and back into its own mode after."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
