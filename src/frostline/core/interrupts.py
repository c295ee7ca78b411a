"""Ctrl-C, SIGTERM, a lost terminal: at once, or, while a state must not be torn, as soon as it is whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, SIGHUP where the terminal is gone, or a warning: the text says which. It ends a sweep as Ctrl-C does."""


_asked: KeyboardInterrupt | None = None
_waiting = False
_once = _heard = False
_ctrl_c: int = signal.SIGINT


def install(ctrl_c: int = signal.SIGINT, *, once: bool = False, warning: int | None = None) -> None:
    """Have SIGTERM, SIGHUP and Ctrl-C of this process come here; only its main thread may ask for that.

    Ctrl-C may be another signal than SIGINT. With `once` all but the first interrupt are ignored. A `warning` is what a
    cluster sends before a time limit.
    """
    global _once, _ctrl_c
    _once, _ctrl_c = once, ctrl_c
    signal.signal(signal.SIGTERM, _arrived)
    if warning is not None:
        signal.signal(warning, _arrived)
    signal.signal(ctrl_c, _arrived)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it: the sweep is to outlive its terminal
        signal.signal(signal.SIGHUP, _arrived)


def name(interrupt: KeyboardInterrupt) -> str:
    """Return what ended a run, for people."""
    return str(interrupt) if isinstance(interrupt, Terminated) else "Ctrl-C"


def status(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status of a process that ends because of it, as shells count: 128 and the signal's number."""
    return 128 + (signal.Signals[str(interrupt)] if isinstance(interrupt, Terminated) else signal.SIGINT)


def how_ended(status: int) -> str:
    """Return how another process ended, by its exit status, which is less than 0 for a signal."""
    if status >= 0:
        return f"exited with status {status}"
    names = {one.value: one.name for one in signal.Signals} | {signal.SIGKILL: "out of memory?"}
    hint = f" ({names[-status]})" if -status in names else ""
    return f"was killed by signal {-status}{hint}"


@contextmanager
def deferred() -> Iterator[None]:
    """Keep a first interrupt waiting within the block, for `requested` to tell; a second one is raised at once.

    Whoever is inside asks often and calls `obey` when the state is whole. The end of the block obeys, too.
    """
    global _waiting
    _waiting = True
    try:
        yield
    finally:
        _waiting = False
        obey()


@contextmanager
def welcome() -> Iterator[None]:
    """Raise interrupts at once within the block, inside `deferred` too: for what takes long and changes no state."""
    global _waiting
    before, _waiting = _waiting, False
    try:
        obey()
        yield
    finally:
        _waiting = before


def requested() -> bool:
    """Return whether an interrupt is waiting."""
    return _asked is not None


def obey() -> None:
    """Raise the interrupt that is waiting, if there is one."""
    global _asked
    if (asked := _asked) is not None:
        _asked = None
        raise asked


def _arrived(number: int, _frame: FrameType | None) -> None:
    global _asked, _heard
    if _once and _heard:
        return
    _heard = True
    terminated = number != _ctrl_c
    interrupt = Terminated(signal.Signals(number).name) if terminated else KeyboardInterrupt()
    if _waiting and _asked is None:
        _asked = interrupt
    else:
        _asked = None
        raise interrupt
