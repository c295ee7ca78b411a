"""Sweeps that answer which layers of a pretrained image classifier should learn."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if sys.platform == "win32":  # file locks, mapped files and signals are those of POSIX
    raise ImportError("frostline needs Linux or macOS; on Windows, run it in WSL")
if TYPE_CHECKING:
    from frostline.api import advise, compose, load, open, plan, sweep
    from frostline.api.advice import Advice
    from frostline.api.classifier import Classifier
    from frostline.api.results import Report, Run, Sweep
    from frostline.core.config import Config
    from frostline.core.errors import UserError

__version__ = "0.1.0"
__all__ = [
    "Advice",
    "Classifier",
    "Config",
    "Report",
    "Run",
    "Sweep",
    "UserError",
    "advise",
    "compose",
    "load",
    "open",
    "plan",
    "sweep",
]


def __getattr__(name: str) -> object:
    """Load a public name on first use, so that an error on the command line is reported without loading them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from frostline import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
