"""One-line warnings from code without access to the terminal, e.g. in a thread or under a lock; each is shown once."""

from __future__ import annotations

import logging
from collections.abc import Callable

_say: Callable[[str], object] = logging.getLogger(__name__).warning
_told: set[str] = set()


def to(say: Callable[[str], object]) -> None:
    """Send notices to `say`, the function by which the owner of the terminal shows a line."""
    global _say
    _say = say


def tell(line: str) -> None:
    """Show `line`, unless this process has shown it before."""
    if line not in _told:
        _told.add(line)
        _say(line)
