"""A context for what is one for the whole process, and threads set: all that are in it are in the same one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager


def shared(make: Callable[[], AbstractContextManager[object]]) -> Callable[[], AbstractContextManager[None]]:
    """Return a context that is entered, as `make` returns it, by the first thread, and left by the last one in it.

    Each that saves and restores for itself would bring back what another had set.
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
