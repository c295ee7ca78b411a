"""Sweeps whose record MLflow does not have in full: who they are, and how their record is completed."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from frostline.core import files, locks
from frostline.core.errors import UserError, user_error
from frostline.records import journal, run_folders
from frostline.records.layout import MIRROR_LOCK, SWEEP
from frostline.records.sweep_record import end_the_dead, going_on, with_record
from frostline.tracking import server
from frostline.tracking.mirror import Mirror

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a sweep's record belongs."""

    uri: str
    """Tracking URI without credentials."""
    root: Path
    """The project: a missing experiment gets its artifacts beside its store."""
    experiment: str
    """Name of the experiment."""


class SweepMirror:
    """The mirror of a sweep's record and of those of its runs. Not for several threads or processes at once."""

    def __init__(self, folder: Path, place: Place, *, fresh: bool = False) -> None:
        """Mirror the sweep in `folder`; a `fresh` one began in this process."""
        self.folder, self.place, self._fresh = folder, place, fresh
        self.experiment_id: str | None = None
        self.moved = time.monotonic()
        """When something last reached MLflow."""
        self._mirrors: dict[Path, Mirror] = {}

    def bring(self) -> None:
        """Send what MLflow does not have, the sweep first, since runs are recorded under it.

        Raises UserError where that can never work, `server.Unreachable` where it may later. A run of which MLflow
        refuses something does not keep it from the others.
        """
        uri, refused = self.place.uri, None
        if self.experiment_id is None:
            self.experiment_id = server.experiment(uri, self.place.root, self.place.experiment)
            self.moved = time.monotonic()
        for folder in with_record(self.folder):
            mirror = self._mirrors.setdefault(folder, Mirror(folder, fresh=self._fresh))
            if not mirror.pending():
                continue
            parent = None if folder == self.folder else journal.run_id(self.folder)
            try:
                with server.problems(uri):
                    mirror.bring(server.client_of(uri), self.experiment_id, parent)
            except server.Unreachable as problem:
                if not server.refused(problem.__cause__) or journal.run_id(folder) is None:
                    raise
                refused = refused or problem
            self.moved = time.monotonic()
        if refused is not None:
            raise refused

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
            if _host(sweep.folder) == socket.gethostname():
                end_the_dead(sweep.folder)
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


def place_of(folder: Path, root: Path, uri: str | None = None) -> Place:
    """Return where the record of the sweep in `folder` belongs: to `uri`, else as its journal says; or `UserError`."""
    runs = [entry for entry, _ in journal.notes(folder) if entry["op"] == "run"]
    for told in (*runs, _tracker(folder)):  # the latter where the journal is damaged
        match told:
            case {"uri": str(recorded), "experiment": str(experiment)}:
                own = server.tracking_uri(uri, root) if uri else server.tracking_uri(recorded, root, start=root)
                return Place(own, root, experiment)
    raise user_error("sync", folder, "the folder of a sweep that was recorded")


def _tracker(folder: Path) -> object:
    """Return what the jobs of the sweep in `folder` were told of its record; None where that cannot be read."""
    try:
        return files.parsed((folder / SWEEP).read_text())["tracker"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def experiment(folder: Path) -> str | None:
    """Return the name of the experiment to which the sweep in `folder` belongs, None where its journal names none."""
    return next((entry.get("experiment") for entry, _ in journal.notes(folder) if entry["op"] == "run"), None)


def remember(folder: Path, place: Place) -> None:
    """Let later sweeps in the same store know that this one may be pending."""
    file = _register(place.uri, place.root) / f"{journal.uid(folder)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    where = folder.resolve()
    if any(where.is_relative_to(top.resolve()) for top in (place.root, server.beside(place.uri, place.root))):
        where = Path(os.path.relpath(where, file.parent))  # if they are moved, then both
    files.write(file, json.dumps({"store": server.name(place.uri), "folder": str(where)}))


def forget(folder: Path, place: Place) -> None:
    """Take back `remember`."""
    (_register(place.uri, place.root) / f"{journal.uid(folder)}.json").unlink(missing_ok=True)


def remembered(uri: str, root: Path) -> list[Path]:
    """Return the folders of sweeps that may be pending in the store `uri`, as far as they are there or are found."""
    register, name = _register(uri, root), server.name(uri)
    found = {file.stem: entry for file in sorted(register.glob("*.json")) if (entry := _entry(file))}
    entries = {uid: entry["folder"] for uid, entry in found.items() if entry["store"] == name}
    told = {uid: (register / folder).resolve() for uid, folder in entries.items()}
    gone = {folder.parent for folder in told.values() if not folder.is_dir()}
    lying = run_folders.by_uid([root / "multirun", *gone]) if gone else {}
    folders = [folder if folder.is_dir() else lying.get(uid) for uid, folder in told.items()]
    return [folder for folder in folders if folder is not None]


def _entry(file: Path) -> dict[str, str] | None:
    """Return what `remember` wrote; None while another process is writing or has just removed it."""
    try:
        entry = files.parsed(file.read_text())
    except (OSError, ValueError):
        return None
    return entry if isinstance(entry, dict) and {"store", "folder"} <= entry.keys() else None


def _register(uri: str, root: Path) -> Path:
    return server.beside(uri, root) / "pending"


def _host(folder: Path) -> str | None:
    return next((entry.get("host") for entry, _ in journal.notes(folder) if entry["op"] == "run"), None)
