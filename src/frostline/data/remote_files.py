"""Files wherever they are, by fsspec: on this machine, or at `s3://`, `gs://`, `http://` and whatever else it knows.

Found by a pattern, and read in parts. fsspec has an object of its own for every thread and process, so that what is
here may be asked by all of them, also after a fork.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from math import prod
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec

from frostline.core.errors import UserError, one_line, user_error
from frostline.core.files import expanded
from frostline.data.names import printable, some

AT_ONCE = 16
"""Requests to a server under way at the same time: what a browser does."""
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*://|[a-z0-9]+::")
_TOLD = ("etag", "lastmodified", "last_modified", "mtime", "updated", "created", "md5hash", "content_md5", "ino")
"""What stores call that by which a file is seen to have changed, in small letters."""
_PAUSES = (1.0, 4.0)  # seconds before a server is asked for the same part again
_MOST = 1_000_000  # names that braces may stand for


@dataclass(frozen=True)
class RemoteFile:
    """A file as it was when it was found."""

    url: str
    size: int
    """In bytes."""
    facts: tuple[str, ...]
    """What else its keeper tells of it that changes when it is written again: times, an ETag."""

    @property
    def name(self) -> str:
        """What it is called within its folder."""
        return PurePosixPath(self.url).name


def is_elsewhere(text: str) -> bool:
    """Return whether a path says by which protocol the file is reached."""
    return bool(_ELSEWHERE.match(text))


def joined(root: str, path: str) -> str:
    """Return `path` as seen from the folder `root`."""
    if is_elsewhere(path) or Path(path).is_absolute() or not root:
        return path
    return f"{root.rstrip('/')}/{path}"


def find(key: str, pattern: str, suffix: str) -> list[RemoteFile]:
    """Return the files that a pattern stands for, each once, in order: `a-{00..12}.tar`, `a-*.tar`, or a whole folder.

    Of a folder those that end with `suffix`, at any depth, hidden ones left out. `key` is what the pattern was given
    as. Raises `UserError` where there are none, or not all that braces name, or where they cannot be reached.
    """
    protocol, mark, _ = pattern.partition("://")
    if mark and "::" not in protocol and protocol not in (known := fsspec.available_protocols()):
        near = [pattern.replace(protocol, one, 1) for one in known]
        raise user_error(key, pattern, f"a protocol that fsspec knows, as s3://, not {protocol}://", near)
    try:
        names = _names(key, pattern)
        urls = [url for name in names for url in _matching(name, suffix)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(_look, dict.fromkeys(urls)))
    except UserError:
        raise
    except ImportError as error:  # fsspec says what to install
        expected = f"what reads {pattern.partition(':')[0]}:// to be installed ({error})"
        raise user_error(key, pattern, expected) from error
    except Exception as error:  # of the network, of whoever keeps the files, of a protocol that nobody knows
        raise unreachable(key, pattern, error) from error
    lost = [url for url, file in zip(dict.fromkeys(urls), found, strict=True) if file is None]
    if lost or not found:
        there = f"{some(lost)} {'is' if len(lost) == 1 else 'are'} not there" if lost else "there are none"
        raise user_error(key, pattern, f"files that are there, such as shards-000.tar, but {there}")
    return [file for file in found if file is not None]


def unreachable(key: str, given: str, error: Exception) -> UserError:
    """Return the error for files that cannot be read."""
    return user_error(key, given, f"files that can be reached and read ({one_line(error)})")


def opened(file: RemoteFile) -> AbstractContextManager[IO[bytes]]:
    """Return the file, to be read from its beginning on and, in larger steps, forward."""
    system, path = fsspec.core.url_to_fs(file.url)
    return system.open(path, "rb")


def part(file: RemoteFile, start: int, size: int) -> bytes:
    """Return `size` bytes from byte `start` on, fewer only where the file ends before.

    `OSError` where they cannot be had, of which `FileNotFoundError` is final; a server is asked three times.
    """
    for pause in (*_PAUSES, None):
        try:
            return _part(file, start, size)
        except FileNotFoundError:
            raise
        except Exception as error:  # of the network, or of whoever keeps the files
            if pause is None or not is_elsewhere(file.url):
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise OSError(errno.EIO, one_line(error)) from error
            time.sleep(pause)
    raise AssertionError


def _part(file: RemoteFile, start: int, size: int) -> bytes:
    system, path = fsspec.core.url_to_fs(file.url)
    content: bytes = system.cat_file(path, start=start, end=start + size) if size else b""
    if len(content) > size:  # a plain server sends the whole file, whatever it is asked for
        raise OSError(errno.EIO, f"{file.name} comes as a whole only: its server knows no ranges")
    return content


def content(url: str) -> bytes:
    """Return a small file; raises what its keeper or the network says where it cannot be had."""
    system, path = fsspec.core.url_to_fs(url)
    found: bytes = system.cat_file(path)
    return found


def read_text(url: str) -> str | None:
    """Return what a small file says, None where there is none; UnicodeDecodeError where that is no UTF-8."""
    try:
        return content(url).decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _names(key: str, pattern: str) -> list[str]:
    """Return what the braces of a pattern stand for, as in a shell: `{00..12}`, `{one,two}`; the last the fastest."""
    text = pattern if is_elsewhere(pattern) else os.path.normpath(expanded(pattern).absolute())
    pieces = [_choices(piece) for piece in re.split(r"(\{[^{}]*\})", text)]
    if prod(map(len, pieces)) > _MOST:
        raise user_error(key, pattern, f"at most {_MOST:,} files")
    return ["".join(one) for one in itertools.product(*pieces)]


def _choices(piece: str) -> Sequence[str]:
    if span := re.fullmatch(r"\{(\d+)\.\.(\d+)\}", piece):
        low, high = int(span[1]), int(span[2])
        width = max(map(len, span.groups())) if any(end.startswith("0") for end in span.groups()) else 0
        numbers = range(low, high + 1) if low <= high else range(low, high - 1, -1)
        return [f"{number:0{width}d}" for number in itertools.islice(numbers, _MOST + 1)]
    inside = piece[1:-1].split(",") if piece.startswith("{") and piece.endswith("}") else []
    return inside if len(inside) > 1 else [piece]


def _matching(name: str, suffix: str) -> list[str]:
    """Return the URLs of what a name stands for: itself, what fits its `*` and `?`, or the files of its folder."""
    system, path = fsspec.core.url_to_fs(name)
    if any(sign in path for sign in "*?[") and not system.exists(path):
        return [_url(system, one, name) for one in sorted(system.glob(path))]
    if not name.lower().endswith(suffix) and system.isdir(path):
        top = len(path.rstrip("/")) + 1
        inside = [one for one in sorted(system.find(path)) if one.lower().endswith(suffix)]
        return [_url(system, one, name) for one in inside if not re.search(r"(^|/)\.", one[top:])]
    return [name]


def _url(system: Any, path: str, like: str) -> str:
    """Return how a path of a file system is written where it was reached by a name `like` that."""
    return str(system.unstrip_protocol(path)) if is_elsewhere(like) else path


def _look(url: str) -> RemoteFile | None:
    """Return what is known of a file, None where it is not there."""
    system, path = fsspec.core.url_to_fs(url)
    try:
        told = system.info(path)
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec says so of a server that cannot be reached, too
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise cause from None
        return None
    if told.get("size") is None or told.get("type") == "directory":
        raise OSError(f"{printable(PurePosixPath(url).name)} is a folder, or its server does not tell its size")
    facts = {key.lower(): value for key, value in told.items() if key.lower() in _TOLD}
    return RemoteFile(url, int(told["size"]), tuple(f"{key}={_plain(facts[key])}" for key in sorted(facts)))


def _plain(value: object) -> object:
    return value.timestamp() if isinstance(value, datetime) else value
