"""What other packages add by entry points: sources of pictures, networks and commands, loaded when asked for by name.

A config names a plugin and holds no code: what runs is what was installed.
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
"""Groups of entry points: a function that opens splits, a `models.architecture.Architecture`, a module with `main`."""


def names(group: str) -> list[str]:
    """Return what is there of a group."""
    return sorted(_points(group))


def load(group: str, name: str) -> Any:
    """Return the object behind the entry point called `name`, None where there is none.

    Raises `UserError` where it fails, and where several packages have one of that name.
    """
    point = _points(group).get(name)
    if point is None:
        return None
    if len(same := [one for one in _installed(group) if one.name == name]) > 1:
        each = " and ".join(one.dist.name if one.dist else one.value for one in same)
        raise UserError(f"{name}: expected one plugin of {group} of that name, but {each} have one each")
    try:
        return point.load()
    except Exception as error:  # whatever the other package raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{name}: expected a plugin of {group} that can be loaded from {point.value} ({reason})"
        ) from error


def identity(group: str, name: str) -> str | None:
    """Return what stands for the code of a plugin, None if there is none.

    That is its version, the sha256 over the source of its package, and the versions of what its distribution requires.
    """
    point = _points(group).get(name)
    spec = find_spec(point.module.partition(".")[0]) if point else None
    if point is None or spec is None:
        return None
    folders = map(Path, spec.submodule_search_locations or ())
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))] or [Path(str(spec.origin))]
    code = hashlib.sha256(b"\0".join(path.read_bytes() for path in files))
    own = f"{point.dist.version if point.dist else ''} {code.hexdigest()}"
    return " ".join([own, *(_required(point.dist) if point.dist else ())])


def distribution(group: str, name: str) -> str | None:
    """Return what is to be installed for the plugin called `name`, None where there is none."""
    point = _points(group).get(name)
    return point.dist.name if point and point.dist else None


def _required(dist: Distribution) -> Iterator[str]:
    """Yield name and version of each distribution that another one requires and that is there."""
    for line in dist.requires or ():
        name = re.match(r"[\w.-]+", line)
        with suppress(PackageNotFoundError):
            if name:
                yield f"{name[0]}=={version(name[0])}"


def _points(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name."""
    return {point.name: point for point in _installed(group)}


@functools.cache
def _installed(group: str) -> EntryPoints:
    """Return the entry points of a group: looked up once, since all that is installed is read for it."""
    return entry_points(group=group)
