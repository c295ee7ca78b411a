"""What other packages add by entry points: sources of pictures, networks and commands, loaded when asked for by name.

A config names a plugin and holds no code: what runs is what was installed.
"""

from __future__ import annotations

import hashlib
import inspect
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from frostline.core.errors import UserError

SOURCES, MODELS, COMMANDS = "frostline.sources", "frostline.models", "frostline.commands"
"""Groups of entry points: a function that opens splits, a `models.build.Architecture`, a module with `main`."""


def names(group: str) -> list[str]:
    """Return what is there of a group."""
    return sorted({point.name for point in entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """Return the object behind the entry point called `name`, None where there is none; UserError where it fails."""
    point = _point(group, name)
    if point is None:
        return None
    try:
        return point.load()
    except Exception as error:  # whatever the other package raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{name}: expected a plugin of {group} that can be loaded from {point.value} ({reason})"
        ) from error


def identity(group: str, name: str) -> str | None:
    """Return what stands for the code of a plugin: its package's version and the sha256 of its module; None if none."""
    point = _point(group, name)
    if point is None:
        return None
    module = inspect.getsourcefile(inspect.getmodule(point.load()) or point.load())
    code = hashlib.sha256(Path(module).read_bytes()).hexdigest() if module else ""
    return f"{point.dist.version if point.dist else ''} {code}"


def _point(group: str, name: str) -> EntryPoint | None:
    return next(iter(entry_points(group=group, name=name)), None)
