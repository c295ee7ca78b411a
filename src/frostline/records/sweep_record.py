"""The state of a sweep as its folder shows it: the results of all runs, finished or not."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from frostline.core import files
from frostline.core.errors import user_error
from frostline.records import cluster_jobs, journal, layout, liveness, run_folders, trial_tags
from frostline.records.layout import SWEEP
from frostline.records.result import Result, read_result
from frostline.records.slurm import State


@dataclass(frozen=True)
class RecordedSweep:
    """The state of a sweep, as its folder shows it."""

    folder: Path
    results: tuple[Result, ...]
    """In the order of its jobs; the status of a run without a result is `RUNNING` or `WAITING`."""
    tracker: Mapping[str, str] | None
    """`uri`, `experiment_id` and `sweep_run_id` of its record."""

    @property
    def name(self) -> str:
        """The name of the sweep, which its record has too."""
        return f"{self.folder.parent.name} {self.folder.name}"


def read(folder: Path, typed: str | None = None) -> RecordedSweep:
    """Return the state of the sweep in `folder`; a run's folder stands for its sweep.

    Raises UserError without one, which shows the folder as it was `typed`.
    """
    folder = run_folders.sweep_of(folder) or folder
    try:
        shared = files.read_json(folder / SWEEP)
        names = [run_folders.folder_of(facts) for facts in shared["runs"]]
        waiting = [_waiting(folder, number, facts) for number, facts in enumerate(shared["runs"])]
        if any(trial_tags.damaged(run.choices) is not None for run in waiting):
            raise ValueError("a mark of a search is damaged")
        tracker = {key: str(value) for key, value in (shared.get("tracker") or {}).items() if value is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        expected = f"the folder of a sweep, with its {SWEEP}"
        if (folder / SWEEP).exists():
            raise user_error("sweep", folder, f"{expected}, which is damaged here") from None
        near = [str(path.parent) for path in folder.parent.glob(f"*/{SWEEP}")]
        raise user_error("sweep", typed or folder, expected, near) from None
    runs = [_result(run) for run in waiting]
    if _gone(folder / layout.OWNER) and not cluster_jobs.alive(folder):
        jobs = cluster_jobs.in_charge(folder, names)
        reasons = _reasons(folder)
        runs = [_never_begun(run, jobs.get(name), reasons.get(run.job)) for run, name in zip(runs, names, strict=True)]
    return RecordedSweep(folder, tuple(runs), tracker or None)


def _waiting(sweep: Path, number: int, facts: Mapping[str, Any]) -> Result:
    """Return the result of a run that has not begun, from its facts in the sweep's file."""
    command = [*map(str, told)] if isinstance(told := facts.get("command"), list) else None
    folder, name, choices = str(sweep / run_folders.folder_of(facts)), str(facts["name"]), dict(facts["choices"])
    return Result(number, name, folder, None, "WAITING", "not begun", choices, {}, command=command)


def _reasons(sweep: Path) -> dict[int, str]:
    """Return why runs did not finish, by number, as the sweep said when it ended."""
    told = files.json_or_none(sweep / layout.RESULTS)
    found = []
    for values in told if isinstance(told, list) else []:
        with suppress(ValueError):
            found.append(Result.of(values))
    return {result.job: result.reason for result in found if result.reason}


def _never_begun(run: Result, by: tuple[cluster_jobs.Job, State] | None, said: str | None) -> Result:
    """Return a waiting run as KILLED, since no process is left to begin it, with the reason of its job or sweep."""
    reason = cluster_jobs.why(*by) if by is not None else said or run.reason
    return replace(run, status="KILLED", reason=reason) if run.status == "WAITING" else run


def _gone(beat: Path) -> bool:
    """Return whether the owner in the heartbeat file `beat` is known to be gone."""
    owner = liveness.read(beat)
    return owner is not None and owner.gone(beat.stat().st_mtime)


def _result(waiting: Result) -> Result:
    """Return the result that a run has written, or its state without one."""
    own = Path(waiting.folder)
    if (found := read_result(own)) is None or trial_tags.damaged(found.choices) is not None:
        return _begun(own, waiting) if own.is_dir() else waiting
    found = replace(found, command=waiting.command)
    lies_there = files.readable(Path(found.folder) / layout.CONFIG)  # else the sweep was probably moved
    return found if lies_there else replace(found, folder=str(own))


def _begun(folder: Path, waiting: Result) -> Result:
    """Return a run without a result as running, unless its process is known to be gone."""
    if _gone(folder / layout.BEAT):
        return replace(waiting, status="KILLED", reason="its process is gone")
    if not (folder / layout.BEAT).exists() and journal.ended(folder):  # released after its result was written
        return replace(waiting, status="KILLED", reason=f"it ended, but its {layout.RESULT} is damaged or gone")
    return replace(waiting, status="RUNNING", reason="no result yet")
