"""Some rows of a tensor, perhaps a file, gathered when they are asked for."""

from __future__ import annotations

import os
from functools import partial

import torch
from torch import Tensor

from frostline.store.mapped import compare_rows, file_of
from frostline.store.prefetch import Prefetch

MOVED = 1 << 26
"""Bytes that go to a device at once."""


class Rows:
    """Some rows of a tensor, gathered when they are asked for."""

    def __init__(self, tensor: Tensor, rows: Tensor, *, streamed: bool = False) -> None:
        """Row i of this is row `rows[i]` of `tensor`; if `streamed`, what is read of a mapped tensor is read anew.

        The system decides how much around a row that it finds in a file stays in a process's memory, and is generous.
        """
        self.whole = tensor
        self._rows = rows
        self._file = file_of(tensor) if streamed else None
        self._coming = Prefetch[Tensor]()
        self.shape = torch.Size((len(rows), *tensor.shape[1:]))
        self.dtype = tensor.dtype
        self.device = tensor.device
        self.nbytes = len(rows) * tensor[:1].nbytes

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        """Return a new tensor of the rows at `index`."""
        if (found := self._coming.take(index)) is not None:
            return found
        rows = self._rows[index]
        if self._file is not None:
            return self._read(self._file, rows)
        compare_rows(self.whole, rows)
        return self.whole[rows]

    def expect(self, index: Tensor) -> None:
        """Begin to read the rows at `index`, aside, if they have to come from a file: they are asked for soon."""
        if self._file is not None:
            self._coming.begin(index, partial(self._read, self._file, self._rows[index]))

    def streamed(self) -> Rows:
        """Return the same rows without a trace in memory of those that were read before."""
        return Rows(self.whole, self._rows, streamed=True)

    def to(self, device: torch.device) -> Tensor | Rows:
        """Return all rows as a tensor on `device`, moved there piece by piece; these where they are there already."""
        if device == self.device:
            return self
        moved = torch.empty(self.shape, dtype=self.dtype, device=device)
        step, parts = max(1, MOVED // max(1, self.whole[:1].nbytes)), self.streamed()
        for start in range(0, len(self), step):
            moved[start : start + step] = parts[start : start + step].to(device)
        return moved

    def _read(self, file: int, rows: Tensor) -> Tensor:
        """Return rows of the file itself, which is the whole tensor."""
        compare_rows(self.whole, rows)
        found = torch.empty((*rows.shape, *self.shape[1:]), dtype=self.dtype)
        size = self.whole[:1].nbytes
        places = found.view(-1).view(torch.uint8).view(-1, size).numpy()
        for place, row in zip(places, rows.view(-1).tolist(), strict=True):
            if os.preadv(file, [place], row * size) != size:
                raise OSError("a file of the store has become shorter")
        return found
