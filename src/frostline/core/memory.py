"""Memory of a process: budget for pixels and features, free memory, peak usage, and whether freed memory is kept."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch

from frostline.core import cgroups
from frostline.core.driver import SHARING

# Options of glibc's malloc, see mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_USUAL = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
"""The values to which glibc's own adjustment leads in a process with large blocks."""
_set: dict[int, int] = {}
"""The options set last."""


def budget(device: torch.device, gigabytes: float | None, *, processes: int = 1) -> int:
    """Return the bytes for pixels and features on `device`: `gigabytes` (10**9 bytes), else a third of the free memory.

    Memory that this process holds counts as free: it is left over from an earlier run. The free memory is divided among
    the workers that share the device, and among the `processes` of a run on a CPU.
    """
    if gigabytes is not None:
        return int(gigabytes * 1e9)
    on_card = device.type == "cuda"
    left = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) if on_card else free()
    return int(left) // 3 // int(os.environ.get(SHARING, "1")) // processes


def free() -> int:
    """Return the bytes that this process can have: those free in the machine and its control groups, and its own."""
    own = psutil.Process().memory_info()  # shared pages, e.g. of files, already count as available
    allowed = cgroups.free_memory()
    available = psutil.virtual_memory().available
    left = available if allowed is None else min(available, allowed)
    return int(left + own.rss - getattr(own, "shared", 0))


def keep_freed(device: torch.device) -> None:
    """On a CPU with glibc, keep freed memory in the process until `reset_peak`.

    Layer outputs are freed and allocated again and again; getting their pages from the system takes a sixth of the time
    of a forward pass, or a third with a small network (see the benchmark row `head sweep against one pass of the
    backbone`). On a GPU torch's allocator keeps freed memory by itself.
    """
    if device.type == "cpu":
        _set_malloc(_KEEPING)


def release_freed() -> None:
    """Return memory that is free now to the system, and let glibc do so again as usual."""
    _set_malloc(_USUAL)


def _set_malloc(options: Mapping[int, int]) -> None:
    """Set options of malloc, unless they are set already, and return free memory to the system; needs glibc."""
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


def reset_peak(device: torch.device) -> None:
    """Reset the measurement of peak memory, and release freed memory; make a GPU the thread's current device.

    Code of this thread that names no device then uses this GPU: the check that it still works, the test for bf16.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
        torch.cuda.init()  # the calls below do not initialise a device with an index
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        release_freed()
        with contextlib.suppress(OSError):  # Linux: 5 resets the high-water mark of resident memory (proc(5))
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak(device: torch.device) -> int:
    """Return the peak in bytes since the last reset: of torch's allocator on a GPU, of resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_bytes().splitlines() if line.startswith(b"VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
