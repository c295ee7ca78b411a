"""Garbage collection is skipped while modules load and when a command ends."""

from __future__ import annotations

import atexit
import gc
import sys

import pytest

from frostline import cli
from frostline.core import garbage


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that gets, at each freeze, whether the collector was enabled; torch is not loaded."""
    found: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: found.append(gc.isenabled()))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    return found


def fail() -> None:
    raise ImportError


def test_loading_disables_collection_and_freezes_modules(frozen: list[bool]) -> None:
    enabled = [gc.isenabled()]
    garbage.spared(lambda: enabled.append(gc.isenabled()))
    assert [*enabled, gc.isenabled()] == [True, False, True] and frozen == [False]
    with pytest.raises(ImportError):
        garbage.spared(fail)
    assert gc.isenabled() and frozen == [False, False]


def test_command_freezes_its_objects_at_exit(frozen: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    last: list[object] = []
    monkeypatch.setattr(atexit, "register", last.append)
    monkeypatch.setattr(sys, "argv", ["train.py", "=1"])
    with pytest.raises(SystemExit):
        cli.main()
    assert last == [garbage.leave] and not frozen
    garbage.leave()
    assert frozen == [True]


def test_objects_are_not_frozen_at_exit_with_torch(frozen: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    garbage.spared(lambda: monkeypatch.setitem(sys.modules, "torch", sys))  # as in a worker
    assert frozen == [False]
    garbage.spared(list)
    garbage.leave()
    assert frozen == [False] and gc.isenabled()
