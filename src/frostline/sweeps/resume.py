"""Find runs of a new sweep that earlier sweeps have finished, or interrupted so that they can be resumed.

Two runs are the same if their config, source and data are the same. Most are in MLflow; those that it lacks are in the
journals of pending sweeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from frostline.core import project
from frostline.core.errors import UserError
from frostline.records import cluster_jobs, journal, layout, liveness, run_folders
from frostline.records.layout import CHECKPOINT, FOLDER_TAG, UID_TAG
from frostline.records.result import TEST, VAL
from frostline.records.sweep_facts import SweepFacts, Tracker
from frostline.sweeps.past_runs import PastRun, of_folder
from frostline.tracking import pending_sweeps, query, server, sync
from frostline.tracking.sync import SweepMirror

_PATIENCE = 30.0  # seconds to complete the record of a run that is to be resumed


@dataclass(frozen=True)
class Match:
    """What earlier sweeps have of one run of the new sweep; all None: run it from the start."""

    finished: PastRun | None = None
    interrupted: PastRun | None = None
    busy: PastRun | None = None
    """Another process works on it."""
    note: str | None = None
    """A note for the user."""


def earlier_runs(tracker: Tracker, digests: Collection[str] | None) -> dict[str, list[PastRun]]:
    """Return earlier runs with these `digests`, None for all, by digest, with any source and data."""
    by_digest: dict[str, dict[object, PastRun]] = {digest: {} for digest in digests or ()}
    for past in _every_earlier_run(tracker, digests):
        runs = by_digest.setdefault(past.tags[layout.DIGEST_TAG], {})
        runs.setdefault(past.run_id or past.tags.get(FOLDER_TAG), past)
    if any(past.folder is None for runs in by_digest.values() for past in runs.values()):
        lying = run_folders.by_uid([project.multirun(), Path(tracker.folder).parent])
        by_digest = {digest: {key: _moved(p, lying) for key, p in runs.items()} for digest, runs in by_digest.items()}
    return {digest: list(runs.values()) for digest, runs in by_digest.items()}


def _moved(past: PastRun, lying: Mapping[str, Path]) -> PastRun:
    """Return the run with its present folder, if that was moved to one in `lying` (folders by uid)."""
    where = lying.get(past.tags.get(UID_TAG, "")) if past.folder is None else None
    return replace(past, tags={**past.tags, FOLDER_TAG: str(where)}) if where else past


def _every_earlier_run(tracker: Tracker, digests: Collection[str] | None) -> Iterator[PastRun]:
    """Yield earlier runs: from journals of pending sweeps, then from MLflow, newest first."""
    for sweep in _pending(tracker):
        for folder in run_folders.with_record(sweep):
            past = of_folder(folder)
            if past is not None and query.is_wanted(past.tags, digests):
                yield past
        yield from (past for past in _queued_runs(sweep) if query.is_wanted(past.tags, digests))
    if tracker.experiment_id is not None:
        try:
            yield from (
                _completed(PastRun(**facts)) for facts in query.runs(tracker.uri, tracker.experiment_id, digests)
            )
        except server.Unreachable:
            return


def _pending(tracker: Tracker) -> list[Path]:
    """Return the folders of pending sweeps of the tracker's experiment, or of an experiment that they do not state."""
    sweeps = pending_sweeps.remembered(tracker.uri)
    return [sweep for sweep in sweeps if journal.beginning(sweep).get("experiment") in (None, tracker.experiment)]


def _completed(past: PastRun) -> PastRun:
    """Return a run that finished with what it came to as its folder has it, where somebody took that from the store.

    Where that is not here it is to be run again.
    """
    if past.status != "FINISHED" or {VAL, TEST} <= past.metrics.keys():
        return past
    there = of_folder(past.folder) if past.folder is not None else None
    return there if there is not None and there.status == "FINISHED" else replace(past, status="KILLED")


def _queued_runs(sweep: Path) -> Iterator[PastRun]:
    """Yield runs of a `sweep` in a cluster's queue, without a journal so far; they will run today's code."""
    jobs = cluster_jobs.by_run(sweep)
    if not jobs or (told := SweepFacts.read_or_none(sweep)) is None:
        return
    source = project.source_sha256()
    for facts in told.runs:
        folder = sweep / facts.folder
        if facts.to_do and facts.folder in jobs and not (folder / layout.RECORD).exists():
            tags = {layout.DIGEST_TAG: facts.digest, layout.SOURCE_TAG: source, FOLDER_TAG: str(folder)}
            if (past := PastRun(None, "RUNNING", tags)).holder is not None:
                yield past


