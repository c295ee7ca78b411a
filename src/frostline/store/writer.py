"""The writer of a new store entry: allocates its tensors, on disk or in memory, if there is room for them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frostline.store import mapped, unfinished


class NoRoom(Exception):
    """There is no room for an entry, or its files cannot be written."""


@contextmanager
def no_room_on_error() -> Iterator[None]:
    """Raise `NoRoom`, with the reason alone, for an OSError of the block, which writes to the store."""
    try:
        yield
    except OSError as error:
        raise NoRoom(error.strerror or error) from error


Claim = Callable[[int], AbstractContextManager[None]]
"""Claims room for so many bytes of a growing entry; they must be allocated within the block."""


class Writer:
    """Allocates and writes the tensors of an entry that is being made, as files in its folder."""

    def __init__(
        self, part: Path | None = None, claim: Claim = lambda size: nullcontext(), notes: Sequence[Any] = ()
    ) -> None:
        """Without the folder `part`, the tensors are in memory."""
        self.notes = tuple(notes)
        """Notes of a process that was killed while it made the entry; all its tensors exist."""
        self.tensors: dict[str, Tensor] = {}
        self.size = 0
        """Bytes of all requested tensors."""
        self.rejected: str | None = None
        """Reason not to keep the entry; None to keep it."""
        self.piecemeal: set[str] = set()
        """Names of tensors that are read piece by piece."""
        self._part = part
        self._claim = claim

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, *, piecemeal: bool = False) -> Tensor:
        """Return the entry's tensor `name` to be filled in place: zeros, or the content that a killed process left.

        A `piecemeal` tensor, to be read through `Rows`, `Ragged` or a `DeviceBudget`, is verified piece by piece as it
        is read; any other when the entry is found. Raises `NoRoom` before any of it is written.
        """
        assert name.isidentifier() and name not in self.tensors, name
        size = mapped.size_of(shape, dtype)
        self.size += size
        if piecemeal:
            self.piecemeal.add(name)
        left = mapped.reopened(self._part / name, shape, dtype) if self._part is not None and self.notes else None
        if left is None:
            with self._claim(size):
                left = self._zeros(name, shape, dtype)
        self.tensors[name] = left
        return left

    def note(self, value: Any) -> None:
        """Note written work as a plain value, so that it is not done again after a kill of this process."""
        if self._part is not None:
            unfinished.note(self._part, value)

    def _zeros(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self._part is None:
            try:
                return torch.zeros(shape, dtype=dtype)
            except RuntimeError as error:
                raise OSError(errno.ENOMEM, f"no memory for {name} of {self.size:,} bytes") from error
        with no_room_on_error():
            return mapped.create(self._part / name, shape, dtype)

    def put(self, name: str, start: int, values: Tensor) -> None:
        """Write `values` into the tensor `name` from element `start` on, in row-major order; `NoRoom` if it fails."""
        with no_room_on_error():
            mapped.put(self.tensors[name], start, values)

    def reject(self, reason: str) -> None:
        """Do not keep the entry: it serves only the caller that makes it."""
        self.rejected = reason


Make = Callable[[Writer], Mapping[str, Any]]
"""Fills an entry's tensors and returns its metadata as plain values."""
