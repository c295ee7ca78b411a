"""Tensors whose memory is a file: raw numbers, found by the operating system when they are needed."""

from __future__ import annotations

import mmap
import os
import sys
import zlib
from math import prod
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor

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
_CHUNK = 1 << 20
_RESIDENT = 1 << 26  # bytes of a mapped tensor that may stay in memory while its rows are read
_maps: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()


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
        return _tensor(mmap.mmap(file.fileno(), size), shape, dtype)


def read(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return the tensor in the file at `path`; what is written to it stays in this process's memory.

    Raises `ValueError` where the file has not the size of the tensor.
    """
    size = size_of(shape, dtype)
    with path.open("rb") as file:
        if (found := os.fstat(file.fileno()).st_size) != size:
            raise ValueError(f"{path.name} has {found:,} bytes instead of {size:,}")
        if size == 0:
            return torch.zeros(shape, dtype=dtype)
        flags, access = mmap.MAP_PRIVATE | _NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        return _tensor(mmap.mmap(file.fileno(), size, flags=flags, prot=access), shape, dtype)


def _tensor(memory: mmap.mmap, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    tensor = torch.frombuffer(memory, dtype=dtype).view(shape)
    _maps[tensor.untyped_storage().data_ptr()] = memory
    return tensor


def release(tensor: Tensor) -> None:
    """Take what was read or filled of a mapped tensor out of this process's memory; it is found again when needed.

    The pages stay in the file, and in the system's cache while there is room. Does nothing to other tensors.
    """
    memory = _maps.get(tensor.untyped_storage().data_ptr())
    if memory is not None and hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED)


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file, which changes with every single byte and with any damage of up to four in a row.

    It is three times as fast as SHA-256, and no more is needed to notice a bad disk. The file is read piece by piece,
    so that none of it stays in the process's memory.
    """
    crc, buffer = 0, bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            crc = zlib.crc32(memoryview(buffer)[:count], crc)
    return crc


class Rows:
    """Some rows of a tensor, gathered when they are asked for; little of a mapped tensor stays in memory."""

    def __init__(self, tensor: Tensor, rows: Tensor) -> None:
        """Row i of this is row `rows[i]` of `tensor`."""
        self._tensor = tensor
        self._rows = rows
        self._touched = 0
        self.shape = torch.Size((len(rows), *tensor.shape[1:]))
        self.dtype = tensor.dtype
        self.device = tensor.device
        self.nbytes = len(rows) * tensor[:1].nbytes

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        """Return a new tensor of the rows at `index`."""
        found = self._tensor[self._rows[index]]
        self._touched += found.nbytes
        if self._touched > _RESIDENT:
            self._touched = 0
            release(self._tensor)
        return found

    def to(self, device: torch.device) -> Tensor | Rows:
        """Return all rows as a tensor on `device`, moved there piece by piece; these where they are there already."""
        if device == self.device:
            return self
        moved = torch.empty(self.shape, dtype=self.dtype, device=device)
        step = max(1, _RESIDENT // max(1, self._tensor[:1].nbytes))
        for start in range(0, len(self), step):
            moved[start : start + step] = self[start : start + step].to(device)
        return moved
