"""The garbage collector goes through what stays for good neither while it is loaded nor when the process ends."""

from __future__ import annotations

import atexit
import gc
import sys

import pytest

from frostline import cli
from frostline.core import garbage


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the collector was at work each time that all there was by then was kept from it; torch is not there."""
    found: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: found.append(gc.isenabled()))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    return found


def fail() -> None:
    raise ImportError


def test_no_garbage_is_looked_for_while_modules_are_loaded_nor_in_them_later(frozen: list[bool]) -> None:
    enabled = [gc.isenabled()]
    garbage.spared(lambda: enabled.append(gc.isenabled()))
    assert [*enabled, gc.isenabled()] == [True, False, True] and frozen == [False]
    with pytest.raises(ImportError):
        garbage.spared(fail)
    assert gc.isenabled() and frozen == [False, False]


def test_a_command_ends_without_a_look_at_all_that_it_loaded(
    frozen: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    last: list[object] = []
    monkeypatch.setattr(atexit, "register", last.append)
    monkeypatch.setattr(sys, "argv", ["train.py", "=1"])
    with pytest.raises(SystemExit):
        cli.main()
    assert last == [garbage.leave] and not frozen
    garbage.leave()
    assert frozen == [True]


def test_libraries_of_torch_are_taken_apart_in_the_end_which_would_tell_of_leaks(
    frozen: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    garbage.spared(lambda: monkeypatch.setitem(sys.modules, "torch", sys))  # a worker, which leaves at once
    assert frozen == [False]
    garbage.spared(list)
    garbage.leave()
    assert frozen == [False] and gc.isenabled()
