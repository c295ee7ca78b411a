"""Tensors whose memory is a file: raw numbers, found by the operating system when they are needed."""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from math import prod
from pathlib import Path
from typing import Protocol

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
"""The types of stored tensors by name."""

# A private mapping may be larger than memory and swap only if it claims none; Python 3.11 has no name for this flag.
_NORESERVE = 0x4000 if sys.platform == "linux" else 0


class _Memory(mmap.mmap):
    """Memory that is a file, which can be read past the memory too."""

    file: int
    """Its descriptor, open for as long as the memory is there."""
    checks: Checks | None = None
    """What is to be compared of it before it is read; None where all was."""
    use: object = None
    """What holds it where it is."""


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
    memory = _memory(tensor)
    if memory is not None and memory.checks is not None:
        memory.checks.compare(memory.file, start, len(memory) if size is None else size)


def compare_rows(tensor: Tensor, rows: Tensor) -> None:
    """Compare the rows `(N,)` of a tensor, as `compare` does."""
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
    """Return the file that is the memory of a tensor, or of what it is a view of; None where that is plain memory."""
    return _maps.get(tensor.untyped_storage().data_ptr())


def file_of(tensor: Tensor) -> int | None:
    """Return the descriptor of the file that is the memory of `tensor`, None where it is plain memory."""
    memory = _memory(tensor)
    return None if memory is None else memory.file


class TensorPart(Protocol):
    """Some of a tensor."""

    whole: Tensor


def release(held: Tensor | TensorPart) -> None:
    """Take what was read or filled of a mapped tensor out of this process's memory; it is found again when needed.

    The pages stay in the file, and in the system's cache while there is room. Does nothing to other tensors.
    """
    tensor = held if isinstance(held, Tensor) else held.whole
    memory = _memory(tensor)
    if memory is not None and hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED)


def put(tensor: Tensor, start: int, values: Tensor) -> None:
    """Write `values` into a tensor of `create`, or into one in memory, from its number `start` on in row-major order.

    It goes by way of the file: page by page through the mapping takes longer, and leaves the pages in the process.
    Raises OSError where the file does not take it whole.
    """
    memory = _memory(tensor)
    if memory is None:
        tensor.view(-1)[start : start + values.numel()] = values.reshape(-1)
    elif os.pwrite(memory.file, values.contiguous().numpy().data, start * values.itemsize) != values.nbytes:
        raise OSError("a file of the store did not take all that was written")
