"""Available memory and its peak."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from frostline.core import cgroups, driver, memory

CPU = torch.device("cpu")


@pytest.mark.slow
def test_peak_counts_since_the_reset() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux can reset the peak of resident memory")
    size = 300_000_000
    memory.reset_peak(CPU)
    memory.keep_freed(CPU)
    torch.ones(size, dtype=torch.uint8)
    high = memory.peak(CPU)
    assert high > size
    memory.reset_peak(CPU)
    low = memory.peak(CPU)
    assert low < high - size // 2
    torch.ones(size, dtype=torch.uint8)
    assert memory.peak(CPU) > low + size // 2


def test_memory_kept_by_allocators_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept by malloc on a CPU, by torch's cache on a GPU."""
    gigabyte = 1 << 30
    for held in (0, 3 * gigabyte):
        machine = SimpleNamespace(available=12 * gigabyte - held)
        own = SimpleNamespace(rss=gigabyte + held, shared=gigabyte)
        monkeypatch.setattr(psutil, "virtual_memory", lambda machine=machine: machine)
        monkeypatch.setattr(cgroups, "free_memory", lambda: None)
        monkeypatch.setattr(psutil, "Process", lambda own=own: SimpleNamespace(memory_info=lambda: own))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, held=held: (12 * gigabyte - held, 80 * gigabyte))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device, held=held: held)
        for device in (CPU, torch.device("cuda:1")):
            assert memory.budget(device, None) == 4 * gigabyte
    monkeypatch.setenv(driver.SHARING, "2")
    assert memory.budget(CPU, None) == 2 * gigabyte
    assert memory.budget(CPU, 7.5) == 7_500_000_000


def test_container_limit_bounds_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=20 << 30))
    own = SimpleNamespace(rss=1 << 30, shared=1 << 29)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: own))
    for allowed, expected in ((1 << 30, (1 << 30) + (1 << 29)), (40 << 30, (20 << 30) + (1 << 29))):
        monkeypatch.setattr(cgroups, "free_memory", lambda allowed=allowed: allowed)
        assert memory.free() == expected
        assert memory.budget(CPU, None) == expected // 3


def test_peak_is_that_of_the_gpu_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {None: 1, torch.device("cuda:1"): 7}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: peaks[device])
    assert memory.peak(torch.device("cuda:1")) == 7


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), [("cuda", 0), ("cuda:1", 1)])
def test_gpu_is_initialized_before_its_peak_is_reset(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[object, ...]] = []
    for function in ("set_device", "init", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, function, lambda *given, function=function: called.append((function, *given)))
    monkeypatch.setattr(memory, "gc", SimpleNamespace(collect=lambda: called.append(("collect",))))
    memory.reset_peak(torch.device(name))
    assert called[:2] == [("set_device", number), ("init",)]
    assert called[2:] == [("collect",), ("empty_cache",), ("reset_peak_memory_stats", torch.device(name))]
