"""A sweep's file, `sweep.json`: what every job needs to know of its sweep, whichever launcher started it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from frostline.core import files
from frostline.records import layout
from frostline.records.result import Result


@dataclass(frozen=True)
class Tracker:
    """The location of a sweep's record: plain facts that a launcher can send to any process."""

    uri: str
    """Tracking URI without credentials; those stay in MLFLOW_TRACKING_URI."""
    experiment: str
    """Name of the experiment."""
    folder: str
    """The sweep's folder, which holds its journal."""
    experiment_id: str | None
    """None if MLflow was not available when the sweep began."""
    sweep_run_id: str | None
    """MLflow's id of the parent run; None as above."""


@dataclass(frozen=True)
class Interrupted:
    """An interrupted run, which another one resumes."""

    run_id: str | None
    """Its id in MLflow."""
    folder: str | None
    """The folder with its checkpoint, if there is one on this machine."""


@dataclass(frozen=True)
class RunFacts:
    """The facts of a run within its sweep."""

    name: str
    """e.g. `head lr=0.001 seed=0`."""
    choices: dict[str, Any]
    """Choices by short name, and other keys that differ within the sweep."""
    folder: str
    """Its folder, relative to the sweep's."""
    digest: str = ""
    """Digest of the config."""
    settled: dict[str, Any] = field(default_factory=dict)
    """Values that replace `auto` in this sweep, by key: decided once, wherever its jobs run."""
    finished: Result | None = None
    """The result, if an earlier sweep has finished this run."""
    busy: Result | None = None
    """A result with status `RUNNING` and the run's folder, if another process has this run."""
    previous: Interrupted | None = None
    """The run that this one resumes."""
    stack: int | None = None
    """Number of the group of runs that one worker carries out, since their heads can be trained in lockstep."""
    of_steps: dict[str, Any] = field(default_factory=dict)
    """The values in which it may differ from that group, by key."""
    data: str | None = None
    """Location of its data: an absolute path, or a URL."""
    command: list[str] | None = None
    """The options typed for it in this sweep, without passwords."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RunFacts:
        """Return the facts in plain values from the sweep's file."""
        kinds = {"finished": Result, "busy": Result, "previous": Interrupted}
        return cls(**{**values, **{key: kind(**values[key]) for key, kind in kinds.items() if values.get(key)}})

    @property
    def to_do(self) -> bool:
        """Whether this sweep has to carry out the run."""
        return self.finished is None and self.busy is None


_NONE: Mapping[int, RunFacts] = MappingProxyType({})
_RUNS, _END = '"runs": [', "\n]}\n"  # a line per run between them
_LINES: dict[str, RunFacts] = {}
"""Parsed lines of the sweep's file that this process read last."""


@dataclass(frozen=True)
class SweepFacts:
    """Facts that every job needs about its sweep: JSON in the sweep's folder, readable by processes of any launcher."""

    tracker: Tracker | None
    """None in a dry run, and until the first job of a cluster has begun the record."""
    runs: tuple[RunFacts, ...]
    search: str | None = None
    """Description of the search, if further runs are decided while the sweep goes on."""

    @staticmethod
    def exist(folder: Path) -> bool:
        """Return whether `folder` has the file of a sweep."""
        return (folder / layout.SWEEP).is_file()

    @classmethod
    def read(cls, folder: Path) -> SweepFacts:
        """Return the facts in the sweep's `folder`, cached until the file is replaced."""
        path = folder / layout.SWEEP
        found = path.stat()
        return _sweep_facts(path, found.st_ino, *files.facts(str(path)))

    @classmethod
    def read_or_none(cls, folder: Path) -> SweepFacts | None:
        """Return the facts of a sweep that may be another's; None without a file, or a damaged or foreign one."""
        try:
            return cls.read(folder)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


@functools.lru_cache(1)
def _sweep_facts(path: Path, *state: int) -> SweepFacts:
    """Return the content of the file at `path` in this `state`; a thousand runs take nearly a megabyte.

    A search replaces the file for every trial, so only lines that were not in the previous file are parsed.
    """
    text = path.read_text(encoding="utf-8")
    head, *lines = text.removesuffix(_END).split("\n")
    if not (head.endswith(_RUNS) and text.endswith(_END)):  # not our format, e.g. edited by hand
        values = files.parsed(text)
        lines = [json.dumps(facts) for facts in values["runs"]]
    else:
        values = files.parsed(f"{head}]}}")
        lines = [line.removesuffix(",") for line in lines if line]
    known = {line: _LINES.get(line) or RunFacts.of(files.parsed(line)) for line in lines}
    _LINES.clear()
    _LINES.update(known)
    tracker = values["tracker"] and Tracker(**values["tracker"])
    return SweepFacts(tracker, tuple(map(known.__getitem__, lines)), values.get("search"))


class SweepFile:
    """Writer of a sweep's file, to which runs are added; the facts of earlier runs are not serialised again."""

    def __init__(self, folder: Path, tracker: Tracker | None, search: str | None = None) -> None:
        """Prepare the file that `SweepFacts.read` reads in the sweep's `folder`; `add` writes it."""
        self._file = folder / layout.SWEEP
        self._head = json.dumps({"tracker": tracker and asdict(tracker), "search": search}).removesuffix("}")
        self._runs: list[str] = []

    def add(self, runs: Iterable[RunFacts], changed: Mapping[int, RunFacts] = _NONE) -> None:
        """Add runs, replace `changed` ones by number, and write the file atomically."""
        self._runs += [json.dumps(asdict(facts)) for facts in runs]
        for number, facts in changed.items():
            self._runs[number] = json.dumps(asdict(facts))
        files.write(self._file, f"{self._head}, {_RUNS}\n" + ",\n".join(self._runs) + _END, sync=True)
