"""The weights of a training among its processes: whole in each (DDP), or a part in each (FSDP2), the same training.

DDP and FSDP2 average gradients over the processes; the loop's slices add up, and so are multiplied by their number.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitkit.model.base import ImageModel
from vitkit.training.ema import Ema
from vitkit.training.objective import Step
from vitkit.training.processes import Processes

__all__ = ["average_statistics", "shared", "spread", "summed_after", "unevenly_drawn", "whole"]


def shared(step: Step, ema: Ema | None, processes: Processes, device: torch.device) -> nn.Module:
    """`step` as its processes share it; the moving average of its model is divided as the model is.

    Before the optimiser is built: divided parameters take the place of the whole ones.
    """
    if processes.count == 1:
        return step
    if not processes.sharded:
        ddp = nn.parallel.DistributedDataParallel
        renamed = "forward_sync_buffers" in inspect.signature(ddp).parameters  # torch 2.13
        buffers: dict[str, Any] = {
            "forward_sync_buffers" if renamed else "broadcast_buffers": False
        }  # see `average_statistics`
        return ddp(step, gradient_as_bucket_view=True, **buffers)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # half a second, for those who need it

    mesh = init_device_mesh(device.type, (processes.count,))
    divided = [(step, step.model)] + ([] if ema is None else [(ema.module, ema.module)])
    for root, model in divided:
        for block in model.encoder_blocks if isinstance(model, ImageModel) else ():
            fully_shard(block, mesh=mesh)
        fully_shard(root, mesh=mesh)
    return step


@contextmanager
def summed_after(step: nn.Module, last: bool) -> Iterator[None]:
    """A slice's pass: only after the `last` one of a step do the processes exchange gradients."""
    if last or not isinstance(step, nn.parallel.DistributedDataParallel):
        yield
    else:
        with step.no_sync():
            yield


def whole(tensor: Tensor) -> Tensor:
    """`tensor`, put together where it is divided; all processes take part."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def spread(full: Tensor, like: Tensor) -> Tensor:
    """`full`, which every process has, divided as `like` is."""
    if not hasattr(like, "full_tensor") or full.shape != like.shape:
        return full
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def average_statistics(module: nn.Module, processes: Processes) -> None:
    """Makes the running statistics of batch norms, which each process takes of its own slices, those of all."""
    if processes.count > 1:
        for norm in module.modules():
            if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
                for statistic in (norm.running_mean, norm.running_var):
                    dist.all_reduce(statistic)
                    statistic /= processes.count


def unevenly_drawn(module: nn.Module) -> list[str]:
    """What of `module` isn't the same when a batch is cut into slices."""
    found = set()
    for each in module.modules():
        if isinstance(each, _BatchNorm):
            found.add("BatchNorm's statistics")
        if getattr(each, "p" if isinstance(each, nn.Dropout) else "dropout", 0) > 0:
            found.add("dropout")
    return sorted(found)
