"""Answer a repeated sweep whose runs are all finished from the folder of the earlier sweep.

Loads neither torch nor MLflow, and records nothing a second time. The earlier sweep must have a complete record on this
machine, all its runs, and unchanged data files; otherwise the sweep takes the usual path.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from frostline.core import project
from frostline.core.config import Config
from frostline.core.config_keys import digest, value_of, with_values
from frostline.records import journal, layout, liveness
from frostline.records.result import Result, read_result
from frostline.records.sweep_facts import RunFacts, SweepFacts, Tracker
from frostline.sweeps import data_index, past_runs
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.past_runs import PastRun
from frostline.tracking import pending_sweeps, query, tracking_uri

_NEWEST = 50  # number of latest sweeps that are read
_FEW_RUNS = 20  # up to so many, a look at the earlier sweep must take no longer than their start
_FEW_FILES = 20_000  # whose states take 0.1 s on a local disk, and some seconds on a shared one


@dataclass(frozen=True)
class FinishedSweep:
    """An earlier sweep that has finished all runs of a new one."""

    folder: Path
    tracker: Tracker
    results: tuple[Result, ...]
    """In the order of the new sweep, with its names."""
    pasts: tuple[PastRun, ...]


def begun_with(first: Config, jobs: int, folder: Path | None) -> list[Path]:
    """Return the folders of recorded sweeps that begin with the run `first`, newest first.

    One of them may have finished all runs of a new sweep of so many `jobs`. With a `folder`, which the user named, only
    that is looked at.
    """
    if not first.resume or first.dry_run or first.search.name != "grid":
        return []
    there = sorted((file.parent for file in project.multirun().glob(f"*/*/{layout.DATA}")), reverse=True)
    return [place for place in ([folder] if folder else there[:_NEWEST]) if _begins_with(first, jobs, place)]


def _begins_with(first: Config, jobs: int, folder: Path) -> bool:
    """Return whether the recorded sweep in `folder`, a grid of this machine, begins with this run."""
    if not (folder / layout.DATA).is_file() or (told := SweepFacts.read_or_none(folder)) is None:
        return False
    owner = liveness.read(folder / layout.OWNER)
    if jobs <= _FEW_RUNS and jobs != len(told.runs):  # e.g. a longer grid, whose workers are to start now
        return False
    whole = told.search is None and told.tracker is not None and len(told.runs) > 0
    return bool(owner and owner.here and whole and told.runs[0].digest == settled_digest(first, told.runs[0]))


def with_all(planned: Sequence[PlannedRun], folders: Sequence[Path]) -> FinishedSweep | None:
    """Return the first of the sweeps in `folders` that has finished all `planned` runs; None if there is none."""
    index = index_of(planned)
    return next(filter(None, (_whole(folder, planned, index) for folder in folders)), None)


def _whole(folder: Path, planned: Sequence[PlannedRun], index: dict[str, str] | None) -> FinishedSweep | None:
    told = SweepFacts.read(folder)
    tracker = told.tracker
    if tracker is None or len(told.runs) != len(planned) or not data_index.is_same(folder, index):
        return None
    over = (folder / layout.REPORT).is_file() and journal.ended(folder)
    if not over or not _recorded(tracker, planned[0].config):
        return None
    pairs = [*zip(planned, told.runs, strict=True)]
    if any(settled_digest(run.config, facts) != facts.digest or facts.busy for run, facts in pairs):
        return None
    found = [*_finished(folder, pairs)]
    if len(found) < len(pairs):
        return None
    results, pasts = zip(*found, strict=True)
    ids = [result.run_id or "" for result in results]
    if not _on_same_data(planned, pasts) or not query.has_finished(tracker.uri, [*ids, journal.run_id(folder) or ""]):
        return None
    return FinishedSweep(folder, tracker, results, pasts)


def _on_same_data(planned: Sequence[PlannedRun], pasts: Sequence[PastRun]) -> bool:
    """Return whether earlier runs with the same data section have one and the same fingerprint."""
    prints = {(repr(run.config.data), past.fingerprint) for run, past in zip(planned, pasts, strict=True)}
    return len(prints) == len({data for data, _ in prints}) and all(known is not None for _, known in prints)


def index_of(planned: Sequence[PlannedRun]) -> dict[str, str] | None:
    """Return the index of the data of the `planned` runs; None if it has none, or too many files for so few runs."""
    most = math.inf if len(planned) > _FEW_RUNS else _FEW_FILES
    return data_index.index([run.config for run in planned], most)


def _recorded(tracker: Tracker, config: Config) -> bool:
    """Return whether `tracker` is where the new sweep would be recorded, and no sweep there is still pending."""
    place = (tracking_uri.resolved(config.tracking.uri), config.experiment_name)
    return (tracker.uri, tracker.experiment) == place and not pending_sweeps.remembered(tracker.uri)


def settled_digest(config: Config, facts: RunFacts) -> str:
    """Return the digest of a run with the values that `auto` took in an earlier run.

    The hash of a weights file is not filled in: such a run gets another digest, and takes the usual path.
    """
    meant = {key: value for key, value in facts.settled.items() if value_of(config, key) == "auto"}
    return digest(with_values(config, meant))


def _finished(folder: Path, pairs: Sequence[tuple[PlannedRun, RunFacts]]) -> Iterator[tuple[Result, PastRun]]:
    """Yield the result of each run, up to the first that is not finished with today's source."""
    source = project.source_sha256()
    for number, (run, facts) in enumerate(pairs):
        own = Path(facts.finished.folder) if facts.finished else folder / facts.folder
        past, result = past_runs.of_folder(own), read_result(own)
        if past is None or result is None or past.status != "FINISHED" or past.source != source:
            return
        yield replace(result, job=number, name=run.name, choices=facts.choices, command=run.command), past
