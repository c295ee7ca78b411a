"""The group of torch.distributed in which the processes of a run send each other tensors, while it lasts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import FileStore  # type: ignore[attr-defined]

_PATIENCE = timedelta(minutes=10)
"""For the others in the middle of what all do: an epoch's first step may have to decode, say."""

Described = Mapping[str, tuple[torch.Size, torch.dtype, str]]
"""Shape, type and kind of device of tensors by name, in the order in which they come."""


def meet(meeting: str, *, rank: int, ranks: int, device: torch.device) -> None:
    """Make this process part of the group of `ranks` that meets in a file: NCCL on cards, gloo elsewhere."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine, whose name may lead nowhere
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=FileStore(meeting, ranks), rank=rank, world_size=ranks, timeout=_PATIENCE)


def leave() -> None:
    """Leave the group, whose others are gone."""
    if dist.is_initialized():
        if dist.get_backend(dist.group.WORLD) != "gloo":
            abort()
        dist.destroy_process_group()


def abort() -> None:
    """End what waits for another process, which NCCL would do in ten minutes."""
    dist.group.WORLD.abort()  # type: ignore[union-attr]


def lost_connection(error: BaseException) -> bool:
    """Return whether an error says no more than that a connection to another process is gone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def described(tensors: Mapping[str, Tensor]) -> Described:
    """Return what `received` has to know of the tensors that are sent."""
    return {name: (tensor.shape, tensor.dtype, tensor.device.type) for name, tensor in tensors.items()}


def send(tensors: Iterable[Tensor]) -> None:
    """Send tensors of the first process to all others."""
    for tensor in tensors:
        dist.broadcast(tensor.detach().contiguous(), 0)


def received(tensors: Described, device: torch.device) -> dict[str, Tensor]:
    """Return the tensors that the first process sends."""
    found = {}
    for name, (shape, dtype, kind) in tensors.items():
        found[name] = torch.empty(shape, dtype=dtype, device=device if kind == device.type else kind)
        dist.broadcast(found[name], 0)
    return found
