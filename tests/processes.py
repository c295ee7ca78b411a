"""A group of processes on this machine, forked from this one, in which each calls the same function."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from frostline.training import ranks

T = TypeVar("T")


def together(count: int, function: Callable[[], T], folder: Path) -> list[T]:
    """Return what `function` returns in each of `count` processes, which form a group that meets in `folder`."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = []
    for rank, (_, theirs) in enumerate(pipes):
        process = context.Process(target=_member, args=(function, folder, rank, count, theirs))
        process.start()
        theirs.close()
        processes.append(process)
    found: list[T] = [pickle.loads(ours.recv_bytes()) for ours, _ in pipes]
    for process in processes:
        process.kill()
        process.join()
    return found


def _member(function: Callable[[], T], folder: Path, rank: int, count: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    ranks.meet(str(folder / "meeting"), rank=rank, ranks=count, device=torch.device("cpu"))
    pipe.send_bytes(pickle.dumps(function()))  # whole, as a tensor's memory goes with its process
    dist.barrier()
    os._exit(0)
