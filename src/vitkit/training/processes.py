"""The processes of one training, as `torchrun` starts them: who they are, what they agree on, how they end together.

Each computes its slices of every batch (`data/slices.py`). What isn't computed in common is decided in common: whatever
depends on a clock, a signal or a file is the same for all, or else one would wait for the others for ever.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from vitkit.device import process_backend
from vitkit.errors import ConfigError, VitkitError
from vitkit.training.watch import Watch

__all__ = ["Processes", "joined"]

logger = logging.getLogger("vitkit")

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=1)
"""For what another process is busy with, such as reading a large set. One that has ended is found by `Watch`."""


@dataclass(frozen=True)
class Processes:
    """The processes of a training, seen from one of them. By default there is one."""

    rank: int = 0
    count: int = 1
    sharded: bool = False
    """Whether each holds a part of the weights and of the optimiser's state (FSDP2), or all of them (DDP)."""

    @classmethod
    def here(cls, *, sharded: bool = False) -> Processes:
        """Those of the group that is joined; ConfigError where there is nothing to share."""
        if not dist.is_initialized():
            if sharded:
                raise ConfigError("--shard divides a training among processes, and this is one: start it with torchrun")
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), sharded)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.rank == 0

    def largest(self, *values: float) -> list[float]:
        """Of each value the largest that a process gives: the same in all of them."""
        return list(values) if self.count == 1 else self._reduced(values, dist.ReduceOp.MAX)

    def sums(self, values: dict[str, float]) -> dict[str, float]:
        """Each of the values, added up over the processes, all of which give the same names."""
        if self.count == 1:
            return values
        return dict(zip(values, self._reduced(values.values(), dist.ReduceOp.SUM), strict=True))

    def on_first(self, do: Callable[[], T]) -> T:
        """What `do` returns in the first process, which alone does it; a fault of the user's is raised in all."""
        if self.count == 1:
            return do()
        told: list[Any] = [None, None]  # the answer and the fault
        if self.first:
            try:
                told[0] = do()
            except (VitkitError, OSError) as error:
                told[1] = error
        dist.broadcast_object_list(told)
        answer, fault = told
        if fault is not None:
            raise fault
        return cast(T, answer)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What each does here for itself succeeds in all of them, or the first one's fault is raised in all."""
        fault: Exception | None = None
        try:
            yield
        except (VitkitError, OSError) as error:
            fault = error
        faults = [fault]
        if self.count > 1:
            faults *= self.count
            dist.all_gather_object(faults, fault)
        for each in faults:
            if each is not None:
                raise each

    def from_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the first process, on the CPU of every process; the others give none."""
        if self.count == 1:
            return tensors
        shapes = self.on_first(lambda: {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
        received = {}
        for name, (shape, dtype) in shapes.items():
            received[name] = tensors[name] if self.first else torch.empty(shape, dtype=dtype)
            dist.broadcast(received[name], src=0)
        return received

    def _reduced(self, values: Iterable[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        tensor = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(tensor, operation)
        return tensor.tolist()


@contextmanager
def joined() -> Iterator[None]:
    """While it lasts, the processes that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT speak of are one group.

    `torchrun` sets them; without them nothing happens. When a process ends before the others, those end too, with one
    line and exit code 1: none can go on without it. ConfigError where the processes don't find each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    try:
        store, rank, count = next(rendezvous("env://"))
        dist.init_process_group(process_backend(), store=store, rank=rank, world_size=count, timeout=LONGEST_WAIT)
    except (ValueError, RuntimeError) as error:
        fault = f"the processes of this training don't find each other ({error}); start it with torchrun"
        if os.environ.get("RANK", "0") != "0":  # whose faults are the first one's elsewhere: here it may not know
            logger.critical("vitkit: %s", fault)
        raise ConfigError(fault) from error
    watch = Watch(store, rank, count)
    dist.barrier()  # all are watched from here on
    watch.start()
    try:
        yield
    except VitkitError as error:
        watch.stop(str(error))
        dist.destroy_process_group()
        raise
    except RuntimeError:  # a collective without one of its processes, most often
        watch.judge()
        raise
    watch.stop()
    dist.destroy_process_group()
