"""Find local and remote files (`s3://`, `gs://`, `http://`, ...) by a pattern, and read parts of them, by fsspec.

fsspec has separate objects for every thread and process, so that these functions are safe in threads and after a fork.
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
from frostline.core.files import absolute
from frostline.data.names import printable, some

AT_ONCE = 16
"""Concurrent requests to a server, about as many as a browser makes."""
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*://|[a-z0-9]+::")
_TOLD = ("etag", "lastmodified", "last_modified", "mtime", "updated", "created", "md5hash", "content_md5", "ino")
"""Names, in lower case, of the metadata by which storage systems show that a file has changed."""
_PAUSES = (1.0, 4.0)  # seconds before a server is asked for the same part again
_MOST = 1_000_000  # largest number of names from braces


@dataclass(frozen=True)
class RemoteFile:
    """A file as it was when it was found."""

    url: str
    size: int
    """Bytes."""
    facts: tuple[str, ...]
    """Metadata that changes when the file is written again: times, an ETag."""

    @property
    def name(self) -> str:
        """File name without its folder."""
        return PurePosixPath(self.url).name


def is_elsewhere(text: str) -> bool:
    """Return whether a path has a protocol, e.g. `s3://`."""
    return bool(_ELSEWHERE.match(text))


def joined(root: str, path: str) -> str:
    """Return `path` relative to the folder `root`; absolute paths and URLs are unchanged."""
    if is_elsewhere(path) or Path(path).is_absolute() or not root:
        return path
    return f"{root.rstrip('/')}/{path}"


def find(key: str, pattern: str, suffix: str) -> list[RemoteFile]:
    """Return the files of a pattern, each once, in order: `a-{00..12}.tar`, `a-*.tar`, or a whole folder.

    Of a folder, these are the files that end with `suffix`, at any depth, without hidden ones. `key` is the config key
    of the pattern, for errors. Raises `UserError` if there are none, if a name from braces is missing, or if they are
    unreachable.
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
    except Exception as error:  # of the network, the server, or an unknown protocol
        raise unreachable(key, pattern, error) from error
    lost = [url for url, file in zip(dict.fromkeys(urls), found, strict=True) if file is None]
    if lost or not found:
        there = f"{some(lost)} {'is' if len(lost) == 1 else 'are'} not there" if lost else "there are none"
        raise user_error(key, pattern, f"shards that exist, such as shards-000.tar, but {there}")
    return [file for file in found if file is not None]


def unreachable(key: str, given: str, error: Exception) -> UserError:
    """Return the error for files that cannot be read."""
    return user_error(key, given, f"files that can be reached and read ({one_line(error)})")


def opened(file: RemoteFile) -> AbstractContextManager[IO[bytes]]:
    """Return the opened file, for sequential reads and forward seeks."""
    system, path = fsspec.core.url_to_fs(file.url)
    return system.open(path, "rb")


def part(file: RemoteFile, start: int, size: int) -> bytes:
    """Return `size` bytes from byte `start` on, fewer only at the end of the file.

    `OSError` if they cannot be read. A server is asked three times, except after `FileNotFoundError`.
    """
    for pause in (*_PAUSES, None):
        try:
            return _part(file, start, size)
        except FileNotFoundError:
            raise
        except Exception as error:  # of the network or the server
            if pause is None or not is_elsewhere(file.url):
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise OSError(errno.EIO, one_line(error)) from error
            time.sleep(pause)
    raise AssertionError


def _part(file: RemoteFile, start: int, size: int) -> bytes:
    system, path = fsspec.core.url_to_fs(file.url)
    content: bytes = system.cat_file(path, start=start, end=start + size) if size else b""
    if len(content) > size:  # a simple server ignores ranges and sends the whole file
        raise OSError(errno.EIO, f"{file.name} cannot be read in parts: its server knows no ranges")
    return content


def content(url: str) -> bytes:
    """Return the bytes of a small file; raises the error of the server or the network."""
    system, path = fsspec.core.url_to_fs(url)
    found: bytes = system.cat_file(path)
    return found


def read_text(url: str) -> str | None:
    """Return the text of a small file, None if it does not exist; UnicodeDecodeError if it is not UTF-8."""
    try:
        return content(url).decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _names(key: str, pattern: str) -> list[str]:
    """Return the brace expansion of a pattern, as in a shell: `{00..12}`, `{one,two}`; the last varies fastest."""
    text = pattern if is_elsewhere(pattern) else os.path.normpath(absolute(pattern))
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
    """Return the URLs of a name: itself, the matches of its `*` and `?`, or the files of its folder."""
    system, path = fsspec.core.url_to_fs(name)
    if any(sign in path for sign in "*?[") and not system.exists(path):
        return [_url(system, one, name) for one in sorted(system.glob(path))]
    if not name.lower().endswith(suffix) and system.isdir(path):
        top = len(path.rstrip("/")) + 1
        inside = [one for one in sorted(system.find(path)) if one.lower().endswith(suffix)]
        return [_url(system, one, name) for one in inside if not re.search(r"(^|/)\.", one[top:])]
    return [name]


def _url(system: Any, path: str, like: str) -> str:
    """Return a path of a file system as a URL, if the name `like` is one."""
    return str(system.unstrip_protocol(path)) if is_elsewhere(like) else path


def _look(url: str) -> RemoteFile | None:
    """Return size and metadata of a file, None if it does not exist."""
    system, path = fsspec.core.url_to_fs(url)
    try:
        told = system.info(path)
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec also raises this for an unreachable server
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise cause from None
        return None
    if told.get("size") is None or told.get("type") == "directory":
        raise OSError(f"{printable(PurePosixPath(url).name)} is a folder, or its server does not report its size")
    known = {key.lower(): value for key, value in told.items() if key.lower() in _TOLD}
    facts = {key: value.timestamp() if isinstance(value, datetime) else value for key, value in sorted(known.items())}
    return RemoteFile(url, int(told["size"]), tuple(f"{key}={value}" for key, value in facts.items()))
