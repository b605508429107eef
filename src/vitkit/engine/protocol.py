"""What every engine offers: a name, what it takes, and `run`; and what all of them share."""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from vitkit.errors import EngineError
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel

__all__ = ["Engine", "InputSpec", "LaidOut", "Outputs", "answered"]

Outputs = dict[str, NDArray[np.float32]]
"""Over a fixed vocabulary: logits [B, K], embedding [B, D] (later: prefix_tokens, patch_tokens, boxes, masks, ...)."""


@dataclass(frozen=True)
class InputSpec:
    """The crops [B, H, W, C] that an engine takes, as `image.preprocess.fit` makes them: normalisation is inside."""

    dtype: str
    """uint8; uint16 for deep pictures; float32, in 0..1, where pictures are rescaled before they are resized."""
    channels: int
    size: tuple[int, int]
    """(height, width)."""

    @classmethod
    def of(cls, preprocess: Preprocess) -> Self:
        """What `fit` makes by `preprocess`."""
        return cls(preprocess.fitted_type.name, preprocess.channels, preprocess.size)


class Engine(Protocol):
    """Runs one model on batches of crops."""

    name: str
    """Engine, precision and device: named in every result."""
    input: InputSpec

    def run(self, crops: NDArray[Any]) -> Outputs:
        """Outputs of a batch that is as `input` says. Safe to call from several threads at once.

        Raises EngineError where the library fails, memory runs out, or an output isn't finite.
        """

    def shared(self, calls: int) -> Engine:
        """The same model and precision, laid out for `calls` of `run` at a time, each on its part of the cores.

        An engine that gains nothing by it, as on a GPU, gives itself. The layout is made once and kept.
        """

    def with_module(self, module: ImageModel) -> Self:
        """The same engine, device and precision for another module that takes the same crops."""


Runner = TypeVar("Runner")


class LaidOut(ABC, Generic[Runner]):
    """An engine that is prepared for some number of calls at a time, when first run, and kept for each number."""

    def __init__(self) -> None:
        self.calls = 1
        self.threads = torch.get_num_threads()  # as OMP_NUM_THREADS and the process's share of the cores allow
        self._lock = threading.Lock()
        self._runner: Runner | None = None
        self._layouts: dict[int, Any] = {1: self}
        self._layouts_lock = threading.Lock()  # of all layouts, as what it guards

    @abstractmethod
    def _prepare(self) -> Runner:
        """What runs the model, for `calls` at a time. This may take seconds."""

    @property
    def runner(self) -> Runner:
        """What runs the model, prepared by the first thread that comes."""
        with self._lock:
            if self._runner is None:
                self._runner = self._prepare()
            return self._runner

    def shared(self, calls: int) -> Self:
        """The same model and precision, laid out for `calls` of `run` at a time, each on its part of the cores."""
        with self._layouts_lock:
            if calls not in self._layouts:
                other = copy.copy(self)
                other.calls, other._lock, other._runner = calls, threading.Lock(), None
                self._layouts[calls] = other
            laid_out: Self = self._layouts[calls]
            return laid_out


NO_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "bad allocation")
"""How libraries say it."""


def answered(
    engine: str, count: int, compute: Callable[[], Outputs], *, faults: tuple[type[Exception], ...] = ()
) -> Outputs:
    """What `compute` answers about `count` pictures; `faults` are the errors by which its library tells of any.

    Raises EngineError for them, where memory runs out, and where the model answers with something that isn't a number.
    """
    caught: tuple[type[Exception], ...] = (RuntimeError, *faults)
    try:
        outputs = compute()
    except caught as error:
        reason = " ".join(str(error).split())[:300]
        if any(words in str(error) for words in NO_MEMORY):
            reason = f"no memory for {count} pictures at once; choose a smaller batch size (--batch-size)"
        elif not isinstance(error, faults):  # torch's own: a fault of ours
            raise
        raise EngineError(f"{engine}: {reason}") from error
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise EngineError(f"{engine}: the {name} holds values that aren't finite; damaged weights, or dtype")
    return outputs
