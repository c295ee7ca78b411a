"""Background thread that keeps MLflow up to date while a sweep runs, by following the journals of its runs.

Training never waits for it: runs write to their journals, in any process, and the thread sends new entries to MLflow.
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

_INTERVAL = 0.25  # seconds between two passes over the journals
_BACKOFF = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds to wait after the first, second ... failure in a row


class MirrorThread:
    """The thread that mirrors one sweep, and in idle time earlier sweeps that are still pending."""

    def __init__(self, sweep: SweepMirror) -> None:
        self.sweep = sweep
        self.problem: Exception | None = None
        """The error of the last pass over all journals; None if it succeeded."""
        self.dead = False
        """Whether the thread died of the `problem`."""
        self._wake, self._stop = threading.Event(), threading.Event()
        self._passes = threading.Condition()
        self._begun = self._done = 0  # numbers of passes over all journals
        self._waited_for = False  # whether a caller waits for the next pass
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. MLflow is imported before, since concurrent imports in two threads can conflict."""
        server.load(models=False)
        self._thread = background.start(self._run, name="mirror", died=self._died)

    def complete(self, patience: float, limit: float) -> bool:
        """Wait for one pass over all journals; return whether MLflow has all that was written before this call.

        Waits at most `limit` seconds, and at most `patience` seconds without progress.
        """
        with self._passes:
            wanted, started = self._begun + 1, time.monotonic()
            self._waited_for = True
            self._wake.set()
            while self._done < wanted and not self.dead:
                left = min(max(self.sweep.moved, started) + patience, started + limit) - time.monotonic()
                if left <= 0:
                    return False
                self._passes.wait(min(left, 1.0))
            return self._done >= wanted and self.problem is None

    def stop(self, patience: float) -> None:
        """Stop the thread; if it hangs in a call for more than `patience` seconds, it ends with the process."""
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
            except OSError as error:  # the folder may be unavailable for a while, as on a network disk
                self._begin_pass()
                self._end_pass(error)
                failures += 1
                self._rest(_BACKOFF[min(failures, len(_BACKOFF)) - 1])

    def _follow(self) -> None:
        failures, others = 0, sync.complete_others(self.sweep)
        while not self._stop.is_set():
            failures = 0 if self._make_pass() else failures + 1
            while not failures and not self._wake.is_set() and self._step(others):
                pass
            self._rest(_BACKOFF[min(failures, len(_BACKOFF)) - 1] if failures else _INTERVAL)

    def _step(self, others: Iterator[bool]) -> bool:
        """Complete one earlier sweep that is pending, and return whether there may be more."""
        try:
            return next(others, False)
        except Exception:  # their folders may be in any state, and this sweep's record must go on
            log.debug("an earlier sweep stays pending", exc_info=True)
            return False

    def _make_pass(self) -> bool:
        """Make one pass: send all that is new, and return whether that succeeded."""
        at_once = self._begin_pass()
        try:
            self.sweep.sync(at_once=at_once)
        except Exception as error:
            log.debug("the record is pending", exc_info=True)
            self._end_pass(error)
            return False
        self._end_pass(None)
        return True

    def _begin_pass(self) -> bool:
        """Begin a pass, and return whether a caller waits for it."""
        with self._passes:
            self._begun += 1
            waited_for, self._waited_for = self._waited_for, False
            return waited_for

    def _end_pass(self, problem: Exception | None, *, dead: bool = False) -> None:
        """Record the result of a pass, and wake the callers that wait for it."""
        with self._passes:
            self.problem, self._done, self.dead = problem, self._begun, dead
            self._passes.notify_all()

    def _rest(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _died(self, error: Exception) -> None:
        what = f"{type(error).__name__}: {server.first_line(error)}"
        notices.tell(
            f"Nothing more is sent to MLflow, because of a fault in frostline ({what}): the record is kept in files"
        )
        self._end_pass(error, dead=True)
