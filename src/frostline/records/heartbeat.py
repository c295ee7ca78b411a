"""Ownership of run folders by heartbeat: one process writes to a folder, touches a file meanwhile, and releases it.

Other processes, of any launcher, find the folder taken. The folder of a dead process goes to the next one.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from frostline.core import background, locks, notices
from frostline.records import liveness
from frostline.records.layout import BEAT, RUN_LOCK
from frostline.records.liveness import Owner

_EVERY = 5.0  # seconds between touches of a heartbeat file
_TOLD = 60.0  # seconds between updates of the tag
_LOOK = 1.0  # seconds between checks of the heartbeat of an owner on another machine
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)


class Busy(Exception):
    """The run has a living owner, whom the message names."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        super().__init__(f"{owner} has it at this moment")
        self.folder, self.owner = folder, owner


class Heartbeat:
    """The heartbeat of this process: a thread that touches the files which name it; owns the runs that it took."""

    def __init__(self, *files: Path) -> None:
        """Start touching these `files`, as long as they name this process."""
        self._files, self._taken = [*files], list[Path]()
        self._tell: Callable[[str], object] | None = None
        self._telling = threading.Lock()
        self._done = threading.Event()
        self._thread = background.start(self._run, name="heartbeat", died=_stopped)

    def take(self, folder: Path, *, heir_of: Owner | None = None) -> Owner | None:
        """Take the run in `folder` and return None, or return its living owner if that is another process.

        An owner `heir_of` gives way to this process. A folder that is missing or read-only is not taken.
        """
        try:
            with locks.held(folder / RUN_LOCK):
                owner = liveness.living(folder / BEAT)
                if owner not in (None, liveness.this_process(), heir_of):
                    return owner
                liveness.write(folder / BEAT)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
            return liveness.living(folder / BEAT)
        self._taken.append(folder)
        self._files.append(folder / BEAT)
        return None

    def claim(self, folder: Path, *, heir_of: Owner | None = None) -> None:
        """Take the run in `folder`, or raise `Busy`.

        An owner on another machine may be alive or just killed: wait for its next heartbeat, or until it has been
        silent for `liveness.SILENT` seconds.
        """
        before: float | None = None
        while (owner := self.take(folder, heir_of=heir_of)) is not None:
            beat = _last_beat(folder / BEAT)
            if owner.here or before not in (None, beat):
                raise Busy(folder, owner)
            before = beat
            time.sleep(_LOOK)

    @contextmanager
    def telling(self, tell: Callable[[str], object]) -> Iterator[None]:
        """Call `tell` about once a minute within the block, with the time in seconds since 1970 as text."""
        self._tell = tell
        try:
            yield
        finally:
            with self._telling:  # wait for a call in progress
                self._tell = None

    def stop(self) -> None:
        """Stop the thread, and release the runs that were taken."""
        self._done.set()
        self._thread.join()
        for folder in self._taken:
            with suppress(OSError), locks.held(folder / RUN_LOCK):
                if liveness.read(folder / BEAT) == liveness.this_process():  # else another process has taken it
                    (folder / BEAT).unlink()

    def _run(self) -> None:
        told = time.monotonic()
        while not self._done.wait(_EVERY):
            for file in [*self._files]:
                with suppress(OSError):
                    if liveness.read(file) == liveness.this_process():
                        os.utime(file)
            if time.monotonic() - told >= _TOLD:
                told = time.monotonic()
                with suppress(OSError), self._telling:
                    if self._tell is not None:
                        self._tell(f"{time.time():.0f}")


@contextmanager
def beating(*files: Path) -> Iterator[Heartbeat]:
    """Keep the heartbeat of these `files` and of all runs taken within the block; release the runs at its end."""
    heart = Heartbeat(*files)
    try:
        yield heart
    finally:
        heart.stop()


def _last_beat(path: Path) -> float:
    """Return the time of the last heartbeat in seconds since 1970; 0 where the file is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _stopped(error: Exception) -> None:
    notices.tell(
        f"The heartbeat of this process stopped ({type(error).__name__}: {error}): after {liveness.SILENT:.0f} s"
        " processes on other machines may take over its runs"
    )
