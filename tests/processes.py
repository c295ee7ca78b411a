"""A process group of torch on this machine: forked processes that all call the same function."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

import torch

from frostline.training import process_group

T = TypeVar("T")


def run_in_group(count: int, function: Callable[[], T]) -> list[T]:
    """Return the results of `function` in each of `count` processes of a group."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        for rank, (_, theirs) in enumerate(pipes):
            arguments = (function, f"{folder}/meeting", rank, count, theirs)
            process = context.Process(target=_member, args=arguments)
            process.start()
            theirs.close()
            processes.append(process)
        found: list[T] = [pickle.loads(ours.recv_bytes()) for ours, _ in pipes]
    for process in processes:
        process.kill()
        process.join()
    return found


def _member(function: Callable[[], T], meeting: str, rank: int, count: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    process_group.join(meeting, rank=rank, ranks=count, device=torch.device("cpu"))
    pipe.send_bytes(pickle.dumps(function()))  # pickled here, because a tensor's shared memory ends with its process
    signal.pause()  # until the others need nothing more from this process
