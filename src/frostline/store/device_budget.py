"""Where pixels and features lie: on the device while there is room, else where they are, row by row when asked for."""

from __future__ import annotations

import copy
import weakref
from typing import overload

import torch
from torch import Tensor

from frostline.core import machine
from frostline.store import mapped, ragged
from frostline.store.ragged import Ragged
from frostline.store.rows import Rows

Held = Tensor | Rows | Ragged
"""Rows of something, all of them on a device or to be gathered when they are asked for."""


class DeviceBudget:
    """Owns how many bytes of pixels and features may lie on a device at once."""

    def __init__(self, device: torch.device, budget: int) -> None:
        """Let at most `budget` bytes lie on `device`."""
        self.device = device
        self.budget = budget
        self.free = budget
        """Bytes that are left: what nobody holds any more takes none."""

    @overload
    def take(self, held: Tensor | Rows) -> Tensor | Rows: ...

    @overload
    def take(self, held: Held) -> Held: ...

    def take(self, held: Held) -> Held:
        """Return `held` on the device if there is room for it, else its rows where they are, perhaps in a file."""
        if held.nbytes > self.free:
            return streamed(held)
        if isinstance(held, Tensor):
            mapped.compare(held)
        there = held.to(self.device)
        if there is held:
            there = copy.copy(held)  # the same memory, for this owner to let go
        size = held.nbytes
        self.free -= size
        if held.device == self.device:
            weakref.finalize(there, self._leave, size, held)
        else:
            weakref.finalize(there, self._leave, size)  # what was moved must not be kept here too
            mapped.release(held)
        return there

    def _leave(self, size: int, held: Held | None = None) -> None:
        self.free += size
        if held is not None:
            mapped.release(held)


def streamed(held: Held) -> Rows | Ragged:
    """Return rows that are read anew whenever they are asked for, and leave no trace in memory if they are a file's."""
    return (Rows(held, torch.arange(len(held))) if isinstance(held, Tensor) else held).streamed()


@overload
def rows(held: Tensor | Rows, index: Tensor, device: torch.device) -> Tensor: ...


@overload
def rows(held: Held, index: Tensor, device: torch.device) -> Tensor | list[Tensor]: ...


def rows(held: Held, index: Tensor, device: torch.device) -> Tensor | list[Tensor]:
    """Return the rows of `held` at `index` (on the CPU) on `device`, wherever they lie; ragged ones as a list."""
    if isinstance(held, Tensor):
        return held.index_select(0, index.to(device, non_blocking=True))  # half the time of held[index]
    found = held[index]
    if held.device == device:
        return found
    return ragged.moved(found, device) if isinstance(found, list) else machine.sent(found, device)


def expect(held: Held, index: Tensor) -> None:
    """Let the rows of `held` at `index` be read meanwhile, if that takes time: they are asked for soon."""
    if not isinstance(held, Tensor):
        held.expect(index)
