"""A sweep as its folder tells it: what its jobs must know, and what they came to, finished or not."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from frostline.core import files
from frostline.core.errors import user_error
from frostline.records import cluster_jobs, journal, layout, liveness, run_folders
from frostline.records.layout import SWEEP
from frostline.records.recording import GONE, end
from frostline.records.result import Result, read_result
from frostline.records.slurm import State


@dataclass(frozen=True)
class Tracker:
    """Where a sweep's record is: plain facts that a launcher can carry to any process."""

    uri: str
    """Tracking URI without credentials; those stay in MLFLOW_TRACKING_URI."""
    experiment: str
    """Name of the experiment."""
    folder: str
    """The sweep's folder, which holds its journal."""
    experiment_id: str | None
    """None where MLflow was away when the sweep began."""
    sweep_run_id: str | None
    """MLflow's id of the parent run; None as above."""


@dataclass(frozen=True)
class RunFacts:
    """What a run is called within its sweep."""

    name: str
    """e.g. `head lr=0.001 seed=0`."""
    choices: dict[str, Any]
    """The short names, and what else differs within the sweep."""
    folder: str
    """Where it lies, relative to the sweep's folder."""
    digest: str = ""
    """Of the config."""
    settled: dict[str, Any] = field(default_factory=dict)
    """What `auto` stands for in this sweep, by key: decided once, wherever its jobs run."""
    finished: dict[str, Any] | None = None
    """The result, where an earlier sweep had this run."""
    busy: dict[str, Any] | None = None
    """How it stands, where somebody else has it: a result that is `RUNNING`, in the folder where that is."""
    previous: dict[str, str | None] | None = None
    """The interrupted run that this one goes on with: its `run_id` in MLflow, and the `folder` with its checkpoint."""
    stack: int | None = None
    """Number of the runs that one worker carries out, since their heads can be trained in lockstep."""
    of_steps: dict[str, Any] = field(default_factory=dict)
    """The values in which it may differ from those, by key."""
    data: str | None = None
    """Where its data lie: an absolute path, or a URL."""

    @property
    def to_do(self) -> bool:
        """Whether the run is this sweep's to carry out."""
        return self.finished is None and self.busy is None


_NONE: Mapping[int, RunFacts] = MappingProxyType({})
_RUNS, _END = '"runs": [', "\n]}\n"  # a line per run between them
_LINES: dict[str, RunFacts] = {}
"""Those of the sweep's file that this process read last."""


@dataclass(frozen=True)
class Shared:
    """What every job must know of its sweep: JSON in the sweep's folder, where any launcher's process finds it."""

    tracker: Tracker | None
    """None in a dry run, and until the first job of a cluster has begun the record."""
    runs: tuple[RunFacts, ...]
    search: str | None = None
    """What is searched, where further runs are decided while the sweep goes on."""

    @staticmethod
    def there(folder: Path) -> bool:
        """Return whether the sweep's `folder` is where it was written."""
        return (folder / layout.SWEEP).is_file()

    @classmethod
    def read(cls, folder: Path) -> Shared:
        """Return what was written into the sweep's `folder`; a process reads it again only when it was replaced."""
        path = folder / layout.SWEEP
        found = path.stat()
        return _shared(path, found.st_ino, *files.facts(str(path)))


@functools.lru_cache(1)
def _shared(path: Path, *state: int) -> Shared:
    """Return what the file at `path` says, which is in this `state`: of a thousand runs nearly a megabyte.

    Of a search it is another file for every trial, whose lines are read that were not in the one before.
    """
    text = path.read_text(encoding="utf-8")
    head, *lines = text.removesuffix(_END).split("\n")
    if not (head.endswith(_RUNS) and text.endswith(_END)):  # somebody else wrote it, by hand say
        values = files.parsed(text)
        lines = [json.dumps(facts) for facts in values["runs"]]
    else:
        values = files.parsed(f"{head}]}}")
        lines = [line.removesuffix(",") for line in lines if line]
    known = {line: _LINES.get(line) or RunFacts(**files.parsed(line)) for line in lines}
    _LINES.clear()
    _LINES.update(known)
    tracker = values["tracker"] and Tracker(**values["tracker"])
    return Shared(tracker, tuple(map(known.__getitem__, lines)), values.get("search"))


