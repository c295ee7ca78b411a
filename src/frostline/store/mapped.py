"""Tensors whose memory is a file: raw numbers, found by the operating system when they are needed."""

from __future__ import annotations

import functools
import mmap
import os
import sys
import weakref
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from frostline.core import machine
from frostline.store.prefetch import Prefetch

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    )
}
"""The types of stored tensors by name."""

# A private mapping may be larger than memory and swap only if it claims none; Python 3.11 has no name for this flag.
_NORESERVE = 0x4000 if sys.platform == "linux" else 0
_PIECE = 1 << 18  # bytes of a file with a checksum of their own: a picture or two, as they are read in any order
_AT_ONCE = 1 << 7  # pieces that a thread reads in a row
_MOVED = 1 << 26  # bytes that go to a device at once


class DamagedEntry(Exception):
    """An entry is not what was written."""


class Checks:
    """Owns what is known of the pieces of a file: what their checksums are to be, and which of them were compared."""

    def __init__(self, sums: Sequence[int], damaged: Callable[[], DamagedEntry]) -> None:
        """Know that piece i is to have the CRC-32 `sums[i]`; what `damaged` returns is raised where one has not."""
        self._sums, self._damaged = sums, damaged
        self._open = bytearray(b"\1" * len(sums))

    def close(self) -> Self:
        """Count all pieces as compared: the file was written just now."""
        self._open.clear()
        return self

    @property
    def closed(self) -> bool:
        """Whether nothing is left to be compared."""
        return not self._open

    def compare(self, file: int, start: int, size: int) -> None:
        """Compare the pieces in which `size` bytes from `start` lie, as far as that was not done before."""
        if not self._open:
            return
        for piece in range(start // _PIECE, -(-(start + size) // _PIECE)):
            if self._open[piece : piece + 1] == b"\1":
                if zlib.crc32(os.pread(file, _PIECE, piece * _PIECE)) != self._sums[piece]:
                    raise self._damaged()
                self._open[piece : piece + 1] = b"\0"
        if 1 not in self._open:
            self.close()


class _Memory(mmap.mmap):
    """Memory that is a file, which can be read past the memory too."""

    file: int
    """Its descriptor, open for as long as the memory is there."""
    checks: Checks | None = None
    """What is to be compared of it before it is read; None where all was."""
    use: object = None
    """What holds it where it is."""


@functools.cache
def reader() -> ThreadPoolExecutor:
    """Return the thread that reads what is asked for soon."""
    return ThreadPoolExecutor(1, thread_name_prefix="reader")


_maps: weakref.WeakValueDictionary[int, _Memory] = weakref.WeakValueDictionary()
"""By the address of the memory."""


def size_of(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return the size in bytes of a tensor."""
    return prod(shape) * dtype.itemsize


def create(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor of zeros whose memory is the new file at `path`; `OSError` where the disk has no room for it.

    The room is claimed before: writing to mapped memory on a full disk would end the process (SIGBUS).
    """
    size = size_of(shape, dtype)
    with path.open("x+b") as file:
        if size == 0:
            return torch.zeros(shape, dtype=dtype)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return _tensor(_Memory(file.fileno(), size), file.fileno(), shape, dtype)


def again(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """Return the tensor of `create` whose file was left at `path`, as it was left; None where there is no such file."""
    size = size_of(shape, dtype)
    if size and path.is_file() and path.stat().st_size == size:
        with path.open("r+b") as file:
            return _tensor(_Memory(file.fileno(), size), file.fileno(), shape, dtype)
    path.unlink(missing_ok=True)
    return None


def read(
    path: Path, shape: tuple[int, ...], dtype: torch.dtype, *, checks: Checks | None = None, use: object = None
) -> Tensor:
    """Return the tensor in the file at `path`; what is written to it stays in this process's memory.

    With `checks` it is to be compared with these before it is read (`compare`). What holds the file where it is, `use`,
    is kept for as long as the tensor. Raises `ValueError` where the file has not the size of the tensor.
    """
    size = size_of(shape, dtype)
    with path.open("rb") as file:
        if (found := os.fstat(file.fileno()).st_size) != size:
            raise ValueError(f"{path.name} has {found:,} bytes instead of {size:,}")
        if size == 0:
            return torch.zeros(shape, dtype=dtype)
        flags, access = mmap.MAP_PRIVATE | _NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        memory = _Memory(file.fileno(), size, flags=flags, prot=access)
        memory.checks, memory.use = checks, use
        return _tensor(memory, file.fileno(), shape, dtype)


def compare(tensor: Tensor, start: int = 0, size: int | None = None) -> None:
    """Compare `size` bytes of a tensor of `read` from byte `start`, or all of it, with the checksums of their pieces.

    What was compared before is not read again. Raises `DamagedEntry`. Does nothing to other tensors.
    """
    memory = _maps.get(tensor.untyped_storage().data_ptr())
    if memory is not None and memory.checks is not None:
        memory.checks.compare(memory.file, start, len(memory) if size is None else size)


def compare_rows(tensor: Tensor, rows: Tensor) -> None:
    """Compare the rows `(N,)` of a tensor, as `compare` does."""
    memory = _maps.get(tensor.untyped_storage().data_ptr())
    if memory is not None and memory.checks is not None and not memory.checks.closed:
        size = tensor[:1].nbytes
        for row in rows.view(-1).tolist():
            memory.checks.compare(memory.file, row * size, size)


def _tensor(memory: _Memory, file: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    memory.file = os.dup(file)
    weakref.finalize(memory, os.close, memory.file)
    tensor = torch.frombuffer(memory, dtype=dtype).view(shape)
    _maps[tensor.untyped_storage().data_ptr()] = memory
    return tensor


def file_of(tensor: Tensor) -> int | None:
    """Return the descriptor of the file that is the memory of `tensor`, None where it is plain memory."""
    memory = _maps.get(tensor.untyped_storage().data_ptr())
    return None if memory is None else memory.file


class TensorPart(Protocol):
    """Some of a tensor."""

    whole: Tensor


def release(held: Tensor | TensorPart) -> None:
    """Take what was read or filled of a mapped tensor out of this process's memory; it is found again when needed.

    The pages stay in the file, and in the system's cache while there is room. Does nothing to other tensors.
    """
    tensor = held if isinstance(held, Tensor) else held.whole
    memory = _maps.get(tensor.untyped_storage().data_ptr())
    if memory is not None and hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED)


def put(tensor: Tensor, start: int, values: Tensor) -> None:
    """Write `values` into a tensor of `create`, or into one in memory, from its number `start` on in row-major order.

    It goes by way of the file: page by page through the mapping takes longer, and leaves the pages in the process.
    Raises OSError where the file does not take it whole.
    """
    memory = _maps.get(tensor.untyped_storage().data_ptr())
    if memory is None:
        tensor.view(-1)[start : start + values.numel()] = values.reshape(-1)
    elif os.pwrite(memory.file, values.contiguous().numpy().data, start * values.itemsize) != values.nbytes:
        raise OSError("a file of the store did not take all that was written")


def checksum(path: Path) -> list[int]:
    """Return the CRC-32 of every piece of a file: it changes with any damage of up to four bytes in a row.

    It is three times as fast as SHA-256, and no more is needed to notice a bad disk. All cores read, a little at a
    time, so that none of the file stays in the process's memory.
    """
    with path.open("rb", buffering=0) as file:
        pieces = range(0, os.fstat(file.fileno()).st_size, _PIECE)
        parts = [pieces[i : i + _AT_ONCE] for i in range(0, len(pieces), _AT_ONCE)]
        if len(parts) < 2:
            return [crc for part in parts for crc in _crcs(file.fileno(), part)]
        with ThreadPoolExecutor(machine.cores()) as pool:
            return [crc for found in pool.map(functools.partial(_crcs, file.fileno()), parts) for crc in found]


def _crcs(file: int, starts: Sequence[int]) -> list[int]:
    """Return the CRC-32 of the pieces of a file that begin at `starts`."""
    return [zlib.crc32(os.pread(file, _PIECE, start)) for start in starts]


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
            self._coming.put(index, reader().submit(self._read, self._file, self._rows[index]).result)

    def streamed(self) -> Rows:
        """Return the same rows without a trace in memory of those that were read before."""
        return Rows(self.whole, self._rows, streamed=True)

    def to(self, device: torch.device) -> Tensor | Rows:
        """Return all rows as a tensor on `device`, moved there piece by piece; these where they are there already."""
        if device == self.device:
            return self
        moved = torch.empty(self.shape, dtype=self.dtype, device=device)
        step, parts = max(1, _MOVED // max(1, self.whole[:1].nbytes)), self.streamed()
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
