"""A run that was there before: where it lies, how it stands, and who works on it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frostline.core import files
from frostline.records import journal, layout, liveness, run_folders, trial_tags
from frostline.records.layout import FOLDER_TAG, UID_TAG
from frostline.records.result import Result

WAITS = "SCHEDULED"
"""How MLflow calls a run that waits at a rung."""


@dataclass(frozen=True)
class Past:
    """A run that was there before."""

    run_id: str | None
    status: str
    tags: Mapping[str, str]
    metrics: dict[str, float] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    """What decided its metrics, as text by key."""

    @property
    def folder(self) -> Path | None:
        """Its folder, None where that is not on this machine or not open to us, or another run's by now."""
        place = self.place
        return place if place is not None and files.readable(place / layout.CONFIG) else None

    @property
    def place(self) -> Path | None:
        """Where its journal is or will be on this machine, None where that is not readable, or another run's by now."""
        told, uid = self.tags.get(FOLDER_TAG), self.tags.get(UID_TAG)
        with suppress(OSError, ValueError):  # the home of somebody else, or what a person made of the tag
            return Path(told) if told and uid in (None, journal.uid(Path(told))) else None
        return None

    @property
    def source(self) -> str | None:
        """The sha256 of the code that it ran."""
        return self.tags.get(layout.SOURCE_TAG)

    @property
    def fingerprint(self) -> str | None:
        """Of its data; None where it did not come to reading them."""
        return self.tags.get(layout.FINGERPRINT_TAG)

    @property
    def holder(self) -> liveness.Holder | None:
        """Who works on it, None where nobody does any more."""
        return self._holder(liveness.SILENT)

    def _holder(self, silent: float) -> liveness.Holder | None:
        """Return who works on it: its signs of life are in its folder, and passed on in its tags."""
        if self.place is not None and (there := liveness.holder(self.place, silent=silent)) is not None:
            return there
        if self.status == "PAUSED" and self.place is not None:  # whether it goes on its search decides
            search = liveness.living((run_folders.sweep_of(self.place) or self.place) / layout.OWNER, silent=silent)
            return None if search == liveness.me() else search
        return liveness.of_run(self.status, self.tags, silent=silent)

    @property
    def waited(self) -> bool:
        """Whether it is a trial that came to a rung, which is no interruption."""
        return self.status in ("PAUSED", WAITS)

    @property
    def diverged(self) -> bool:
        """Whether it failed by its own values, and would so again."""
        return self.status == "FAILED" and trial_tags.DIVERGED in self.tags.get(layout.REASON_TAG, "")

    def left_by(self, host: str) -> bool:
        """Return whether its process was on a machine that is gone, as a person says; if so nobody holds it any more.

        What gave a sign of life since lives even so.
        """
        owner = liveness.of_tags(self.tags)
        if owner is None or owner.host != host or self._holder(liveness.SILENT_WHEN_TOLD) is not None:
            return False
        if self.place is not None:
            liveness.let_go(self.place)
        return True

    def __str__(self) -> str:
        """Name it for people."""
        where = self.tags.get(FOLDER_TAG) or "another place"
        return f"{where} as run {self.run_id}" if self.run_id else where


def of_folder(folder: Path) -> Past | None:
    """Return the run that the journal in `folder` is about."""
    tags: dict[str, str] = {}
    params: dict[str, str] = {}
    status = "RUNNING"
    for entry, _ in journal.notes(folder):
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
    tags[FOLDER_TAG] = str(folder)  # wherever it was when it began
    numbers = _numbers(folder, status) if status in ("FINISHED", "FAILED") else {}
    if numbers is None and status == "FINISHED":
        return None
    return Past(journal.run_id(folder), status, tags, params=params, **(numbers or {}))


def _numbers(folder: Path, status: str) -> dict[str, dict[str, Any]] | None:
    """Return the metrics and images of the run that ended so in `folder`; None where they are damaged."""
    try:
        found = Result.of(files.read_json(folder / layout.RESULT))
    except (OSError, ValueError):
        return None
    return {"metrics": found.metrics, "images": found.images} if found.status == status else None
