"""Memory: how much a process may take, what it peaked at, and whether what it freed stays with it."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.core import cgroups, malloc

if TYPE_CHECKING:
    import torch

SHARING = "FROSTLINE_SHARING"
"""Variable of the environment that says how many workers share a device."""


def budget(device: torch.device, gigabytes: float | None, *, processes: int = 1) -> int:
    """Return the bytes for pixels and features on `device`: as given in 10**9 bytes, else a third of what is free.

    What this process itself holds counts as free: it is what an earlier run left. Workers that share the device share
    its budget too, and so do the `processes` of a run on a CPU.
    """
    import torch

    if gigabytes is not None:
        return int(gigabytes * 1e9)
    on_card = device.type == "cuda"
    left = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) if on_card else free()
    return int(left) // 3 // int(os.environ.get(SHARING, "1")) // processes


def free() -> int:
    """Return the bytes that this process can have: what the machine and its control groups have left, and its own."""
    import psutil

    own = psutil.Process().memory_info()  # pages of files, which are shared, count as available already
    allowed = cgroups.free_memory()
    available = psutil.virtual_memory().available
    left = available if allowed is None else min(available, allowed)
    return int(left + own.rss - getattr(own, "shared", 0))


def keep_freed(device: torch.device) -> None:
    """Let memory that is freed stay with the process until `reset_peak`, on a CPU whose malloc is glibc's.

    The outputs of a network's layers come and go, and to have their pages from the system anew takes a sixth of the
    time of a forward pass. On a GPU torch does as much by itself.
    """
    if device.type == "cpu":
        malloc.keep()


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak memory anew, without what was freed before; a GPU becomes the process's current one.

    What names no device then means this one: to a sampler, to the look at whether it still works, to bf16.
    """
    import torch

    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
        torch.cuda.init()  # which a device with an index does not do by itself in what follows
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        malloc.as_usual()
        with contextlib.suppress(OSError):  # Linux: 5 resets the high-water mark of resident memory (proc(5))
            Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Return the peak in bytes since the last reset: of the GPU's allocator, or resident in the process on a CPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