class SweepFile:
    """Owner of a sweep's file, to which runs are added; what it says of those before is not said anew."""

    def __init__(self, folder: Path, tracker: Tracker | None, search: str | None = None) -> None:
        """Write what `Shared` has into the sweep's `folder`, as soon as there are runs."""
        self._file = folder / layout.SWEEP
        self._head = json.dumps({"tracker": tracker and asdict(tracker), "search": search}).removesuffix("}")
        self._runs: list[str] = []

    def add(self, runs: Iterable[RunFacts], changed: Mapping[int, RunFacts] = _NONE) -> None:
        """Have the file say further runs, too, and `changed` ones by number: whole or not at all."""
        self._runs += [json.dumps(asdict(facts)) for facts in runs]
        for number, facts in changed.items():
            self._runs[number] = json.dumps(asdict(facts))
        files.write(self._file, f"{self._head}, {_RUNS}\n" + ",\n".join(self._runs) + _END, sync=True)


@dataclass(frozen=True)
class Sweep:
    """A sweep as its folder tells it."""

    folder: Path
    results: tuple[Result, ...]
    """In the order of its jobs; the status of a run without a result is `RUNNING` or `WAITING`."""
    tracker: Mapping[str, str] | None
    """`uri`, `experiment_id` and `sweep_run_id` of its record."""

    @property
    def name(self) -> str:
        """The name for people, which its record has too."""
        return f"{self.folder.parent.name} {self.folder.name}"


def read(folder: Path) -> Sweep:
    """Return the sweep in `folder`; a run's folder stands for its sweep. Raises UserError where there is none."""
    folder = run_folders.sweep_of(folder) or folder
    try:
        shared = files.read_json(folder / SWEEP)
        told = [(run_folders.told(facts), str(facts["name"]), dict(facts["choices"])) for facts in shared["runs"]]
        tracker = {key: str(value) for key, value in (shared.get("tracker") or {}).items() if value is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        near = [str(path.parent) for path in folder.parent.glob(f"*/{SWEEP}")]
        raise user_error("sweep", folder, f"the folder of a sweep, with its {SWEEP}", near) from None
    runs = [_result(folder, number, *facts) for number, facts in enumerate(told)]
    if _gone(folder / layout.OWNER) and not cluster_jobs.alive(folder):
        jobs = cluster_jobs.in_charge(folder, [name for name, *_ in told])
        runs = [_never_begun(run, jobs.get(name)) for run, (name, *_) in zip(runs, told, strict=True)]
    return Sweep(folder, tuple(runs), tracker or None)


def _never_begun(run: Result, by: tuple[cluster_jobs.Job, State] | None) -> Result:
    """Return a run that waits as killed, since nobody is left to begin it: for the reason of the job that was to."""
    reason = cluster_jobs.why(*by) if by is not None else run.reason
    return replace(run, status="KILLED", reason=reason) if run.status == "WAITING" else run


def _gone(beat: Path) -> bool:
    """Return whether it is known that the process which gives this sign of life does so no more."""
    owner = liveness.read(beat)
    return owner is not None and owner.gone(beat.stat().st_mtime)


def _result(sweep: Path, number: int, folder: str, name: str, choices: dict[str, Any]) -> Result:
    own = sweep / folder
    waiting = Result(number, name, str(own), None, "WAITING", "not begun", choices, {})
    if (found := read_result(own)) is None:
        return _begun(own, waiting) if own.is_dir() else waiting
    lies_there = files.readable(Path(found.folder) / layout.CONFIG)  # else the sweep may have been moved
    return found if lies_there else replace(found, folder=str(own))


def _begun(folder: Path, waiting: Result) -> Result:
    """Return a run without a result as running, unless its process is known to be gone."""
    if _gone(folder / layout.BEAT):
        return replace(waiting, status="KILLED", reason="its process is gone")
    if not (folder / layout.BEAT).exists() and journal.ended(folder):  # whoever lets go of it has written its result
        return replace(waiting, status="KILLED", reason=f"it ended, but its {layout.RESULT} is damaged or gone")
    return replace(waiting, status="RUNNING", reason="no result yet")


def with_record(sweep: Path) -> list[Path]:
    """Return the folders with a record: the sweep's own first, then those of its runs."""
    return [folder for folder in (sweep, *run_folders.of(sweep)) if (folder / layout.RECORD).exists()]


def end_the_dead(folders: Iterable[Path]) -> None:
    """Write into the journals of those `folders` whose process is gone that its run was killed, unless it says more.

    Nobody's word but its own says that a run goes on: jobs of a cluster outlive the sweep that sent them there.
    """
    for folder in folders:
        if not journal.ended(folder) and liveness.holder(folder) is None:
            end(folder, "KILLED", GONE)


def going_on(sweep: Path) -> list[Path]:
    """Return the folders of the runs of a `sweep` in which somebody gives signs of life."""
    return [folder for folder in with_record(sweep)[1:] if liveness.holder(folder) is not None]
