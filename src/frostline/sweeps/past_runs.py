"""A run of an earlier sweep: its folder, its status, and the process that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from frostline.core import files
from frostline.records import journal, layout, liveness, run_folders, trial_tags
from frostline.records.layout import FOLDER_TAG, UID_TAG
from frostline.records.result import read_result

WAITING = "SCHEDULED"
"""MLflow's status of a run that waits at a rung."""


@dataclass(frozen=True)
class PastRun:
    """A run of an earlier sweep."""

    run_id: str | None
    status: str
    tags: Mapping[str, str]
    metrics: dict[str, float] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    """The settings that determine its metrics, as text by key."""

    @property
    def folder(self) -> Path | None:
        """Its folder; None if it is not on this machine, not readable, or another run's by now."""
        place = self.place
        return place if place is not None and files.readable(place / layout.CONFIG) else None

    @property
    def place(self) -> Path | None:
        """The folder of its journal, present or future; None if it is not readable, or another run's by now."""
        told, uid = self.tags.get(FOLDER_TAG), self.tags.get(UID_TAG)
        with suppress(OSError, ValueError):  # another user's home, or a tag that was edited
            return Path(told) if told and uid in (None, journal.uid(Path(told))) else None
        return None

    @property
    def source(self) -> str | None:
        """The sha256 of the code that it ran."""
        return self.tags.get(layout.SOURCE_TAG)

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of its data; None if it had not read the data yet."""
        return self.tags.get(layout.FINGERPRINT_TAG)

    @property
    def holder(self) -> liveness.Holder | None:
        """The process that works on it; None if there is none any more."""
        return self._holder(liveness.SILENT)

    def _holder(self, silent: float) -> liveness.Holder | None:
        """Return the process that works on it, by its signs of life in the folder or in the tags."""
        if self.place is not None and (there := liveness.holder(self.place, silent=silent)) is not None:
            return there
        if self.status == "PAUSED" and self.place is not None:  # its search decides whether it continues
            search = liveness.living((run_folders.sweep_of(self.place) or self.place) / layout.OWNER, silent=silent)
            return None if search == liveness.this_process() else search
        return liveness.of_run(self.status, self.tags, silent=silent)

    @property
    def waited(self) -> bool:
        """Whether it is a trial that waits at a rung, and was not interrupted."""
        return self.status in ("PAUSED", WAITING)

    @property
    def diverged(self) -> bool:
        """Whether it failed because of its own settings, and would fail again."""
        return self.status == "FAILED" and trial_tags.DIVERGED in self.tags.get(layout.REASON_TAG, "")

    def left_by(self, host: str) -> bool:
        """Return whether its process was on `host`, which the user declares gone; if so, release the run.

        A run with a recent sign of life is not released.
        """
        owner = liveness.of_tags(self.tags)
        if owner is None or owner.host != host or self._holder(liveness.SILENT_WHEN_TOLD) is not None:
            return False
        if self.place is not None:
            liveness.release(self.place)
        return True

    def __str__(self) -> str:
        """Return its folder and MLflow id for messages."""
        where = self.tags.get(FOLDER_TAG) or "another place"
        return f"{where} as run {self.run_id}" if self.run_id else where


def of_folder(folder: Path) -> PastRun | None:
    """Return the run of the journal in `folder`; None if it finished but its result is damaged."""
    tags: dict[str, str] = {}
    params: dict[str, str] = {}
    status = "RUNNING"
    for entry, _ in journal.entries(folder):
        match entry:
            case {"op": "run", "tags": dict(first)}:
                tags |= first
            case {"op": "tags", "values": dict(more)}:
                tags |= more
            case {"op": "params", "values": dict(given)}:
                params |= given
            case {"op": "resume"}:
                status = "RUNNING"
            case {"op": "end", "status": str(last)}:
                status = last
    tags[FOLDER_TAG] = str(folder)  # the folder may have been moved since the run began
    run_id = journal.run_id(folder)
    result = read_result(folder) if status in ("FINISHED", "FAILED") else None
    if result is not None and result.status == status:
        return PastRun(run_id, status, tags, result.metrics, result.images, params)
    return None if status == "FINISHED" else PastRun(run_id, status, tags, params=params)
