"""Register of pending sweeps, those that MLflow may not have in full: kept beside its store until they are complete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from frostline.core import files, locks, project
from frostline.core.errors import user_error
from frostline.records import journal, run_folders
from frostline.records.layout import SWEEP
from frostline.tracking import tracking_uri


@dataclass(frozen=True)
class RecordPlace:
    """The MLflow store and experiment of a sweep's record."""

    uri: str
    """Tracking URI without credentials."""
    experiment: str
    """Name of the experiment."""
    artifacts: str | None = None
    """URI of the artifact root of a new experiment; None for one beside the store."""


def remember(folder: Path, place: RecordPlace) -> None:
    """Register the sweep in `folder` as pending, so that later sweeps in the same store complete it."""
    file = _register(place.uri) / f"{journal.uid(folder)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    where = folder.resolve()
    if any(where.is_relative_to(top.resolve()) for top in (project.project_root(), tracking_uri.beside(place.uri))):
        where = Path(os.path.relpath(where, file.parent))  # valid if both are moved together
    files.write(file, json.dumps({"store": tracking_uri.name(place.uri), "folder": str(where)}))


def forget(folder: Path, place: RecordPlace) -> None:
    """Remove the sweep in `folder` from the register."""
    (_register(place.uri) / f"{journal.uid(folder)}.json").unlink(missing_ok=True)


@contextmanager
def planning(uri: str) -> Iterator[None]:
    """Hold the planning lock of a register within the block; sweeps that share the store plan one at a time."""
    with ExitStack() as held:
        with suppress(OSError):  # a read-only folder, in which nothing can be registered either
            (register := _register(uri)).mkdir(parents=True, exist_ok=True)
            held.enter_context(locks.held(register / "planning.lock"))
        yield


def remembered(uri: str, *, elsewhere: bool = False) -> list[Path]:
    """Return the folders of sweeps that may be pending in the store `uri`; moved ones are searched for by their uid.

    With `elsewhere` also those that the same register has for other stores, such as a server that was named once.
    Sweeps whose folders cannot be found or read are left out: users who share a store share its register.
    """
    register, name = _register(uri), tracking_uri.name(uri)
    found = {file.stem: entry for file in sorted(register.glob("*.json")) if (entry := _entry(file))}
    entries = {uid: entry["folder"] for uid, entry in found.items() if elsewhere or entry["store"] == name}
    told = {uid: (register / folder).resolve() for uid, folder in entries.items()}
    gone = {folder.parent for folder in told.values() if not files.readable(folder)}
    lying = run_folders.by_uid([project.multirun(), *gone]) if gone else {}
    folders = [folder if files.readable(folder) else lying.get(uid) for uid, folder in told.items()]
    return [folder for folder in folders if folder is not None]


def _entry(file: Path) -> dict[str, str] | None:
    """Return an entry of the register; None while another process writes or has just removed it."""
    entry = files.json_or_none(file)
    return entry if isinstance(entry, dict) and {"store", "folder"} <= entry.keys() else None


def _register(uri: str) -> Path:
    return tracking_uri.beside(uri) / "pending"


def place_of(folder: Path, uri: str | None = None) -> RecordPlace:
    """Return the place of the record of the sweep in `folder`: `uri`, else the one in its journal.

    Raises UserError where neither the journal nor the sweep's file states a place.
    """
    shared = files.json_or_none(folder / SWEEP)  # which helps if the journal is damaged
    for told in (journal.beginning(folder), shared.get("tracker") if isinstance(shared, dict) else None):
        match told:
            case {"uri": str(recorded), "experiment": str(experiment), **more}:
                own = tracking_uri.resolved(uri or recorded, start=None if uri else project.project_root())
                return RecordPlace(own, experiment, str(more["artifacts"]) if "artifacts" in more else None)
    raise user_error("folder", folder, "the folder of a sweep that was recorded")
