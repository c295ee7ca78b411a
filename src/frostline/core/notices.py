"""Warnings from where no terminal is at hand, in a thread or under a lock: one line, each once."""

from __future__ import annotations

import logging
from collections.abc import Callable

_say: Callable[[str], object] = logging.getLogger(__name__).warning
_told: set[str] = set()


def to(say: Callable[[str], object]) -> None:
    """Have notices said by `say` from now on, that of the owner of this process's terminal."""
    global _say
    _say = say


def tell(line: str) -> None:
    """Say `line`, unless this process said it before."""
    if line not in _told:
        _told.add(line)
        _say(line)
