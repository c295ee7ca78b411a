"""Memory-mapped tensors: their memory is a raw file, whose pages the operating system loads on demand."""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from frostline.store.checksums import Checks

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    )
}
"""The dtypes of stored tensors, by name."""

# Without this flag, for which Python 3.11 has no name, a private mapping cannot be larger than memory and swap.
_NORESERVE = 0x4000 if sys.platform == "linux" else 0


class _Memory(mmap.mmap):
    """A mapping of a file that can also be read through its descriptor."""

    file: int
    """Descriptor of the file, open for as long as the mapping exists."""
    checks: Checks | None = None
    """Checksums to verify before the file is read; None if there is nothing to verify."""
    use: object = None
    """Object kept alive with the mapping, e.g. the lock that prevents the file's removal."""


_maps: weakref.WeakValueDictionary[int, _Memory] = weakref.WeakValueDictionary()
"""Mappings by memory address."""


def size_of(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return the size in bytes of a tensor."""
    return prod(shape) * dtype.itemsize


def create(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor of zeros whose memory is the new file at `path`; `OSError` if the disk has no room for it.

    The file's blocks are allocated first: writing to mapped memory on a full disk would kill the process (SIGBUS).
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


def reopened(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """Return the tensor whose file an earlier `create` left at `path`, with its content; None if there is none."""
    size = size_of(shape, dtype)
    if size and path.is_file() and path.stat().st_size == size:
        with path.open("r+b") as file:
            return _tensor(_Memory(file.fileno(), size), file.fileno(), shape, dtype)
    path.unlink(missing_ok=True)
    return None


def read(
    path: Path, shape: tuple[int, ...], dtype: torch.dtype, *, checks: Checks | None = None, use: object = None
) -> Tensor:
    """Return the tensor in the file at `path`; writes to it stay in this process's memory.

    With `checks`, call `compare` on the parts to be read first. `use`, e.g. a lock on the file, lives as long as the
    tensor. Raises `ValueError` if the size of the file is not that of the tensor.
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
    """Verify the checksums of `size` bytes from byte `start` of a tensor from `read`, or of the whole tensor.

    Pieces verified before are not read again. Raises `DamagedEntry`. Does nothing to other tensors.
    """
    memory = _memory(tensor)
    if memory is not None and memory.checks is not None:
        memory.checks.compare(memory.file, start, len(memory) if size is None else size)


def compare_rows(tensor: Tensor, rows: Tensor) -> None:
    """Verify the checksums of the rows with the indices `rows` `(N,)` of a tensor, like `compare`."""
    memory = _memory(tensor)
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


def _memory(tensor: Tensor) -> _Memory | None:
    """Return the mapping behind a tensor, which may be a view; None if the tensor is in plain memory."""
    return _maps.get(tensor.untyped_storage().data_ptr())


def file_of(tensor: Tensor) -> int | None:
    """Return the descriptor of the file behind `tensor`, None if the tensor is in plain memory."""
    memory = _memory(tensor)
    return None if memory is None else memory.file


def release(tensor: Tensor) -> None:
    """Drop the pages of a mapped tensor from this process's memory; they are loaded again when needed.

    Their content stays in the file, and in the page cache while there is room. Does nothing to other tensors.
    """
    memory = _memory(tensor)
    if memory is not None and hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED)


def put(tensor: Tensor, start: int, values: Tensor) -> None:
    """Write `values` into a tensor, from `create` or in memory, from its element `start` on in row-major order.

    A mapped tensor is written through its file: writing through the mapping takes longer, and leaves the pages in the
    process's memory. Raises OSError if the file does not take all of it.
    """
    memory = _memory(tensor)
    if memory is None:
        tensor.view(-1)[start : start + values.numel()] = values.reshape(-1)
    elif os.pwrite(memory.file, values.contiguous().numpy().data, start * values.itemsize) != values.nbytes:
        raise OSError("a file of the store did not take all that was written")
