"""Samples of system metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emulated_card import EmulatedMachine
from frostline.records import system_metrics
from frostline.records.recording import Record


class NVMLError(Exception):
    """Like the exception of nvidia-ml-py, which is raised on divided GPUs (MIG)."""


def test_gpu_without_utilization_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(device: int) -> int:
        raise NVMLError("Not Supported")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (25, 100))
    monkeypatch.setattr(torch.cuda, "utilization", busy)
    found = system_metrics._now(0)
    assert found["system/gpu_0_memory_usage_percentage"] == 75
    assert "system/gpu_0_utilization_percentage" not in found


@pytest.mark.parametrize(("device", "number"), [("cuda:1", 1), ("cuda", 0), ("auto", 0)])
def test_only_the_gpu_of_the_run_is_used(device: str, number: int, tmp_path: Path) -> None:
    with EmulatedMachine(2).running() as machine:
        torch.cuda.set_device(number)  # not visible to other threads
        with system_metrics.sampled(Record(tmp_path), on=True, device=device):
            pass
    assert machine.contexts == {number}
