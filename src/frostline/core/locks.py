"""Locks between processes, also on file systems without flock: there the holder refreshes a lease file.

Network file systems may refuse flock, e.g. NFS without its lock daemon (ENOLCK) or Lustre mounted without `flock`
(ENOSYS). All of them create a file exclusively, so the lease file excludes other processes just as well.
"""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease

from frostline.core import notices

NEVER = -1.0
"""As a timeout: wait for as long as it takes."""
_MISSING = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
_SILENT = 60.0  # seconds without a refresh after which the holder of a lease counts as gone; it refreshes three times


@contextmanager
def held(path: Path, *, timeout: float = NEVER) -> Iterator[None]:
    """Hold the lock at `path` within the block; raises like `acquire`."""
    lock = acquire(path, timeout=timeout)
    try:
        yield
    finally:
        lock.release()


def acquire(path: Path, *, timeout: float = NEVER) -> BaseFileLock:
    """Return the lock at `path`, held until its `release` or the end of the process.

    Raises filelock's `Timeout`, an OSError, if others hold it for `timeout` seconds, and OSError if its file cannot be
    created. A file system without locks is reported once.
    """
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in _MISSING:  # a Timeout has no errno
            raise
        notices.tell(f"{_top(path)} has no locks ({error.strerror}): lease files are used instead")
        lease = SoftFileLease(f"{path}.lease", lease_duration=_SILENT, on_compromise=lambda loss: _lost(path, loss))
        lease.acquire(timeout=timeout)
        return lease
    return lock


class Shared:
    """A shared lock on an existing file, held for as long as this object lives.

    Raises `BlockingIOError` while another process holds it exclusively. Without locks in the file system, it does
    nothing.
    """

    def __init__(self, path: Path) -> None:
        file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, file)
        _flock(file, fcntl.LOCK_SH)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on an existing file within the block; raises `BlockingIOError` while others hold it."""
    with path.open("rb") as file:
        _flock(file.fileno(), fcntl.LOCK_EX)
        yield


def _flock(file: int, how: int) -> None:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _MISSING:
            raise


def _lost(path: Path, loss: object) -> None:
    """Warn that another process took the lease of the lock at `path`, because it was not refreshed in time."""
    notices.tell(f"the lock {path} was lost ({getattr(loss, 'reason', loss)}): another process may do the same work")


def _top(path: Path) -> Path:
    """Return the mount point of the file system of `path`."""
    folder = path.parent.resolve()
    device = folder.stat().st_dev
    while folder != folder.parent and folder.parent.stat().st_dev == device:
        folder = folder.parent
    return folder
