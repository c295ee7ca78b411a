"""Atomic writes of small files, robust reads of JSON, and facts about files."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from frostline.core.errors import user_error

LFS_POINTER = b"version https://git-lfs"
"""The beginning of the small text that Git LFS leaves in place of a file that was not fetched."""
_alike: dict[str, tuple[str, Path, tuple[int, ...]]] = {}
"""Per file name of `write_alike`: the last text, the path it was written to, and the file's size and time then."""


@contextmanager
def naming(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Name the file at `path` in an OSError of the block, which writes it, by way of `partial` if that is given.

    For a full disk the system names no file. The name of any other file stays: that one cannot be read.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename) == str(partial):
            error.filename = str(path)
        raise


def write(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write `content` at `path` atomically: a kill leaves the old file or none. `sync` waits for the disk."""
    partial = _partial(path)
    try:
        with naming(path, partial):
            with partial.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_alike(path: Path, text: str) -> None:
    """Write `text` like `write`, for a file that many folders get with the same name and content.

    If this process has written the same text before, and that file has not changed, `path` becomes a hard link to it.
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
                partial.unlink(missing_ok=True)  # rename does nothing if both names are already the same file
    write(path, text)
    _alike[path.name] = text, path, facts(str(path))[:2]


def _partial(path: Path) -> Path:
    """Return a unique temporary path beside `path`, to be renamed to it."""
    return path.parent / f".{path.name[:40]}.{uuid.uuid4().hex}"  # works for `/`, which has no name, and long names


def expanded(path: str) -> Path:
    """Return the path with `~` and `~user` expanded to home folders; `~` before an unknown user is kept."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises RuntimeError


def absolute(path: str) -> Path:
    """Return the path as absolute, expanded as above, and without the `..` that a relative one begins with.

    A later `..` stays, since it may follow a symbolic link.
    """
    found = expanded(path)
    if found.is_absolute():
        return found
    here, parts = Path.cwd(), [*found.parts]
    while parts[:1] == [".."]:
        here = here.parent
        del parts[0]
    return here.joinpath(*parts)


def require_no_device(key: str, path: Path) -> None:
    """Raise `UserError` for `key` if a device or a pipe is at `path`, which a new file would replace."""
    if path.absolute().parent == Path("/dev") or (
        os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    ):
        raise user_error(key, path, "a file, and no device or pipe")


def require_place(key: str, path: Path) -> None:
    """Raise `UserError` for `key` unless `path` can be a file: it is no folder, and the folder that it is in exists."""
    require_no_device(key, path)
    if (is_folder := os.path.isdir(path)) or not os.path.isdir(path.absolute().parent):
        raise user_error(key, path, f"a file in a folder that exists{', not a folder itself' if is_folder else ''}")


def readable(path: Path) -> bool:
    """Return whether this process may read the file at `path`, e.g. one recorded by another user."""
    try:
        return os.access(path, os.R_OK)
    except ValueError:  # a null byte in the path
        return False


def facts(path: str) -> tuple[int, ...]:
    """Return size, mtime and ctime (ns) of a file, at least one of which any change alters; empty if it is missing."""
    try:
        status = os.stat(path)  # noqa: PTH116 - for many files, Path objects cost seconds
    except OSError:  # missing, or a broken link
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def write_json(path: Path, value: Any) -> None:
    """Write `value` to the file at `path` as indented JSON, like `write`."""
    write(path, json_text(value))


def json_text(value: Any) -> str:
    """Return `value` as indented JSON."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; OSError if it cannot be read, ValueError if it is not JSON."""
    return parsed(path.read_text(encoding="utf-8"))


def json_or_none(path: Path) -> Any:
    """Return the content of a JSON file; None if it cannot be read or is not JSON."""
    with suppress(OSError, ValueError):
        return read_json(path)
    return None


def parsed(text: str | bytes) -> Any:
    """Return the value of a JSON text; ValueError if it is not JSON, or nested too deeply for Python's parser."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
