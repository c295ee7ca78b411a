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
    """Whether the collector was at work each time that all there was by then was kept from it."""
    found: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: found.append(gc.isenabled()))
    return found


def test_no_garbage_is_looked_for_while_modules_are_loaded_nor_in_them_later(frozen: list[bool]) -> None:
    enabled = [gc.isenabled()]
    garbage.spared(lambda: enabled.append(gc.isenabled()))
    assert [*enabled, gc.isenabled()] == [True, False, True] and frozen == [False]

    def fail() -> None:
        raise ImportError

    with pytest.raises(ImportError):
        garbage.spared(fail)
    assert gc.isenabled() and frozen == [False, False]


@pytest.mark.parametrize("torch", [False, True])
def test_a_command_ends_without_a_look_at_all_it_loaded_but_for_torch_which_would_tell_of_leaks(
    torch: bool, frozen: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    last: list[object] = []
    monkeypatch.setattr(atexit, "register", last.append)
    monkeypatch.setattr(sys, "argv", ["train.py", "=1"])
    with pytest.raises(SystemExit):
        cli.main()
    if not torch:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "torch", sys)
    assert last == [garbage.leave] and not frozen
    garbage.leave()
    assert frozen == ([] if torch else [True])
