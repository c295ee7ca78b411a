"""Handling of Ctrl-C, SIGTERM and SIGHUP: raised at once, or deferred while a state must stay consistent."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, SIGHUP or a cluster's warning signal, named by the text. It ends a sweep as Ctrl-C does."""


_asked: KeyboardInterrupt | None = None
_waiting = False
_once = _heard = False
_ctrl_c: int = signal.SIGINT
_apart = 0.0
_terminated = -math.inf


def install(ctrl_c: int = signal.SIGINT, *, once: bool = False, apart: float = 0.0, warning: int | None = None) -> None:
    """Install the handlers of SIGTERM, SIGHUP and Ctrl-C; call it from the main thread.

    `ctrl_c` is the signal that counts as Ctrl-C. With `once`, all interrupts after the first are ignored. A SIGTERM
    less than `apart` seconds after another is the same one: `timeout` sends it to the process and to its group.
    `warning` is the signal that a cluster sends before a time limit.
    """
    global _once, _apart, _ctrl_c, _terminated
    _once, _apart, _ctrl_c, _terminated = once, apart, ctrl_c, -math.inf
    signal.signal(signal.SIGTERM, _arrived)
    if warning is not None:
        signal.signal(warning, _arrived)
    signal.signal(ctrl_c, _arrived)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it: the sweep outlives its terminal
        signal.signal(signal.SIGHUP, _arrived)


def name(interrupt: KeyboardInterrupt) -> str:
    """Return the name of an interrupt for people, e.g. `SIGTERM` or `Ctrl-C`."""
    return str(interrupt) if isinstance(interrupt, Terminated) else "Ctrl-C"


def status(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status of a process that the interrupt ends, as in shells: 128 plus the signal's number."""
    return 128 + (signal.Signals[str(interrupt)] if isinstance(interrupt, Terminated) else signal.SIGINT)


def how_ended(status: int) -> str:
    """Return in words how another process ended, by its exit status, which is negative for a signal."""
    if status >= 0:
        return f"exited with status {status}"
    names = {one.value: one.name for one in signal.Signals} | {signal.SIGKILL: "out of memory?"}
    hint = f" ({names[-status]})" if -status in names else ""
    return f"was killed by signal {-status}{hint}"


@contextmanager
def deferred() -> Iterator[None]:
    """Defer the first interrupt within the block; a second one is raised at once.

    Code in the block checks `pending` often, and calls `raise_deferred` when its state is consistent. The end of the
    block raises a deferred interrupt, too.
    """
    global _waiting
    _waiting = True
    try:
        yield
    finally:
        _waiting = False
        raise_deferred()


@contextmanager
def immediate() -> Iterator[None]:
    """Raise interrupts at once within the block, also inside `deferred`: for long work that changes no state."""
    global _waiting
    before, _waiting = _waiting, False
    try:
        raise_deferred()
        yield
    finally:
        _waiting = before


def pending() -> bool:
    """Return whether an interrupt is deferred."""
    return _asked is not None


def raise_deferred() -> None:
    """Raise the deferred interrupt, if there is one."""
    global _asked
    if (asked := _asked) is not None:
        _asked = None
        raise asked


def _arrived(number: int, _frame: FrameType | None) -> None:
    global _asked, _heard, _terminated
    now, terminated = time.monotonic(), number != _ctrl_c
    if (_once and _heard) or (terminated and now - _terminated < _apart):
        return
    _heard = True
    if terminated:
        _terminated = now
    interrupt = Terminated(signal.Signals(number).name) if terminated else KeyboardInterrupt()
    if _waiting and _asked is None:
        _asked = interrupt
    else:
        _asked = None
        raise interrupt
