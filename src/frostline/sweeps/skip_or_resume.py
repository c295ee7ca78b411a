"""Decide for each run of a sweep whether to skip it (finished), resume it (interrupted), or leave it to its holder."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from frostline.core import credentials, files, project
from frostline.core.config import Config
from frostline.core.config_keys import digest, value_of
from frostline.records import layout, liveness, run_folders, trial_tags
from frostline.records.heartbeat import Heartbeat
from frostline.records.result import Result, number_of, write_result
from frostline.records.sweep_facts import Interrupted, RunFacts, Tracker
from frostline.report import terminal
from frostline.sweeps import job, past_runs, resume
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.past_runs import PastRun
from frostline.sweeps.pool import WorkerDied
from frostline.sweeps.preflight import fingerprints
from frostline.sweeps.resume import Match
from frostline.tracking import claims, download, pending_sweeps, server

# large files, and files that only the run's own process writes
_NOT_FETCHED = (layout.BEST, *layout.OF_RECORD, *layout.OF_OWNER)
_NAMED = 20
"""Up to so many runs, each gets its own line about why it is skipped or not; more are summed up."""


def facts_of(run: PlannedRun) -> RunFacts:
    """Return the facts that the job of a run needs, without those from earlier sweeps."""
    settled = {key: value_of(run.config, key) for key in ("precision", "compile", "data.pixels", "model.sha256")}
    root = run.config.data.root
    data = credentials.removed(root) if "://" in root else str(files.absolute(root))
    return RunFacts(run.name, run.choices, run.folder, digest(run.config), settled, data=data, command=run.command)


class Takeover:
    """Knows the earlier runs at the beginning of a sweep, and matches each run of the sweep with them."""

    def __init__(
        self,
        tracker: Tracker,
        folder: Path,
        *,
        heart: Heartbeat,
        call: Callable[[Callable[[], Any]], Any],
        digests: Collection[str] | None,
    ) -> None:
        """Look for earlier runs with these `digests`, None for all, on behalf of the sweep in `folder`.

        `heart` claims the runs to resume, so that no other sweep resumes them; `call` calls a function in a process
        with torch.
        """
        self._tracker, self._folder, self._heart, self._call = tracker, folder, heart, call
        self._looks = bool(digests)
        self._source = project.source_sha256()
        self._prints: dict[str, str | None] = {}
        self._skipped: list[tuple[str, PastRun]] = []
        self._notes: list[tuple[str, str]] = []
        with suppress(server.Unreachable):
            resume.mend(tracker.uri, tracker.experiment, terminal.say)
        self._before = resume.earlier_runs(tracker, digests)

    def facts(self, planned: Sequence[PlannedRun], first: int) -> tuple[RunFacts, ...]:
        """Return the facts of the runs, numbered from `first`, and print which runs are skipped or resumed."""
        keys = [digest(run.config) for run in planned]
        for run in planned:
            if run.elsewhere is not None and (past := past_runs.of_folder(run.elsewhere)) is not None:
                self._add_given(past)
        known = [any(past.source == self._source for past in self._before.get(key, ())) for key in keys]
        prints = self._fingerprints([run.config for run, there in zip(planned, known, strict=True) if there])
        matches = []
        for run, key in zip(planned, keys, strict=True):
            runs = self._before.get(key, [])
            fingerprint, trial = prints.get(repr(run.config.data)), trial_tags.is_trial(run.choices)
            one = resume.match_of(runs, self._source, fingerprint, trial=trial)
            # Runs that differ only in their data share a digest: an interrupted one is resumed only once.
            self._before[key] = [past for past in runs if past is not one.interrupted]
            matches.append(one)
        theirs = self._claimed([one.interrupted for one in matches if one.interrupted is not None])
        pairs = enumerate(zip(planned, matches, strict=True), first)
        found = [self._facts(number, run, one, theirs) for number, (run, one) in pairs]
        for line in [*describe_notes(self._notes), *describe_skipped(self._skipped)]:
            terminal.say(line)
        self._skipped, self._notes = [], []
        return tuple(found)

    def _add_given(self, past: PastRun) -> None:
        """Add a run that a shared study assigned to this sweep; if it waited in another sweep, it is free now."""
        key = past.tags.get(layout.DIGEST_TAG, "")
        others = [
            one for one in self._before.get(key, ()) if one.tags.get(layout.FOLDER_TAG) != past.tags[layout.FOLDER_TAG]
        ]
        self._before[key] = [*others, replace(past, status=past_runs.WAITING) if past.status == "PAUSED" else past]

    @contextmanager
    def left_to_others(self, facts: Sequence[RunFacts], first: int) -> Iterator[tuple[RunFacts, ...]]:
        """Yield the facts of runs, numbered from `first`, in which runs planned by other live sweeps are left to them.

        The block holds a lock, and must write the planned runs: no other sweep of the same store plans meanwhile.
        """
        with pending_sweeps.planning(self._tracker.uri):
            others = resume.planned(self._tracker) if self._looks else ()
            theirs = {(past.tags[layout.DIGEST_TAG], past.source, data): past for past, data in others}
            yield tuple(self._left_to(theirs, number, one) for number, one in enumerate(facts, first))

    def _left_to(
        self, theirs: Mapping[tuple[str, str | None, str | None], PastRun], number: int, one: RunFacts
    ) -> RunFacts:
        past = theirs.get((one.digest, self._source, one.data)) if one.to_do else None
        who = past.holder if past is not None else None
        return one if past is None or who is None else _left(number, one, past.place, who)

    def finished(self, config: Config) -> list[PastRun]:
        """Return the finished runs with today's source and the data of the config."""
        prints = self._fingerprints([config])
        same = (past for runs in self._before.values() for past in runs if past.source == self._source)
        return [past for past in same if past.status == "FINISHED" and past.fingerprint == prints[repr(config.data)]]

    def _fingerprints(self, configs: Sequence[Config]) -> dict[str, str | None]:
        """Return the fingerprints of the configs' data, by data section; each is computed once."""
        new = {data: config for config in configs if (data := repr(config.data)) not in self._prints}
        if new:
            self._prints |= dict.fromkeys(new)
            with suppress(WorkerDied):  # the runs will report it
                self._prints |= zip(new, self._call(partial(fingerprints, [*new.values()])), strict=True)
        return self._prints

    def _claimed(self, interrupted: Sequence[PastRun]) -> dict[str, liveness.Owner]:
        """Claim interrupted runs in MLflow, and return the owners of those that others have claimed, by run id."""
        ids = [past.run_id for past in interrupted if past.run_id is not None]
        with suppress(server.Unreachable):
            if self._tracker.sweep_run_id is not None:
                return claims.claim(self._tracker.uri, ids, self._tracker.sweep_run_id)
        return {}

    def _facts(self, number: int, run: PlannedRun, found: Match, theirs: Mapping[str, liveness.Owner]) -> RunFacts:
        """Return the facts of a run, given its match and the owners of claimed runs, by run id."""
        facts, own = facts_of(run), self._folder / run.folder
        here = liveness.holder(own)
        if found.note:
            self._notes.append((run.name, found.note))
        if found.finished is not None:
            return replace(facts, finished=self._finished(number, run, found.finished, vacant=here is None))
        if found.busy is not None and (who := found.busy.holder) is not None:
            return _left(number, facts, found.busy.place, who)
        if here is not None:  # a process works in this folder on another run, e.g. with other code
            return _left(number, facts, own, here)
        if found.interrupted is None:
            return facts
        if (owner := theirs.get(found.interrupted.run_id or "")) is not None:
            return _left(number, facts, None, owner)
        return self._going_on(number, facts, found.interrupted)

    def _finished(self, number: int, run: PlannedRun, past: PastRun, *, vacant: bool) -> Result:
        """Return the result of a skipped run, and write it into its folder in this sweep if no process works there."""
        own = self._folder / run.folder
        self._skipped.append((run.name, past))
        where, reason = str(past.folder or own), past.tags.get(layout.REASON_TAG) or None
        result = Result(
            number, run.name, where, past.run_id, past.status, reason, run.choices, past.metrics, past.images
        )
        if vacant:
            own.mkdir(parents=True, exist_ok=True)
            if past.folder is None and past.run_id:  # the verdict and the report read these files
                download.fetch_files(self._tracker.uri, past.run_id, own, but=_NOT_FETCHED)
            write_result(own, result)
        return result

    def _going_on(self, number: int, facts: RunFacts, interrupted: PastRun) -> RunFacts:
        """Return the facts of a run that resumes an interrupted one, unless another process resumes it already."""
        past = resume.with_run_id(interrupted, self._tracker.uri)
        at, kept = past.folder, self._folder / facts.folder / layout.PREVIOUS
        if at is not None and (who := self._heart.take(at)) is not None:
            return _left(number, facts, at, who)
        if at is None and past.run_id and download.fetch_checkpoint(self._tracker.uri, past.run_id, kept):
            at = kept
        how, why = "resumed" if at else "restarted", "having waited" if past.waited else "interrupted"
        terminal.say(f"{facts.name}: {how}, {why} in {past}")
        return replace(facts, previous=Interrupted(past.run_id, str(at) if at else None))


