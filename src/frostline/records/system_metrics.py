"""System metrics during a run (CPU, memory, GPU), sampled for MLflow's page on system metrics."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from frostline.core import background, notices
from frostline.records.recording import Record

_EVERY = 10.0  # seconds, as in MLflow's own sampling


@contextmanager
def sampled(record: Record | None, *, on: bool, device: str, every: float = _EVERY) -> Iterator[None]:
    """Write `system/...` metrics to the record at once and then every so many seconds within the block, if `on`.

    `device` is the config's; GPU metrics are of the GPU that it names, or of the first.
    """
    if record is None or not on:
        yield
        return
    stop, gpu = threading.Event(), int(device.partition(":")[2] or 0)
    thread = background.start(lambda: _sample(record, gpu, every, stop), name="sampling", died=_ended)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _sample(record: Record, gpu: int, every: float, stop: threading.Event) -> None:
    step = 0
    while True:
        record.metrics(_now(gpu), step=step)
        step += 1
        if stop.wait(every):
            return


def _ended(error: Exception) -> None:
    notices.tell(f"System metrics are no longer recorded ({type(error).__name__}: {error})")


def _now(gpu: int) -> dict[str, float]:
    """Return the metrics by MLflow's names: percent, and megabytes of 10**6 bytes.

    `gpu` is the number of the GPU: the current one of this thread is the first, whichever the run uses.
    """
    import psutil
    import torch

    memory = psutil.virtual_memory()
    found = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.percent,
        "system/process_memory_usage_megabytes": psutil.Process().memory_info().rss / 1e6,
    }
    if torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info(gpu)
        found["system/gpu_0_memory_usage_megabytes"] = (total - free) / 1e6
        found["system/gpu_0_memory_usage_percentage"] = 100 * (total - free) / total
        with contextlib.suppress(Exception):  # needs nvidia-ml-py, which raises errors of its own on MIG devices
            found["system/gpu_0_utilization_percentage"] = float(torch.cuda.utilization(gpu))
    return found
