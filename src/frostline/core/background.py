"""Threads beside the main one: nobody reads what such a thread raises, so whoever starts it says who hears of that."""

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
