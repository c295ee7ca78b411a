"""Small files: there whole or not at all, whatever happens to who writes them, and read whatever they say."""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

_alike: dict[str, tuple[str, Path, tuple[int, ...]]] = {}
"""Of the names that `write_alike` was given: the last text, where it was written, and what the system said of it."""


def write(path: Path, text: str, *, sync: bool = False) -> None:
    """Have the file at `path` say `text`; with `sync` that is on disk on return. A kill leaves the old file or none."""
    partial = _partial(path)
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        error.filename = str(path)  # of a full disk the system names no file
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_alike(path: Path, text: str) -> None:
    """Have the file at `path` say `text`, which many folders get under the same name, as `write` does.

    It lies once on a disk with links: what is already there of this process is given another name, unless it changed.
    """
    said, place, state = _alike.get(path.name, ("", path, ()))
    if said == text and place != path and facts(str(place))[:2] == state:
        partial = _partial(path)
        with suppress(OSError):  # another disk, one without links, or too many
            try:
                partial.hardlink_to(place)
                partial.replace(path)
                return
            finally:
                partial.unlink(missing_ok=True)  # which is left beside a file that it was a name of
    write(path, text)
    _alike[path.name] = text, path, facts(str(path))[:2]


def _partial(path: Path) -> Path:
    """Return a name of its own for what becomes the file at `path` when it is whole."""
    return path.parent / f".{path.name[:40]}.{uuid.uuid4().hex}"  # of `/`, which has no name, and of a long one, too


def expanded(path: str) -> Path:
    """Return the path with the home that `~` and `~somebody` stand for; `~nobody` is a name like any other."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises RuntimeError


def readable(path: Path) -> bool:
    """Return whether this process may read what is at `path`, which others told: somebody's home is closed to us."""
    try:
        return os.access(path, os.R_OK)
    except ValueError:  # with a null, it can be none
        return False


def facts(path: str) -> tuple[int, ...]:
    """Return size and times of a file, of which a change leaves something else; nothing where it is not there."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path for each of many takes seconds
    except OSError:  # a link to nothing
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def write_json(path: Path, value: Any) -> None:
    """Have the file at `path` say `value` as indented JSON, as `write` does."""
    write(path, json_text(value))


def json_text(value: Any) -> str:
    """Return `value` as indented JSON."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Return what a JSON file says; OSError where it cannot be read, ValueError where it is none."""
    return parsed(path.read_text(encoding="utf-8"))


def json_or_none(path: Path) -> Any:
    """Return what a JSON file says; None where it cannot be read, or is none."""
    with suppress(OSError, ValueError):
        return read_json(path)
    return None


def parsed(text: str | bytes) -> Any:
    """Return what a JSON text says; ValueError where it is none, or nested so deeply that Python gives it up."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
