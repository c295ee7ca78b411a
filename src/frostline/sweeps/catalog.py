"""Find the run or sweep that a name stands for, the same way for every command, `rerun=` and `model.weights=`.

A name is the folder of a run or sweep; the MLflow id of one, alone, as `runs:/<id>`, or a unique beginning of it; the
name of a sweep; or the name of an experiment, which stands for all its sweeps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from frostline.core import project
from frostline.core.errors import UserError, user_error
from frostline.core.files import absolute, readable
from frostline.records import layout, sweep_record
from frostline.records.layout import RUN_ID, RUN_PREFIX
from frostline.records.sweep_record import RecordedSweep
from frostline.tracking import download, query, tracking_uri

_EXPECTED = "a folder, an MLflow run id or its beginning, or the name of a sweep or an experiment"


@dataclass(frozen=True)
class TypedName:
    """A name that the user typed for a run or sweep."""

    text: str
    key: str = "run"
    """The argument that it was typed for, for error messages."""

    def wrong(self, expected: str, near: Sequence[str] = ()) -> UserError:
        """Return the error for this name, in one line."""
        return user_error(self.key, self.text, expected, list(near))


@dataclass(frozen=True)
class Target:
    """What a name stands for: a local folder, or else runs and sweeps in a tracking store."""

    uri: str
    folder: Path | None
    ids: tuple[str, ...] = ()
    """MLflow ids; only an experiment has several."""


def resolve(name: TypedName, uri: str | None = None) -> Target:
    """Return what a name stands for: a local folder, else ids in the tracking store at `uri`, by default the project's.

    UserError if it stands for nothing, or for several runs or sweeps.
    """
    uri = uri or tracking_uri.resolved(None)
    called = name.text.removeprefix(RUN_PREFIX).strip("/")
    here, lying = absolute(name.text), project.multirun() / called.replace(" ", "/")
    if name.text and os.path.isdir(here):
        return Target(uri, here)
    if os.path.isfile(lying / layout.SWEEP):
        return Target(uri, lying)
    if RUN_ID.fullmatch(called):
        return Target(uri, None, (called,))
    if not called or "/" in called:
        raise name.wrong(_EXPECTED, _beside(here))
    return Target(uri, None, tuple(_on_record(name, called, uri)))


def _on_record(name: TypedName, called: str, uri: str) -> list[str]:
    try:
        sweeps = query.sweeps_of(uri, called)
        found = query.called(uri, called) if sweeps is None else sweeps
        near = [] if found else query.experiments(uri)
    except UserError as problem:
        raise name.wrong(f"a folder, or a tracking store that answers ({problem})", _beside(Path(called))) from None
    if not found and sweeps is not None:
        raise name.wrong("an experiment with sweeps in it")
    if not found:
        raise name.wrong(_EXPECTED, [*_beside(Path(called)), *near])
    if len(found) > 1 and sweeps is None:
        raise name.wrong(f"one run or sweep, and {len(found)} have this name: {', '.join(found[:3])}")
    return found


def _beside(folder: Path) -> list[str]:
    """Return the runs and sweeps beside `folder`, as suggestions."""
    found = [layout.BEST, layout.SWEEP] if os.path.isdir(folder.parent) else []
    return [str(path.parent) for file in found for path in folder.parent.glob(f"*/{file}")]


def sweeps(names: Sequence[str], scratch: Path) -> list[RecordedSweep]:
    """Return the sweeps of these names, or of runs with these names, each once.

    The files of a sweep that is not on this machine are fetched from MLflow into `scratch`.
    """
    found: dict[Path, RecordedSweep] = {}
    for name, target in [(name, resolve(TypedName(name, "sweep"))) for name in names]:
        folders = [_folder(target.uri, run_id, scratch) for run_id in target.ids]
        for sweep in [sweep_record.read(folder, name) for folder in ([target.folder] if target.folder else folders)]:
            found.setdefault(sweep.folder, sweep)
    return list(found.values())


def _named_alike(told: str) -> Path:
    """Return the last two parts of a sweep's recorded folder, without parts that are no safe file name."""
    names = [name for name in PurePath(told).parts[-2:] if name not in (os.sep, "..") and len(os.fsencode(name)) < 256]
    return Path(*names)


def _folder(uri: str, run_id: str, scratch: Path) -> Path:
    """Return the folder of the sweep of a run, fetched from MLflow unless it is on this machine."""
    sweep, told = query.parent_sweep(uri, run_id)
    here, fetched = project.project_root() / told, scratch / sweep / _named_alike(told)
    if readable(here / layout.SWEEP):
        return here
    return fetched if fetched.is_dir() else download.sweep(uri, sweep, fetched)
