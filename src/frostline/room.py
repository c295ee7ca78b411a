"""Where pixels and features lie: on the device while there is room, else where they are, row by row when asked for."""

from __future__ import annotations

import copy
import weakref

import torch
from torch import Tensor

from frostline import mapped
from frostline.mapped import Rows

Held = Tensor | Rows
"""Rows of something, all of them on a device or to be gathered when they are asked for."""


class Room:
    """Owns how many bytes of pixels and features may lie on a device at once."""

    def __init__(self, device: torch.device, budget: int) -> None:
        """Let at most `budget` bytes lie on `device`."""
        self.device = device
        self.budget = budget
        self.free = budget
        """Bytes that are left: what nobody holds any more takes none."""

    def take(self, held: Held) -> Held:
        """Return `held` on the device if there is room for it, else its rows where they are, perhaps in a file."""
        if held.nbytes > self.free:
            return streamed(held)
        there = held.to(self.device)
        if there is held:
            there = copy.copy(held)  # the same memory, for this owner to let go
        self.free -= held.nbytes
        weakref.finalize(there, self._leave, held)
        return there

    def _leave(self, held: Held) -> None:
        self.free += held.nbytes
        mapped.release(held)


def streamed(held: Held) -> Rows:
    """Return rows that are read anew whenever they are asked for, and leave no trace in memory if they are a file's."""
    return (held if isinstance(held, Rows) else Rows(held, torch.arange(len(held)))).streamed()


def rows(held: Held, index: Tensor, device: torch.device) -> Tensor:
    """Return the rows of `held` at `index` (on the CPU) on `device`, wherever they lie."""
    if isinstance(held, Tensor):
        return held.index_select(0, index.to(device, non_blocking=True))  # half the time of held[index]
    if held.device == device:
        return held[index]
    return held[index].pin_memory().to(device, non_blocking=True)


def expect(held: Held, index: Tensor) -> None:
    """Let the rows of `held` at `index` be read meanwhile, if that takes time: they are asked for soon."""
    if isinstance(held, Rows):
        held.expect(index)
