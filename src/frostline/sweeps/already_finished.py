"""A sweep of many runs that is typed again when all of them are finished: it is answered from the folder where it was.

Neither torch nor MLflow is loaded, and nothing is recorded a second time. That is for a sweep whose record is complete
here, whose runs nobody deleted, and whose data are the same by their files; any other is looked into as ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from frostline.core import project
from frostline.core.config import Config
from frostline.core.config_keys import digest, value_of, with_values
from frostline.records import journal, layout, liveness, sweep_record
from frostline.records.result import Result, read_result
from frostline.records.sweep_record import RunFacts, Tracker
from frostline.sweeps import data_index, past_runs
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.past_runs import Past
from frostline.sweeps.skip_or_resume import NAMED
from frostline.tracking import pending_sweeps, query, tracking_uri

_NEWEST = 50  # sweeps that are looked into


@dataclass(frozen=True)
class Answered:
    """An earlier sweep that did all that is asked for."""

    folder: Path
    tracker: Tracker
    results: tuple[Result, ...]
    """In the order of the new one, with its names."""
    pasts: tuple[Past, ...]


class Earlier:
    """Knows which earlier sweeps may have done all of a new one, by its first run."""

    def __init__(self, jobs: int, folder: Path | None) -> None:
        """Look for a sweep of so many `jobs`, in the `folder` that a person named, else among the project's."""
        self._jobs, self._folder = jobs, folder
        self.found: list[Path] = []
        """Which may be, newest first."""

    def may_be(self, first: Config) -> bool:
        """Return whether there is one that begins with this run, which is told before the others are composed."""
        if self._jobs > NAMED and first.resume and not first.dry_run and first.search.name == "grid":
            self.found = [folder for folder in self._places() if self._begins(folder, first)]
        return bool(self.found)

    def _places(self) -> list[Path]:
        if self._folder is not None:
            return [self._folder]
        return sorted((file.parent for file in project.multirun().glob(f"*/*/{layout.DATA}")), reverse=True)[:_NEWEST]

    def _begins(self, folder: Path, first: Config) -> bool:
        """Return whether the sweep in `folder` began with this run, on this machine, and came to its end."""
        if not (folder / layout.DATA).is_file() or not sweep_record.Shared.there(folder):
            return False
        owner, told = liveness.read(folder / layout.OWNER), sweep_record.Shared.read(folder)
        whole = told.search is None and told.tracker is not None and len(told.runs) > 0
        return bool(owner and owner.here and whole and told.runs[0].digest == settled_digest(first, told.runs[0]))

    def answer(self, planned: Sequence[PlannedRun]) -> Answered | None:
        """Return what the newest of them came to that has all that is `planned`; None where none has."""
        if not self.found:
            return None
        index = data_index.index([run.config for run in planned])
        return next(filter(None, (self._whole(folder, planned, index) for folder in self.found)), None)

    def _whole(self, folder: Path, planned: Sequence[PlannedRun], index: dict[str, str] | None) -> Answered | None:
        told = sweep_record.Shared.read(folder)
        tracker, runs = told.tracker, told.runs
        if tracker is None or len(runs) != len(planned) or not data_index.is_same(folder, index):
            return None
        over = (folder / layout.REPORT).is_file() and journal.ended(folder)
        if not over or not _recorded(tracker, planned[0].config):
            return None
        pairs = [*zip(planned, runs, strict=True)]
        if any(settled_digest(run.config, facts) != facts.digest or facts.busy for run, facts in pairs):
            return None
        found = [*_finished(folder, pairs)]
        if len(found) < len(pairs):
            return None
        results, pasts = zip(*found, strict=True)
        prints: dict[str, set[str | None]] = {}
        for run, past in zip(planned, pasts, strict=True):
            prints.setdefault(repr(run.config.data), set()).add(past.fingerprint)
        same = all(len(each) == 1 and None not in each for each in prints.values())
        ids = [result.run_id or "" for result in results]
        if not same or not query.has_finished(tracker.uri, [*ids, journal.run_id(folder) or ""]):
            return None
        return Answered(folder, tracker, results, pasts)


def _recorded(tracker: Tracker, config: Config) -> bool:
    """Return whether it was recorded where the new one would be, and no sweep waits there to be passed on."""
    root = project.project_root()
    place = (tracking_uri.resolved(config.tracking.uri, root), config.experiment_name)
    return (tracker.uri, tracker.experiment) == place and not pending_sweeps.remembered(tracker.uri, root)


def settled_digest(config: Config, facts: RunFacts) -> str:
    """Return the digest of a run with what `auto` meant to an earlier one in its place.

    Which weights lie in a file nothing tells but the file: where that was settled it is another run, to be looked into.
    """
    meant = {key: value for key, value in facts.settled.items() if value_of(config, key) == "auto"}
    return digest(with_values(config, meant))


def _finished(folder: Path, pairs: Sequence[tuple[PlannedRun, RunFacts]]) -> Iterator[tuple[Result, Past]]:
    """Yield what each run came to, up to the first that is not finished with today's source."""
    source = project.source_sha256()
    for number, (run, facts) in enumerate(pairs):
        own = Path(facts.finished["folder"]) if facts.finished else folder / facts.folder
        past, result = past_runs.of_folder(own), read_result(own)
        if past is None or result is None or past.status != "FINISHED" or past.source != source:
            return
        yield replace(result, job=number, name=run.name, choices=facts.choices), past
