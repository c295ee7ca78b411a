"""A run's folder has one writer: who wants to write takes it, gives signs of life while it has it, and lets it go.

Whoever comes meanwhile, by whatever launcher, finds it taken. What a process had that is gone goes to the next.
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

_EVERY = 5.0  # seconds between two touches of a file
_TOLD = 60.0  # seconds between two updates of the tag
_LOOK = 1.0  # seconds between two looks at the sign of somebody of whom it is not known whether he lives
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)


class Busy(Exception):
    """A run that is to be carried out has somebody who lives; the text says who, for people."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        super().__init__(f"{owner} has it at this moment")
        self.folder, self.owner = folder, owner


class Heart:
    """Gives signs of life in the files that name this process, in a thread of its own; owns the runs it took."""

    def __init__(self, *signs: Path) -> None:
        """Touch the files `signs`, as long as they name this process."""
        self._signs, self._taken = [*signs], list[Path]()
        self._tell: Callable[[str], object] | None = None
        self._telling = threading.Lock()
        self._done = threading.Event()
        self._thread = background.start(self._run, name="heartbeat", died=_stopped)

    def take(self, folder: Path, *, heir_of: Owner | None = None) -> Owner | None:
        """Have the run in `folder` from now on; or return who has it, this process and `heir_of` aside.

        One in a folder that cannot be written to, or is not there, is nobody's, and is not taken.
        """
        try:
            with locks.held(folder / RUN_LOCK):
                owner = liveness.living(folder / BEAT)
                if owner not in (None, liveness.me(), heir_of):
                    return owner
                liveness.write(folder / BEAT)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
            return liveness.living(folder / BEAT)
        self._taken.append(folder)
        self._signs.append(folder / BEAT)
        return None

    def claim(self, folder: Path, *, heir_of: Owner | None = None) -> None:
        """Have the run in `folder`, or raise `Busy`.

        Of a process elsewhere it is not known whether it lives or was killed a moment ago: its next sign says so, or
        that there is none for `liveness.SILENT` seconds.
        """
        before: float | None = None
        while (owner := self.take(folder, heir_of=heir_of)) is not None:
            sign = _sign(folder / BEAT)
            if owner.here or before not in (None, sign):
                raise Busy(folder, owner)
            before = sign
            time.sleep(_LOOK)

    @contextmanager
    def telling(self, tell: Callable[[str], object]) -> Iterator[None]:
        """Call `tell(seconds since 1970)` now and then within the block."""
        self._tell = tell
        try:
            yield
        finally:
            with self._telling:  # not in the middle of a word
                self._tell = None

    def stop(self) -> None:
        """Let go of what was taken."""
        self._done.set()
        self._thread.join()
        for folder in self._taken:
            with suppress(OSError), locks.held(folder / RUN_LOCK):
                if liveness.read(folder / BEAT) == liveness.me():  # else it was passed on
                    (folder / BEAT).unlink()

    def _run(self) -> None:
        told = time.monotonic()
        while not self._done.wait(_EVERY):
            for sign in [*self._signs]:
                with suppress(OSError):
                    if liveness.read(sign) == liveness.me():
                        os.utime(sign)
            if time.monotonic() - told >= _TOLD:
                told = time.monotonic()
                with suppress(OSError), self._telling:
                    if self._tell is not None:
                        self._tell(f"{time.time():.0f}")


@contextmanager
def beating(*signs: Path) -> Iterator[Heart]:
    """Give signs of life within the block, in the files `signs` and in the runs that are taken; then let those go."""
    heart = Heart(*signs)
    try:
        yield heart
    finally:
        heart.stop()


def _sign(path: Path) -> float:
    """Return when a sign was last given, in seconds since 1970; 0 where there is none any more."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _stopped(error: Exception) -> None:
    notices.tell(
        f"No more signs of life are given ({type(error).__name__}: {error}): after {liveness.SILENT:.0f} s of silence"
        " processes on other machines may take what this one has"
    )
