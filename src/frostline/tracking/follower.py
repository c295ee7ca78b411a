"""What keeps MLflow up to date while a sweep runs: a thread of the sweep's process that follows the runs' journals.

Training waits for nothing here: runs write to their journals, in whatever process they are, and the follower passes on
what it finds there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

from filelock import Timeout

from frostline.core import background, locks, notices
from frostline.records import layout
from frostline.tracking import server, sync
from frostline.tracking.sync import SweepMirror

log = logging.getLogger(__name__)

_INTERVAL = 0.25  # seconds between two looks at the journals
_BACKOFF = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds to wait after the first, second ... problem in a row


class Follower:
    """The thread that mirrors one sweep, and beside it what earlier sweeps left pending."""

    def __init__(self, sweep: SweepMirror) -> None:
        self.sweep = sweep
        self.problem: Exception | None = None
        """What the last look at all journals met; None if it went well."""
        self.dead = False
        """Whether the thread ended before it was told to, by the `problem`."""
        self._wake, self._stop = threading.Event(), threading.Event()
        self._looks = threading.Condition()
        self._begun = self._done = 0  # looks at all journals
        self._waited_for = False  # whether somebody waits for the next one
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow. MLflow is imported first, as two threads that import at once get in each other's way."""
        server.load(models=False)
        self._thread = background.start(self._run, name="mirror", died=self._died)

    def complete(self, patience: float, limit: float) -> bool:
        """Return whether MLflow has all that was written before this call, as soon as that is known.

        Waits for one look at all journals: `limit` seconds at most, and `patience` while nothing moves.
        """
        with self._looks:
            wanted, started = self._begun + 1, time.monotonic()
            self._waited_for = True
            self._wake.set()
            while self._done < wanted and not self.dead:
                left = min(max(self.sweep.moved, started) + patience, started + limit) - time.monotonic()
                if left <= 0:
                    return False
                self._looks.wait(min(left, 1.0))
            return self._done >= wanted and self.problem is None

    def stop(self, patience: float) -> None:
        """End the thread; after `patience` seconds one that hangs in a call is left to end with the process."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(patience)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                with locks.held(self.sweep.folder / layout.MIRROR_LOCK, timeout=1.0):
                    self._follow()
            except Timeout:
                continue
            except OSError as error:  # the folder may be away for a while
                self._begin()
                self._met(error)
                failures += 1
                self._rest(_BACKOFF[min(failures, len(_BACKOFF)) - 1])

    def _follow(self) -> None:
        failures, others = 0, sync.others(self.sweep)
        while not self._stop.is_set():
            failures = 0 if self._look() else failures + 1
            while not failures and not self._wake.is_set() and self._step(others):
                pass
            self._rest(_BACKOFF[min(failures, len(_BACKOFF)) - 1] if failures else _INTERVAL)

    def _step(self, others: Iterator[bool]) -> bool:
        """Complete one more sweep of those left pending, and return whether there may be more."""
        try:
            return next(others, False)
        except Exception:  # their folders may be in any state, and this sweep's record must go on
            log.debug("an earlier sweep stays pending", exc_info=True)
            return False

    def _look(self) -> bool:
        """Bring everything up to date and return whether that went well."""
        at_once = self._begin()
        try:
            self.sweep.bring(at_once=at_once)
        except Exception as error:
            log.debug("the record is pending", exc_info=True)
            self._met(error)
            return False
        self._met(None)
        return True

    def _begin(self) -> bool:
        """Begin a look, and return whether somebody waits for it."""
        with self._looks:
            self._begun += 1
            waited_for, self._waited_for = self._waited_for, False
            return waited_for

    def _met(self, problem: Exception | None, *, dead: bool = False) -> None:
        """Have those that wait for a look hear what it came to."""
        with self._looks:
            self.problem, self._done, self.dead = problem, self._begun, dead
            self._looks.notify_all()

    def _rest(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _died(self, error: Exception) -> None:
        what = f"{type(error).__name__}: {server.first_line(error)}"
        notices.tell(
            f"Nothing more is passed on to MLflow, by a fault in frostline ({what}): the record waits in files"
        )
        self._met(error, dead=True)
