"""Gradient checkpointing (Chen et al., 2016, arXiv:1604.06174): blocks keep their input and are computed again.

Weights and gradients are those of the plain step to the bit: the second pass draws what the first one drew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint, noop_context_fn

from vitkit.model.base import ImageModel

__all__ = ["recomputed"]

Context: TypeAlias = AbstractContextManager[Any]


@contextmanager
def recomputed(model: nn.Module, on: bool) -> Iterator[None]:
    """While it lasts, and where it is `on`, each block of `model` keeps no more for its gradient than it was given."""
    blocks = model.encoder_blocks if on and isinstance(model, ImageModel) else []
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=_contexts(block))
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own again


def _contexts(block: nn.Module) -> Callable[[], tuple[Context, Context]]:
    """For the first and the second pass: batch norms count a batch once, though they see it twice."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    return (lambda: (nullcontext(), _uncounted(norms))) if norms else noop_context_fn


@contextmanager
def _uncounted(norms: list[_BatchNorm]) -> Iterator[None]:
    """Statistics aren't left out: the second pass has to keep as many tensors as the first."""
    counted = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, counted, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
