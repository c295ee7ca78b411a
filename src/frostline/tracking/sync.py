"""Synchronisation of whole sweeps to MLflow: of a running sweep, and later of sweeps that MLflow lacks in part."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from frostline.core import files, locks
from frostline.core.errors import UserError
from frostline.records import journal, run_folders
from frostline.records.layout import BASES, MIRROR_LOCK, RECORD, SWEEP
from frostline.records.recording import Record, end_the_dead
from frostline.records.run_folders import going_on, with_record
from frostline.tracking import query, server
from frostline.tracking.mirror import Mirror
from frostline.tracking.pending_sweeps import RecordPlace, forget, place_of, remembered

log = logging.getLogger(__name__)

_BRIEF = 2.0  # seconds for which only the name of a new run is sent


class SweepMirror:
    """The mirror of a sweep's record and of its runs' records. Not for several threads or processes at once."""

    def __init__(self, folder: Path, place: RecordPlace, *, fresh: bool = False) -> None:
        """Mirror the sweep in `folder`; a `fresh` one began in this process."""
        self.folder, self.place, self._fresh = folder, place, fresh
        self.experiment_id: str | None = None
        self.moved = time.monotonic()
        """Monotonic time in seconds at which something last reached MLflow."""
        self.sent = 0
        """How often a record was sent to its present end."""
        self._mirrors: dict[Path, Mirror] = {}
        self._seen: dict[Path, float] = {}
        """Monotonic time at which each running run was first seen."""
        self._over: set[Path] = set()
        """Finished runs that MLflow has in full."""
        self._listed: tuple[int, ...] = ()
        self._runs: list[tuple[Path, str]] = []
        """Folders and journals of the sweep and its runs."""
        self._bases = set[str]()

    def sync(self, *, at_once: bool = True) -> None:
        """Send what MLflow does not have, the sweep first, since it is the parent of its runs.

        Without `at_once`, only the name of a run that has just begun is sent for a moment: most runs are over soon, and
        then cost a third of the calls. Runs that are over are not checked again, which for a thousand would take 15 ms.
        Raises UserError if this can never work, `server.Unreachable` if it may work later. If MLflow refuses a part of
        one run, the other runs are still sent.
        """
        uri, refused, experiment_id = self.place.uri, None, self._experiment()
        self._hand_in_bases()
        for folder in self._folders(at_once=at_once):
            if (mirror := self._mirrors.get(folder)) is None:
                mirror = self._mirrors[folder] = Mirror(folder, fresh=self._fresh)
            whole = at_once or folder == self.folder or self._is_due(folder)
            if not mirror.pending() or not (whole or mirror.is_unsent()):
                continue
            parent = None if folder == self.folder else journal.run_id(self.folder)
            try:
                with server.connected(uri) as client:
                    (mirror.sync if whole else mirror.begin)(client, experiment_id, parent)
            except server.Unreachable as problem:
                if not server.refused(problem.__cause__) or journal.run_id(folder) is None:
                    raise
                refused = refused or problem
            self.moved = time.monotonic()
            self.sent += not mirror.pending()
            if folder != self.folder and journal.finished(folder) and not mirror.pending():
                self._over.add(folder)
        if refused is not None:
            raise refused

    def start_over_if_lost(self) -> None:
        """Let `sync` send everything again if MLflow has no run of the sweep: in another store, or after a loss.

        Raises as `sync` does.
        """
        self._experiment()
        with server.connected(self.place.uri) as client:
            run_id = journal.run_id(self.folder)
            lost = run_id is not None and query.known(client, run_id) is None
        for folder in with_record(self.folder) if lost else ():
            journal.set_position(folder, journal.MirrorPosition(sure=False))

    def _experiment(self) -> str:
        """Return the id of the experiment, created if missing."""
        if self.experiment_id is None:
            uri, place = self.place.uri, self.place
            self.experiment_id = server.experiment(uri, place.experiment, place.artifacts, insist=self._fresh)
            self.moved = time.monotonic()
        return self.experiment_id

    def _hand_in_bases(self) -> None:
        """Make the initial weights that runs share artifacts of the sweep; runs do not write to the sweep's journal."""
        there = {str(file.relative_to(self.folder)) for file in (self.folder / BASES).glob("*.safetensors")}
        if not there <= self._bases:
            self._bases = {entry["path"] for entry, _ in journal.entries(self.folder) if entry["op"] == "artifact"}
        for path in sorted(there - self._bases):
            Record(self.folder).artifact(self.folder / path, BASES)
        self._bases |= there

    def _folders(self, *, at_once: bool) -> list[Path]:
        """Return the folders with a record, with `at_once` also those of runs that are over.

        The list of runs is read again only when the sweep's file was replaced.
        """
        if (state := files.facts(str(self.folder / SWEEP))) != self._listed or not state:
            folders = (self.folder, *run_folders.of(self.folder))
            self._listed, self._runs = state, [(folder, str(folder / RECORD)) for folder in folders]
        due = self._runs if at_once else [each for each in self._runs if each[0] not in self._over]
        return [folder for folder, record in due if files.facts(record)]

    def _is_due(self, folder: Path) -> bool:
        """Return whether a run is over, or has been running for longer than `_BRIEF`."""
        seen = self._seen.setdefault(folder, time.monotonic())
        return time.monotonic() - seen > _BRIEF or journal.ended(folder)


def complete(sweep: SweepMirror) -> bool:
    """Complete the record of a sweep whose process is gone; return False, with nothing done, if it is being mirrored.

    Runs without an end in their journal end KILLED, unless they still go on: then the sweep stays pending. Raises as
    `SweepMirror.sync` does.
    """
    try:
        with locks.held(sweep.folder / MIRROR_LOCK, timeout=0):
            if journal.beginning(sweep.folder).get("host") == socket.gethostname():
                end_the_dead(with_record(sweep.folder))
            sweep.start_over_if_lost()
            sweep.sync()
    except Timeout:
        return False
    if not going_on(sweep.folder):
        forget(sweep.folder, sweep.place)
    return True


def complete_others(sweep: SweepMirror) -> Iterator[bool]:
    """Complete the other sweeps that are pending in the same store, one per step; one that fails stays pending."""
    uri = sweep.place.uri
    for folder in remembered(uri):
        if folder != sweep.folder.resolve():
            try:
                complete(SweepMirror(folder, place_of(folder, uri)))
            except (UserError, server.Unreachable, OSError):
                log.debug("%s stays pending", folder, exc_info=True)
            yield True