def planned(tracker: Tracker) -> Iterator[tuple[PastRun, str | None]]:
    """Yield runs that other live sweeps have yet to start, and the location of the data of each.

    They have no journal yet. Sweeps of other machines are seen if folders and the list of pending sweeps are shared.
    """
    for sweep in _pending(tracker):
        owner = liveness.living(sweep / layout.OWNER)
        if owner in (None, liveness.this_process()):
            continue
        told = SweepFacts.read_or_none(sweep)
        if told is not None and (own := of_folder(sweep)) is not None:
            for facts in told.runs:
                if facts.to_do and not (sweep / facts.folder / layout.RECORD).exists():
                    tags = {layout.DIGEST_TAG: facts.digest, FOLDER_TAG: str(sweep / facts.folder)}
                    same = {key: own.tags[key] for key in (layout.SOURCE_TAG, *layout.OWNER_TAGS) if key in own.tags}
                    yield PastRun(None, "RUNNING", {**same, **tags}), facts.data


def match_of(runs: Sequence[PastRun], source: str, fingerprint: str | None, *, trial: bool = False) -> Match:
    """Match a run with this `source` with the earlier `runs` of its config.

    `fingerprint` is that of its data, None for unreadable data. A `trial` that diverged counts as finished, since a
    search learns from it.
    """
    same = [run for run in runs if run.source == source]
    own = [run for run in same if run.fingerprint == fingerprint or (not run.fingerprint and run.status != "FINISHED")]
    finished = next((run for run in own if run.status == "FINISHED" or (trial and run.diverged)), None)
    if finished is not None:
        return Match(finished=finished)
    if (busy := next((run for run in own if run.holder is not None), None)) is not None:
        return Match(busy=busy)
    for run in own:
        if run.status != "FAILED" or (run.folder is not None and (run.folder / CHECKPOINT).is_dir()):
            return Match(interrupted=run)
    if (past := next((run for run in same if run not in own and run.status != "FAILED"), None)) is not None:
        return Match(note=f"not skipped: it ran on other data in {past}")
    other = next((run for run in runs if run.status == "FINISHED"), None)
    return Match(note=f"not skipped: the source changed since it finished in {other}") if other else Match()


def with_run_id(past: PastRun, uri: str) -> PastRun:
    """Return `past` with its MLflow run id; if MLflow lacks the run, first complete the record of its sweep.

    Otherwise the run would continue under a new id, and its journal would later be recorded a second time. Without
    a connection to MLflow the id stays None.
    """
    folder, deadline = past.folder, time.monotonic() + _PATIENCE
    with suppress(server.Unreachable, UserError, OSError):
        while folder and not journal.run_id(folder) and time.monotonic() < deadline:
            sweep = run_folders.sweep_of(folder) or folder.parent
            if not sync.complete(SweepMirror(sweep, pending_sweeps.place_of(sweep, uri))):
                time.sleep(0.1)  # another process is completing it
    return replace(past, run_id=past.run_id or (journal.run_id(folder) if folder else None))


def mend(uri: str, experiment: str, say: Callable[[str], object], *, lost: str | None = None) -> int:
    """Mark runs as KILLED that MLflow shows as RUNNING and whose process is gone, and return their number.

    `lost` is the name of a machine that is gone. Raises `server.Unreachable`.
    """
    mended = 0
    for run_id, tags in query.running(uri, experiment):
        past = PastRun(run_id, "RUNNING", tags)
        owner = liveness.of_tags(tags)
        if owner is not None and (past.holder is None or (lost and past.left_by(lost))):
            why = f"process {owner.pid} on {owner.host} is gone"
            query.end(uri, run_id, "KILLED", why)
            say(f"{tags.get(layout.NAME_TAG, run_id)}: {why}; marked as KILLED")
            mended += 1
        elif owner is not None and owner.host == lost:
            when = f"in the last {liveness.SILENT_WHEN_TOLD:.0f} seconds"
            say(f"{tags.get(layout.NAME_TAG, run_id)}: left alone, since it gave a sign of life {when}")
    return mended
