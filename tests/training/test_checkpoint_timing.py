"""When checkpoints are written, and that training does not wait for the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from frostline.core import interrupts
from frostline.training import checkpoint, checkpoint_timing
from small import last_checkpoint


def test_checkpoints_take_at_most_a_fiftieth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With epochs of 1 s and saves of 0.5 s, every 25th epoch is saved."""
    clock = 0.0

    def save(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        nonlocal clock
        clock += 0.5

    monkeypatch.setattr(checkpoint_timing.time, "perf_counter", lambda: clock)
    monkeypatch.setattr(checkpoint, "save", save)
    kept = 0
    with checkpoint_timing.CheckpointWriter(tmp_path / "checkpoint", size=0, every=None, say=print) as keeper:
        for _ in range(100):
            clock += 1
            if keeper.is_worthwhile():
                keeper.save({}, {})
                assert keeper._writing is not None
                wait([keeper._writing])
                kept += 1
    assert kept == 4


@pytest.mark.parametrize(("size", "first"), [(0, 1), (600_000_000, 100)])
def test_first_checkpoint_waits_in_proportion_to_its_size(
    size: int, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(checkpoint_timing.time, "perf_counter", lambda: clock)
    with checkpoint_timing.CheckpointWriter(tmp_path / "checkpoint", size=size, every=None, say=print) as keeper:
        while clock < 1000 and not keeper.is_worthwhile():
            clock += 1
    assert clock == first


def test_checkpoint_is_due_after_its_seconds_or_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(checkpoint_timing.time, "perf_counter", lambda: clock)
    with checkpoint_timing.CheckpointWriter(tmp_path / "checkpoint", size=0, every=0.5, say=print) as keeper:
        clock = 100.4
        assert not keeper.due() and not keeper.is_worthwhile()
        monkeypatch.setattr(interrupts, "pending", lambda: True)
        assert keeper.due() and keeper.is_worthwhile()
        monkeypatch.setattr(interrupts, "pending", lambda: False)
        clock = 100.5
        assert keeper.due() and keeper.is_worthwhile()


def test_training_continues_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has the state at the time of the call."""
    gate, save, weight, journal = threading.Event(), checkpoint.save, torch.zeros(3), [1]

    def slow(*arguments: Any) -> Path:
        gate.wait(60)
        return save(*arguments)

    monkeypatch.setattr(checkpoint, "save", slow)
    with checkpoint_timing.CheckpointWriter(tmp_path / "checkpoint", size=0, every=None, say=print) as keeper:
        keeper.save({"weight": weight}, {"journal": journal})
        weight += 1
        journal.append(2)
        later = time.perf_counter() + 1e6
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint_timing.time, "perf_counter", lambda: later)
            assert not keeper.is_worthwhile()
        assert last_checkpoint(tmp_path, print) is None
        gate.set()
    found = last_checkpoint(tmp_path, print)
    assert found is not None
    assert found[0]["weight"].tolist() == [0, 0, 0]
    assert found[1] == {"journal": [1]}


def test_failed_saves_are_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    lines: list[str] = []
    with checkpoint_timing.CheckpointWriter(tmp_path, size=0, every=None, say=lines.append) as keeper:
        keeper.save({}, {})
        keeper.save({}, {})
    assert lines == ["  no checkpoint could be written: [Errno 28] No space left on device"]
