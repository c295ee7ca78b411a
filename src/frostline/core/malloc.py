"""What glibc's malloc does with freed memory: kept for the next who asks, or given back; nothing on other systems.

To map and clear the same blocks again for every batch takes a third of the time of a small network on a CPU (the row
`head sweep against one pass of the backbone` of the benchmarks states it). The options are those of mallopt(3).
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Mapping

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_USUAL = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
"""What glibc comes to by itself in a process with large blocks."""
_set: dict[int, int] = {}
"""The options that were set last."""


def keep() -> None:
    """Have freed memory kept."""
    _put(_KEEPING)


def as_usual() -> None:
    """Have it given back as glibc does by itself, and what is free now at once."""
    _put(_USUAL)


def _put(options: Mapping[int, int]) -> None:
    """Set options, and give the system back what is free now, unless they are set already."""
    libc = _glibc()
    if libc is not None and _set != options:
        _set.clear()
        _set.update(options)
        for option, value in options.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
