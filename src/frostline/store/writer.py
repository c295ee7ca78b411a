"""What makes an entry of the store fills its tensors here: where there is room for them, on disk or in memory."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frostline.store import mapped, unfinished


class NoRoom(Exception):
    """Neither the folder nor the memory can take what is to be stored."""


Claim = Callable[[int], AbstractContextManager[None]]
"""Finds room for an entry that grows by so many bytes, which are to be taken within the block."""


class Writer:
    """Gives an entry that is being made the tensors to fill; owns the folder in which their files lie."""

    def __init__(
        self, part: Path | None = None, claim: Claim = lambda size: nullcontext(), notes: Sequence[Any] = ()
    ) -> None:
        """Without a folder the tensors lie in memory."""
        self.notes = tuple(notes)
        """What was noted by a process that was killed while it made the entry, of which all tensors are there."""
        self.tensors: dict[str, Tensor] = {}
        self.size = 0
        """Bytes of all tensors that were asked for."""
        self.rejected: str | None = None
        """Why the entry is not to be kept."""
        self.piecemeal: set[str] = set()
        """The tensors that are read piece by piece."""
        self._part = part
        self._claim = claim

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, *, piecemeal: bool = False) -> Tensor:
        """Return a tensor to be filled in place, part of the entry under `name`: zeros, or what is done of it already.

        One that is read `piecemeal`, by way of `Rows`, `Ragged` or a `DeviceBudget`, is checked piece by piece as it is
        read; all others when the entry is found. Raises `NoRoom` before anything of it is written.
        """
        assert name.isidentifier() and name not in self.tensors, name
        size = mapped.size_of(shape, dtype)
        self.size += size
        if piecemeal:
            self.piecemeal.add(name)
        if (
            self.notes
            and self._part is not None
            and (there := mapped.again(self._part / name, shape, dtype)) is not None
        ):
            self.tensors[name] = there
            return there
        with self._claim(size):
            self.tensors[name] = self._zeros(name, shape, dtype)
        return self.tensors[name]

    def note(self, value: Any) -> None:
        """Note as plain values what is written, so that it need not be done again where this process is killed."""
        if self._part is not None:
            unfinished.note(self._part, value)

    def _zeros(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self._part is None:
            try:
                return torch.zeros(shape, dtype=dtype)
            except RuntimeError as error:
                raise OSError(errno.ENOMEM, f"no memory for {name} of {self.size:,} bytes") from error
        try:
            return mapped.create(self._part / name, shape, dtype)
        except OSError as error:
            raise NoRoom(error.strerror) from error

    def put(self, name: str, start: int, values: Tensor) -> None:
        """Write `values` into the tensor called `name`, from its number `start` on in row-major order."""
        try:
            mapped.put(self.tensors[name], start, values)
        except OSError as error:
            raise NoRoom(error.strerror or error) from error

    def reject(self, reason: str) -> None:
        """Have the entry serve whoever makes it, and nobody else."""
        self.rejected = reason


Make = Callable[[Writer], Mapping[str, Any]]
"""Fills an entry's tensors and returns what else is to be known of it, as plain values."""
