"""Python's garbage collector, spared what stays anyway: modules, and all that they define.

While they are loaded it goes through all there is again and again, which is a fifth of the time that torch takes, or
MLflow; and once more when the process ends, where that takes 0.6 s after a sweep. What it is spared is never taken
apart, which the libraries of torch's compiler print at the end as leaks: who loads torch so leaves by `os._exit`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable


def spared(load: Callable[[], object]) -> None:
    """Call what loads modules, and look for garbage neither meanwhile nor, later, in what is there by then.

    Where torch is there already it is looked for in all of it, later.
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
    """Have the interpreter, which ends now, leave to the system what is in memory, if torch is not there."""
    if not _torch_is_there():
        gc.freeze()


def _torch_is_there() -> bool:
    return "torch" in sys.modules