def _left(number: int, facts: RunFacts, where: Path | None, who: liveness.Holder) -> RunFacts:
    """Return the facts of a run that `who` holds, in `where` if that is here, and print how to follow it."""
    sweep = where and shlex.quote(str(run_folders.sweep_of(where) or where.parent))
    how = f"`python -m frostline report {sweep}` shows its progress;" if sweep else "it is not here;"
    terminal.say(f"{facts.name}: left to {who}, which is running it: {how} this command includes it once it is done")
    return replace(facts, busy=job.busy_result(number, facts, where, who))


def describe_notes(notes: Sequence[tuple[str, str]]) -> list[str]:
    """Return a line per note on a run; for many runs a line per kind of note, with the place of the first run."""
    if len(notes) <= _NAMED:
        return [f"{name}: {note}" for name, note in notes]
    first: dict[str, str] = {}
    count = Counter[str]()
    for _, note in notes:
        what, _, where = note.partition(" in ")
        first.setdefault(what, where)
        count[what] += 1
    return [f"{number_of(count[what], 'run')}: {what}, the first in {where}" for what, where in first.items()]


def describe_skipped(skipped: Sequence[tuple[str, PastRun]]) -> list[str]:
    """Return a line per skipped run, given by name; for many runs a line per earlier sweep, with their number."""
    if len(skipped) <= _NAMED:
        return [f"{name}: skipped, {_ended(past)} in {past}" for name, past in skipped]
    places = Counter((_ended(past), past.folder and past.folder.parent) for _, past in skipped)
    return [
        f"{number_of(count, 'run')}: skipped, {how} in {at or 'another place'}" for (how, at), count in places.items()
    ]


def _ended(past: PastRun) -> str:
    return "diverged" if past.diverged else "finished"
