"""Background threads that report the exception by which they die."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


def start(target: Callable[[], object], *, name: str, died: Callable[[Exception], object]) -> threading.Thread:
    """Start and return a daemon thread that calls `target`; an exception is logged and passed to `died` there."""

    def call() -> None:
        try:
            target()
        except Exception as error:
            log.exception("the thread %s died", name)
            died(error)

    thread = threading.Thread(target=call, name=name, daemon=True)
    thread.start()
    return thread
