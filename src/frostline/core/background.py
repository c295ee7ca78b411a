"""Threads that say who hears of the exception by which they die."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


def start(target: Callable[[], object], *, name: str, died: Callable[[Exception], object]) -> threading.Thread:
    """Return a thread that carries out `target`, and ends with the process; what it raises goes to `died`, in it."""

    def call() -> None:
        try:
            target()
        except Exception as error:
            log.exception("the thread %s died", name)
            died(error)

    thread = threading.Thread(target=call, name=name, daemon=True)
    thread.start()
    return thread
