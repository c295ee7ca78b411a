"""What the program does beside sweeps: `python -m frostline <command>`, one module per command, loaded when asked for.

Each module has `main(arguments) -> int`, which returns the exit status, and a docstring whose first line is its help.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence


def names() -> list[str]:
    """Return the commands there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def run(name: str, arguments: Sequence[str]) -> int:
    """Carry out the command called `name` and return its exit status; raises `UserError` for a person's mistake."""
    status: int = importlib.import_module(f"{__name__}.{name}").main(list(arguments))
    return status
