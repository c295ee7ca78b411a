"""Locks between processes, on file systems without locks too: there a file that its holder refreshes stands for one.

Network file systems may refuse flock, e.g. NFS without its lock daemon (ENOLCK) or Lustre mounted without `flock`
(ENOSYS). All of them create a file for one process only, so what a lock guards stays guarded.
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
_SILENT = 60.0  # seconds without a refresh after which the holder of such a file counts as gone; it makes three in them


@contextmanager
def held(path: Path, *, timeout: float = NEVER) -> Iterator[None]:
    """Hold the lock at `path` within the block; raises as `acquire` does."""
    lock = acquire(path, timeout=timeout)
    try:
        yield
    finally:
        lock.release()


def acquire(path: Path, *, timeout: float = NEVER) -> BaseFileLock:
    """Return the lock at `path`, held until its `release` or the end of the process.

    Raises filelock's `Timeout`, an OSError, if others hold it for `timeout` seconds, and OSError where no file can be
    created. That the file system has no locks is said once.
    """
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in _MISSING:  # a Timeout has no number
            raise
        notices.tell(f"{_top(path)} has no locks ({error.strerror}): files that are refreshed stand for them there")
        lease = SoftFileLease(f"{path}.lease", lease_duration=_SILENT, on_compromise=lambda loss: _lost(path, loss))
        lease.acquire(timeout=timeout)
        return lease
    return lock


class Shared:
    """Holds a file that is there, together with others, for as long as this is referred to.

    Raises `BlockingIOError` while somebody has it alone. Where the file system has no locks nothing is held.
    """

    def __init__(self, path: Path) -> None:
        file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, file)
        _flock(file, fcntl.LOCK_SH)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a file that is there alone within the block; raises `BlockingIOError` while others hold it."""
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
    """Say that somebody else took what stands for the lock at `path`, since nobody refreshed it."""
    notices.tell(f"the lock {path} was lost ({getattr(loss, 'reason', loss)}): another process may do the same work")


def _top(path: Path) -> Path:
    """Return where the file system begins in which `path` is to lie."""
    folder = path.parent.resolve()
    device = folder.stat().st_dev
    while folder != folder.parent and folder.parent.stat().st_dev == device:
        folder = folder.parent
    return folder
