"""Selected rows of a tensor that may be a file, gathered on demand."""

from __future__ import annotations

import os
from functools import partial

import torch
from torch import Tensor

from frostline.store.mapped import compare_rows, file_of
from frostline.store.prefetch import Prefetch

MOVED = 1 << 26
"""Bytes per copy to a device."""


class Rows:
    """Selected rows of a tensor, gathered on demand."""

    def __init__(self, tensor: Tensor, rows: Tensor, *, streamed: bool = False) -> None:
        """Row i is row `rows[i]` of `tensor`; if `streamed`, a mapped tensor is read through its file at each use.

        Through the mapping, the system would also keep many pages around each row in the process's memory.
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

    def prefetch(self, index: Tensor) -> None:
        """Start to read the rows at `index` in the background, if they come from a file."""
        if self._file is not None:
            self._coming.begin(index, partial(self._read, self._file, self._rows[index]))

    def streamed(self) -> Rows:
        """Return the same rows in streamed form, which leaves no pages in memory."""
        return Rows(self.whole, self._rows, streamed=True)

    def to(self, device: torch.device) -> Tensor | Rows:
        """Return all rows as a tensor on `device`, copied in parts; `self` if they are there already."""
        if device == self.device:
            return self
        moved = torch.empty(self.shape, dtype=self.dtype, device=device)
        step, parts = max(1, MOVED // max(1, self.whole[:1].nbytes)), self.streamed()
        for start in range(0, len(self), step):
            moved[start : start + step] = parts[start : start + step].to(device)
        return moved

    def _read(self, file: int, rows: Tensor) -> Tensor:
        """Return the rows with the indices `rows` of the whole tensor, read from its file."""
        compare_rows(self.whole, rows)
        found = torch.empty((*rows.shape, *self.shape[1:]), dtype=self.dtype)
        size = self.whole[:1].nbytes
        places = found.view(-1).view(torch.uint8).view(-1, size).numpy()
        for place, row in zip(places, rows.view(-1).tolist(), strict=True):
            if os.preadv(file, [place], row * size) != size:
                raise OSError("a file of the store has become shorter")
        return found
