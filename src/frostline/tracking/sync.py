"""The record of a sweep brought to MLflow: of one that runs, or later of those that it does not have in full."""

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
from frostline.records.recording import Record
from frostline.records.sweep_record import end_the_dead, going_on, with_record
from frostline.tracking import server
from frostline.tracking.mirror import Mirror
from frostline.tracking.pending_sweeps import Place, forget, place_of, remembered

log = logging.getLogger(__name__)

_BRIEF = 2.0  # seconds that a run may go on before MLflow hears more of it than its name


class SweepMirror:
    """The mirror of a sweep's record and of those of its runs. Not for several threads or processes at once."""

    def __init__(self, folder: Path, place: Place, *, fresh: bool = False) -> None:
        """Mirror the sweep in `folder`; a `fresh` one began in this process."""
        self.folder, self.place, self._fresh = folder, place, fresh
        self.experiment_id: str | None = None
        self.moved = time.monotonic()
        """When something last reached MLflow."""
        self._mirrors: dict[Path, Mirror] = {}
        self._seen: dict[Path, float] = {}
        """When runs were first seen to go on."""
        self._over: set[Path] = set()
        """Runs that finished, and of which MLflow has all."""
        self._listed: tuple[int, ...] = ()
        self._runs: list[tuple[Path, str]] = []
        """Their folders and records."""
        self._bases = set[str]()

    def bring(self, *, at_once: bool = True) -> None:
        """Send what MLflow does not have, the sweep first, since runs are recorded under it.

        Unless all is wanted `at_once`, of a run that has just begun no more than its name is sent for a moment: most
        are over soon, and cost a third then; and none is looked at again that is over: of a thousand that takes 15 ms.
        Raises UserError where that can never work, `server.Unreachable` where it may later. A run of which MLflow
        refuses something does not keep it from the others.
        """
        uri, refused = self.place.uri, None
        if self.experiment_id is None:
            place = self.place
            self.experiment_id = server.experiment(
                uri, place.root, place.experiment, place.artifacts, insist=self._fresh
            )
            self.moved = time.monotonic()
        self._hand_in_bases()
        for folder in self._folders(at_once=at_once):
            if (mirror := self._mirrors.get(folder)) is None:
                mirror = self._mirrors[folder] = Mirror(folder, fresh=self._fresh)
            whole = at_once or folder == self.folder or self._is_due(folder)
            if not mirror.pending() or not (whole or mirror.unheard_of()):
                continue
            parent = None if folder == self.folder else journal.run_id(self.folder)
            try:
                with server.problems(uri):
                    (mirror.bring if whole else mirror.begin)(server.client_of(uri), self.experiment_id, parent)
            except server.Unreachable as problem:
                if not server.refused(problem.__cause__) or journal.run_id(folder) is None:
                    raise
                refused = refused or problem
            self.moved = time.monotonic()
            if folder != self.folder and journal.finished(folder) and not mirror.pending():
                self._over.add(folder)
        if refused is not None:
            raise refused

    def _hand_in_bases(self) -> None:
        """Make the weights with which runs began artifacts of the sweep's record: runs do not write into that."""
        there = {str(file.relative_to(self.folder)) for file in (self.folder / BASES).glob("*.safetensors")}
        if not there <= self._bases:
            self._bases = {entry["path"] for entry, _ in journal.notes(self.folder) if entry["op"] == "artifact"}
        for path in sorted(there - self._bases):
            Record(self.folder).artifact(self.folder / path, BASES)
        self._bases |= there

    def _folders(self, *, at_once: bool) -> list[Path]:
        """Return the folders with a record, `at_once` also of what is over.

        Which runs there are is read again when the sweep's file was replaced.
        """
        if (state := files.facts(str(self.folder / SWEEP))) != self._listed or not state:
            folders = (self.folder, *run_folders.of(self.folder))
            self._listed, self._runs = state, [(folder, str(folder / RECORD)) for folder in folders]
        due = self._runs if at_once else [each for each in self._runs if each[0] not in self._over]
        return [folder for folder, record in due if files.facts(record)]

    def _is_due(self, folder: Path) -> bool:
        """Return whether a run is over, or goes on for longer than most."""
        seen = self._seen.setdefault(folder, time.monotonic())
        return time.monotonic() - seen > _BRIEF or journal.ended(folder)

    def pending(self) -> int:
        """Return how many of its records MLflow does not have in full."""
        return sum(Mirror(folder).pending() for folder in with_record(self.folder))


def complete(sweep: SweepMirror) -> bool:
    """Complete the record of a sweep whose process is gone; False, and nothing done, while somebody mirrors it.

    What has no end in its journal ends KILLED, unless it goes on: then the sweep stays pending. Raises as
    `SweepMirror.bring` does.
    """
    try:
        with locks.held(sweep.folder / MIRROR_LOCK, timeout=0):
            hosts = (entry.get("host") for entry, _ in journal.notes(sweep.folder) if entry["op"] == "run")
            if next(hosts, None) == socket.gethostname():
                end_the_dead(with_record(sweep.folder))
            sweep.bring()
    except Timeout:
        return False
    if not going_on(sweep.folder):
        forget(sweep.folder, sweep.place)
    return True


def others(sweep: SweepMirror) -> Iterator[bool]:
    """Complete the sweeps that are pending in the same store, one per step; ends at the first that cannot be."""
    uri, root = sweep.place.uri, sweep.place.root
    for folder in remembered(uri, root):
        if folder != sweep.folder.resolve():
            try:
                complete(SweepMirror(folder, place_of(folder, root, uri)))
            except (UserError, server.Unreachable, OSError):
                log.debug("%s stays pending", folder, exc_info=True)
            yield True
