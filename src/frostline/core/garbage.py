"""Exclude loaded modules from Python's garbage collection, which speeds up imports and the end of a process.

While modules load, the collector scans all objects again and again: a fifth of the import time of torch or MLflow. At
the end of a process it scans them once more, 0.6 s after a sweep. Excluded objects are never destroyed, which the
libraries of torch's compiler report as leaks at exit: a process that loads torch this way ends by `os._exit`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def spared(load: Callable[[], object]) -> None:
    """Call `load`, which imports modules, without garbage collection, and exclude all objects of then from later ones.

    If torch was imported before, nothing is excluded.
    """
    with_torch = "torch" in sys.modules
    with paused():
        try:
            load()
        finally:
            if not with_torch:
                gc.freeze()


@contextmanager
def paused() -> Iterator[None]:
    """Collect no garbage in the block."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def leave() -> None:
    """Skip the last garbage collection of an interpreter that ends now, unless torch is imported."""
    if "torch" not in sys.modules:
        gc.freeze()
