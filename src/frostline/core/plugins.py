"""Plugins: data sources, networks and commands that other packages provide by entry points, loaded by name.

A config only names a plugin. The code is that of the installed package.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import Distribution, EntryPoint, EntryPoints, PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from frostline.core.errors import UserError

SOURCES, MODELS, COMMANDS = "frostline.sources", "frostline.models", "frostline.commands"
"""Entry point groups. Their objects: a function that opens splits, an `Architecture`, a module with `main`."""


def names(group: str) -> list[str]:
    """Return the names of the installed plugins of a group, sorted."""
    return sorted(_installed(group).names)


def load(group: str, name: str) -> Any:
    """Return the object of the entry point called `name`, None if there is none.

    Raises `UserError` if it cannot be loaded, or if several packages have one of that name.
    """
    same = _installed(group).select(name=name)
    if len(same) > 1:
        each = " and ".join(one.dist.name if one.dist else one.value for one in same)
        raise UserError(f"{name}: expected one plugin of {group} of that name, but {each} have one each")
    if (point := _point(group, name)) is None:
        return None
    try:
        return point.load()
    except Exception as error:  # the other package may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{name}: expected a plugin of {group} that can be loaded from {point.value} ({reason})"
        ) from error


def identity(group: str, name: str) -> str | None:
    """Return a text that identifies the code of a plugin, None if there is no such plugin.

    It has the plugin's version, the sha256 over the source of its package, and the versions of its requirements.
    """
    point = _point(group, name)
    spec = find_spec(point.module.partition(".")[0]) if point else None
    if point is None or spec is None:
        return None
    folders = map(Path, spec.submodule_search_locations or ())
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))] or [Path(str(spec.origin))]
    code = hashlib.sha256(b"\0".join(path.read_bytes() for path in files))
    own = f"{point.dist.version if point.dist else ''} {code.hexdigest()}"
    return " ".join([own, *(_required(point.dist) if point.dist else ())])


def distribution(group: str, name: str) -> str | None:
    """Return the name of the distribution to install for the plugin called `name`, None if there is none."""
    point = _point(group, name)
    return point.dist.name if point and point.dist else None


def _required(dist: Distribution) -> Iterator[str]:
    """Yield `name==version` of each installed requirement of `dist`."""
    for line in dist.requires or ():
        name = re.match(r"[\w.-]+", line)
        with suppress(PackageNotFoundError):
            if name:
                yield f"{name[0]}=={version(name[0])}"


def _point(group: str, name: str) -> EntryPoint | None:
    return next(iter(_installed(group).select(name=name)), None)


@functools.cache
def _installed(group: str) -> EntryPoints:
    """Return the entry points of a group; cached, since the look-up reads all installed packages."""
    return entry_points(group=group)
