"""Limits of disk space, and files that nothing waits for."""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let this process, and those that it starts, write at most `size` bytes into a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def skip_syncs() -> None:
    """Do not wait for the disk, 4 ms per file and 9 ms per SQLite commit: tests kill processes, but cut no power."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    os.fsync = lambda descriptor: None  # type: ignore[assignment]

    @event.listens_for(Engine, "connect")
    def skip(connection: object, record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            with suppress(sqlite3.DatabaseError):  # an unreadable file: the first statement reports it
                connection.execute("PRAGMA synchronous=OFF")
