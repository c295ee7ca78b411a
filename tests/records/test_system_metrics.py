"""Samples go on where a card does not say how busy it is."""

from __future__ import annotations

import pytest
import torch

from frostline.records import system_metrics


class NVMLError(Exception):
    """As that of nvidia-ml-py, which is raised on divided cards."""


def test_a_card_that_does_not_say_how_busy_it_is_is_sampled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy() -> int:
        raise NVMLError("Not Supported")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (25, 100))
    monkeypatch.setattr(torch.cuda, "utilization", busy)
    found = system_metrics._now()
    assert found["system/gpu_0_memory_usage_percentage"] == 75
    assert "system/gpu_0_utilization_percentage" not in found
