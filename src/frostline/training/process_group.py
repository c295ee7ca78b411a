"""The torch.distributed process group of a run: join and leave it, and send tensors to all ranks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import FileStore  # type: ignore[attr-defined]

_PATIENCE = timedelta(minutes=10)
"""Timeout of collective operations: before an epoch's first step, a process may have to decode images, for example."""

TensorSpecs = Mapping[str, tuple[torch.Size, torch.dtype, str]]
"""Shape, dtype and device type of tensors by name, in the order in which they are sent."""


def join(meeting: str, *, rank: int, ranks: int, device: torch.device) -> None:
    """Join the group of `ranks` processes that meet through the file `meeting`: NCCL on GPUs, gloo elsewhere."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this host, whose name may not resolve
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=FileStore(meeting, ranks), rank=rank, world_size=ranks, timeout=_PATIENCE)


def leave() -> None:
    """Leave the group, after the other processes have ended."""
    if dist.is_initialized():
        if dist.get_backend(dist.group.WORLD) != "gloo":
            abort()
        dist.destroy_process_group()


def abort() -> None:
    """Abort operations that wait for another process, which NCCL would do after ten minutes."""
    dist.group.WORLD.abort()  # type: ignore[union-attr]


def lost_connection(error: BaseException) -> bool:
    """Return whether an error only reports a lost connection to another process."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def describe(tensors: Mapping[str, Tensor]) -> TensorSpecs:
    """Return the description of tensors that `receive` needs."""
    return {name: (tensor.shape, tensor.dtype, tensor.device.type) for name, tensor in tensors.items()}


def send(tensors: Iterable[Tensor]) -> None:
    """Broadcast tensors from the first process to all others."""
    for tensor in tensors:
        dist.broadcast(tensor.detach().contiguous(), 0)


def receive(tensors: TensorSpecs, device: torch.device) -> dict[str, Tensor]:
    """Receive and return the tensors that the first process broadcasts."""
    found = {}
    for name, (shape, dtype, kind) in tensors.items():
        found[name] = torch.empty(shape, dtype=dtype, device=device if kind == device.type else kind)
        dist.broadcast(found[name], 0)
    return found
