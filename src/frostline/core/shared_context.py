"""A context manager that threads share, for settings that are global to the process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager


def shared(make: Callable[[], AbstractContextManager[object]]) -> Callable[[], AbstractContextManager[None]]:
    """Return a context manager for several threads: the first one enters that of `make`, the last one leaves it.

    If each thread saved and restored the settings itself, it could restore what another thread had set.
    """
    lock, inside, entered = threading.Lock(), 0, ExitStack()

    @contextmanager
    def block() -> Iterator[None]:
        nonlocal inside
        with lock:
            if not inside:
                entered.enter_context(make())
            inside += 1
        try:
            yield
        finally:
            with lock:
                inside -= 1
                if not inside:
                    entered.close()

    return block
