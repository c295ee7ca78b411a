"""Exclude loaded modules from Python's garbage collection, which speeds up imports and the end of a process.

While modules load, the collector scans all objects again and again: a fifth of the import time of torch or MLflow. At
the end of a process it scans them once more, 0.6 s after a sweep. Excluded objects are never destroyed, which the
libraries of torch's compiler report as leaks at exit: a process that loads torch this way ends by `os._exit`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable


def spared(load: Callable[[], object]) -> None:
    """Call `load`, which imports modules, without garbage collection, and exclude all objects of then from later ones.

    If torch was imported before, nothing is excluded.
    """
    enabled, with_torch = gc.isenabled(), _torch_is_there()
    gc.disable()
    try:
        load()
    finally:
        if not with_torch:
            gc.freeze()
        if enabled:
            gc.enable()


def leave() -> None:
    """Skip the last garbage collection of an interpreter that ends now, unless torch is imported."""
    if not _torch_is_there():
        gc.freeze()


def _torch_is_there() -> bool:
    return "torch" in sys.modules
