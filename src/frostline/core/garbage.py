"""Python's garbage collector, spared what stays anyway: modules, and all that they define.

While they are loaded it goes through all there is again and again, which is a fifth of the time that torch takes, or
MLflow; and once more when the process ends, where that takes 0.6 s after a sweep.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable


def spared(load: Callable[[], object]) -> None:
    """Call what loads modules, and look for garbage neither meanwhile nor, later, in what is there by then."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        load()
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def leave() -> None:
    """Have the interpreter, which ends now, leave to the system what is in memory.

    Not where torch is: the libraries of its compiler would print all of theirs that is left as leaks.
    """
    if "torch" not in sys.modules:
        gc.freeze()
