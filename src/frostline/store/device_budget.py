"""Place pixels and features on the device within a budget of bytes; read the rows of others on demand."""

from __future__ import annotations

import copy
import weakref

import torch
from torch import Tensor

from frostline.core import machine
from frostline.store import mapped, ragged
from frostline.store.ragged import Ragged
from frostline.store.rows import Rows

Held = Tensor | Rows | Ragged
"""A tensor on a device, or rows or images that are gathered on demand."""


class DeviceBudget:
    """The budget of bytes that pixels and features may take on a device at once."""

    def __init__(self, device: torch.device, budget: int) -> None:
        """Allow at most `budget` bytes on `device`."""
        self.device = device
        self.total = budget
        self.free = budget
        """Bytes left; garbage-collected tensors give theirs back."""

    def take(self, held: Held) -> Held:
        """Return `held` on the device if the budget has room for it, else as rows that are read on demand."""
        if held.nbytes > self.free:
            return streamed(held)
        whole = held if isinstance(held, Tensor) else held.whole
        if isinstance(held, Tensor):
            mapped.compare(held)
        if held.device == self.device:
            there = copy.copy(held)  # the same memory; this object's end frees the budget
            weakref.finalize(there, self._leave, held.nbytes, whole)
        else:
            there = held.to(self.device)
            weakref.finalize(there, self._leave, held.nbytes)  # keep no second copy on the host
            mapped.release(whole)
        self.free -= held.nbytes
        return there

    def _leave(self, size: int, whole: Tensor | None = None) -> None:
        self.free += size
        if whole is not None:
            mapped.release(whole)


def streamed(held: Held) -> Rows | Ragged:
    """Return rows that are read at each use; rows of a file leave no pages in the process's memory."""
    return (Rows(held, torch.arange(len(held))) if isinstance(held, Tensor) else held).streamed()


def rows(held: Held, index: Tensor, device: torch.device) -> Tensor | list[Tensor]:
    """Return the rows of `held` at `index` (a CPU tensor) on `device`; rows of `Ragged` as a list."""
    if isinstance(held, Tensor):
        return machine.select_rows(held, index)
    found = held[index]
    if held.device == device:
        return found
    return ragged.moved(found, device) if isinstance(found, list) else machine.to_device(found, device)


def prefetch(held: Held, index: Tensor) -> None:
    """Start to read the rows of `held` at `index` in the background, if they come from a file."""
    if not isinstance(held, Tensor):
        held.prefetch(index)
