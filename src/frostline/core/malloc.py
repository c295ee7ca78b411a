"""Choose whether glibc's malloc keeps freed memory or returns it to the system; no effect on other systems.

Mapping and clearing the same blocks again for every batch takes a third of the time of a small network on a CPU (see
the benchmark row `head sweep against one pass of the backbone`). The options are those of mallopt(3).
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Mapping

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_USUAL = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
"""The values to which glibc's own adjustment leads in a process with large blocks."""
_set: dict[int, int] = {}
"""The options set last."""


def keep() -> None:
    """Make malloc keep freed memory for the process."""
    _put(_KEEPING)


def as_usual() -> None:
    """Restore glibc's behaviour, and return memory that is free now to the system."""
    _put(_USUAL)


def _put(options: Mapping[int, int]) -> None:
    """Set options, unless they are set already, and return free memory to the system."""
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
