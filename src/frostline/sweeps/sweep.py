"""A sweep, from its jobs to its answer: every run is composed and checked before the first one starts."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from omegaconf import DictConfig

from frostline.core import interrupts, project
from frostline.core.config import Config
from frostline.core.config_keys import digest
from frostline.records import heartbeat, journal, layout, liveness, run_folders, search_marks, sweep_record
from frostline.records.heartbeat import Heart
from frostline.records.recording import Record, end, reason_of
from frostline.records.result import Result, read_result, write_result
from frostline.records.sweep_record import Tracker
from frostline.report import cells as best
from frostline.report.verdict import answer
from frostline.sweeps import job, resume, unused_keys
from frostline.sweeps.compose import Overrides, PlannedRun, compose_all, in_order, settled, to_check
from frostline.sweeps.executor import Executor
from frostline.sweeps.ownership import claim
from frostline.sweeps.pool import WorkerDied
from frostline.sweeps.preflight import check, fingerprints
from frostline.sweeps.resume import Earlier
from frostline.sweeps.stacks import stacked
from frostline.tracking import download, server, session

# large, or what only the process that runs it writes
_NOT_FETCHED = (
    layout.BEST,
    *layout.OF_RECORD,
    *layout.OF_OWNER,
)


def run_sweep(
    jobs: Sequence[Overrides],
    *,
    compose: Callable[[Overrides], DictConfig],
    executor: Executor,
    folder_named: bool,
) -> int:
    """Check and run every job, draw the result, and return the exit status: 0 if every run is FINISHED.

    `compose` returns the config of a job, `executor` carries jobs out. A folder that the person named must be free
    (`folder_named`); for any other another one beside it is taken. Raises `UserError` before any run starts.
    """
    folder, planned = compose_all(jobs, compose, executor.start)
    typed = {
        key.lstrip("+"): value for overrides in jobs for key, _, value in (one.partition("=") for one in overrides)
    }
    for line in [*unused_keys.check(typed, [run.config for run in planned]), *_once(planned)]:
        job.screen().say(line, "yellow")
    return run_planned(
        planned, executor=executor, folder=folder, folder_named=folder_named, earlier=planned[0].config.resume
    )


class Rounds(Protocol):
    """What decides which further runs a sweep has, given what came of those before: a search."""

    @property
    def identity(self) -> str:
        """What is searched, and how: two searches that have it in common are one."""
        ...

    def begin(self, folder: Path | None, workers: int, auto: Mapping[str, Mapping[str, str]]) -> None:
        """Be told where the sweep lies, None in a dry run; who carries it out; what `auto` means to each kind."""

    def following(self, results: Sequence[Result]) -> list[PlannedRun]:
        """Return the next runs, given the results of all before, in their order; none where that was all."""


def run_planned(
    planned: Sequence[PlannedRun],
    *,
    executor: Executor,
    folder: Path,
    folder_named: bool,
    earlier: bool = False,
    rounds: Rounds | None = None,
) -> int:
    """Check and run what is planned, draw the result, and return the exit status as `run_sweep` does.

    With `earlier` what earlier sweeps did is left out or gone on with. Where there are `rounds` these say what runs,
    one round after the other, and what is `planned` only shows whether it can.
    """
    config = planned[0].config
    root = project.project_root()
    uri = server.tracking_uri(config.tracking.uri, root)
    run_folders.require_free(folder)
    if rounds is None:
        run_folders.require_same(folder, [run.folder for run in planned])
    identity = None if rounds is None else rounds.identity
    auto = executor.ask(partial(check, to_check(planned)), (lambda: None) if config.dry_run else server.load)
    planned = settled(planned, auto)
    folder = claim(
        folder,
        [digest(run.config) for run in planned],
        search=identity,
        again=earlier and not config.dry_run,
        elsewhere=None if folder_named else lambda own: None,
    )
    tracker = None if config.dry_run else _open(config, uri, root, folder)
    with (
        heartbeat.beating(folder / layout.OWNER) as heart,
        heart.telling(partial(Record(folder).tag, layout.SIGN_TAG)) if tracker else nullcontext(),
    ):
        sweep = _Sweep(executor, root, folder, tracker, heart, earlier=earlier, search=identity)
        if rounds is None:
            interrupt = sweep.carry_out(planned)
        else:
            rounds.begin(folder if tracker else None, executor.workers, auto)
            interrupt = sweep.carry_out_rounds(rounds)
    if not sweep_record.Shared.there(folder):  # what is written here now would say of every run that it never was
        raise OSError(errno.ENOENT, "moved or removed while the sweep ran", str(folder))
    results = sweep.results()
    recorded = _close(folder, tracker, results, interrupt)
    if interrupt is not None:
        return interrupts.status(interrupt)
    return 0 if recorded and all(map(_as_planned, results)) else 1


class _Sweep:
    """Owner of what is known of the runs of a sweep, which may become more as it goes on."""

    def __init__(
        self,
        executor: Executor,
        root: Path,
        folder: Path,
        tracker: Tracker | None,
        heart: Heart,
        *,
        earlier: bool,
        search: str | None,
    ) -> None:
        self._executor, self._root, self._folder, self._tracker, self._heart = executor, root, folder, tracker, heart
        self._before = tracker if earlier else None
        self._search = search
        self._planned: list[PlannedRun] = []
        self._facts: tuple[sweep_record.RunFacts, ...] = ()
        self._reasons: dict[int, Exception] = {}

    def carry_out(self, further: Sequence[PlannedRun]) -> KeyboardInterrupt | None:
        """Carry out further runs, numbered behind those before; return the interrupt if there was one."""
        first = len(self._planned)
        self._planned += further
        self._executor.settle(
            self._folder, [run.overrides for run in self._planned], [run.folder for run in self._planned]
        )
        facts = _all_facts(further, first, self._before, self._executor, self._root, self._folder, self._heart)
        workers = self._executor.workers if self._tracker else 0
        facts = stacked([run.config for run in further], facts, workers, first=first)
        self._facts += facts
        sweep_record.Shared(self._tracker, self._facts, self._search).write(self._folder)
        jobs = {first + n: facts[n].stack for n in in_order(further) if facts[n].to_do}
        reasons, interrupt = _run(self._executor, jobs)
        self._reasons |= reasons
        return interrupt

    def carry_out_rounds(self, rounds: Rounds) -> KeyboardInterrupt | None:
        """Carry out all rounds; return the interrupt if there was one, while runs went on or between them."""
        try:
            while following := rounds.following(self.results()):
                if (interrupt := self.carry_out(following)) is not None:
                    return interrupt
        except KeyboardInterrupt as interrupt:
            return interrupt
        return None

    def results(self) -> list[Result]:
        """Return what the runs came to so far, in the order of their numbers."""
        reasons = self._reasons
        return [_result(self._folder, number, facts, reasons.get(number)) for number, facts in enumerate(self._facts)]


def _as_planned(result: Result) -> bool:
    """Return whether a run did what it should."""
    return result.status in ("FINISHED", "PLANNED") or search_marks.tells_a_search(result)


def _once(planned: Sequence[PlannedRun]) -> list[str]:
    """Return a line for every run that was asked for several times, with other values of what it does not read."""
    return [
        f"{run.name}: one run, not {run.jobs}, as {run.config.freeze_mode.name} does not read {', '.join(run.unread)}"
        for run in planned
        if run.jobs > 1
    ]


def _all_facts(
    planned: Sequence[PlannedRun],
    first: int,
    tracker: Tracker | None,
    executor: Executor,
    root: Path,
    folder: Path,
    heart: Heart,
) -> tuple[sweep_record.RunFacts, ...]:
    """Return what each job, numbered from `first`, has to know; says what is left out or goes on, being there before.

    What goes on is taken by `heart`, so that no other sweep goes on with it. Without a `tracker` nothing was.
    """
    if tracker is None:
        return tuple(_new_facts(run) for run in planned)
    with suppress(server.Unreachable):
        resume.mend(tracker.uri, tracker.experiment, job.screen().say)
    keys, source = [digest(run.config) for run in planned], project.source_sha256()
    before = resume.look(tracker, root, keys)
    prints: list[str | None] = [None] * len(planned)
    if known := [number for number, key in enumerate(keys) if any(past.source == source for past in before[key])]:
        told = executor.ask(partial(fingerprints, [planned[number].config for number in known]))
        for number, found_print in zip(known, told, strict=True):
            prints[number] = found_print
    facts = []
    for number, (run, key, fingerprint) in enumerate(zip(planned, keys, prints, strict=True), first):
        found = resume.judge(before[key], source, fingerprint)
        # Runs whose data alone differ share a digest; a run from before it knew its data is gone on with once.
        before[key] = [past for past in before[key] if past is not found.interrupted]
        facts.append(_facts_after(number, run, found, tracker, folder, heart))
    return tuple(facts)


def _new_facts(run: PlannedRun) -> sweep_record.RunFacts:
    """Return what every job has to know, whatever was there before."""
    auto = {"precision": run.config.precision, "compile": run.config.compile, "data.pixels": run.config.data.pixels}
    return sweep_record.RunFacts(run.name, run.choices, run.folder, digest(run.config), auto)


def _facts_after(
    number: int, run: PlannedRun, found: Earlier, tracker: Tracker, folder: Path, heart: Heart
) -> sweep_record.RunFacts:
    """Return what one job has to know, given what was there before."""
    facts = _new_facts(run)
    own, say = folder / run.folder, job.screen().say
    here = liveness.holder(own)
    if found.note:
        say(f"{run.name}: {found.note}")
    if (past := found.finished) is not None:
        say(f"{run.name}: skipped, finished in {past}")
        where = str(past.folder or own)
        result = Result(number, run.name, where, past.run_id, "FINISHED", None, run.choices, past.metrics, past.images)
        if here is None:
            own.mkdir(parents=True, exist_ok=True)
            if past.folder is None and past.run_id:  # the answer and the report need more than numbers
                download.fetch_files(tracker.uri, past.run_id, own, but=_NOT_FETCHED)
            write_result(own, result)
        return replace(facts, finished=asdict(result))
    if found.busy is not None and (who := found.busy.holder) is not None:
        return _left(number, facts, found.busy.folder, who)
    if here is not None:  # what it does there is another run: of other code, say
        return _left(number, facts, own, here)
    if (interrupted := found.interrupted) is not None:
        past = resume.with_run_id(interrupted, project.project_root(), tracker.uri)
        at = past.folder
        if at is not None and (who := heart.take(at)) is not None:
            return _left(number, facts, at, who)
        if (
            at is None
            and past.run_id
            and download.fetch_checkpoint(tracker.uri, past.run_id, layout.CHECKPOINT, own / layout.PREVIOUS)
        ):
            at = own / layout.PREVIOUS
        say(f"{run.name}: goes on, interrupted in {past}" if at else f"{run.name}: again, interrupted in {past}")
        return replace(facts, previous={"run_id": past.run_id, "folder": str(at) if at else None})
    return facts


def _left(number: int, facts: sweep_record.RunFacts, where: Path | None, who: liveness.Owner) -> sweep_record.RunFacts:
    """Return what is known of a run that `who` has, in the folder `where` if that is here, and say how to see it."""
    how = f"`python -m frostline report {where.parent}` shows how far it is, and" if where else "it is not here;"
    job.screen().say(
        f"{facts.name}: left to {who}, who has it at this moment: {how} this command takes it in when done"
    )
    return replace(facts, busy=asdict(job.busy_result(number, facts, where, who)))


def _open(config: Config, uri: str, root: Path, folder: Path) -> Tracker:
    name = f"{folder.parent.name} {folder.name}"
    sweep = str(folder.relative_to(root) if folder.is_relative_to(root) else folder)
    tags = {layout.SWEEP_TAG: sweep, layout.FOLDER_TAG: str(folder), **liveness.me().tags()}
    return session.open_sweep(
        uri,
        folder=folder,
        root=root,
        experiment_name=config.experiment_name,
        name=name,
        tags=tags,
        say=job.screen().say,
    )


def _run(
    executor: Executor, jobs: Mapping[int, int | None]
) -> tuple[Mapping[int, Exception], KeyboardInterrupt | None]:
    """Run the jobs; returns why some came to nothing, and the interrupt if there was one."""
    try:
        return executor.run(jobs), None
    except KeyboardInterrupt as interrupt:
        return {}, interrupt


def _result(folder: Path, number: int, facts: sweep_record.RunFacts, error: Exception | None) -> Result:
    """Return what a run wrote, or that it never came to writing, and the `error` that kept it from that.

    A run that somebody else has may be finished by now, and a job may outlive the launcher that sent it away.
    """
    own = folder / facts.folder
    if facts.busy and not facts.busy["folder"]:
        return Result(**facts.busy)
    where = Path(facts.busy["folder"]) if facts.busy else own
    written = read_result(where)
    if written is not None and (where == own or written.status == "FINISHED"):
        return replace(written, job=number, name=facts.name, choices=facts.choices)
    if (who := liveness.holder(where)) is not None:
        return job.busy_result(number, facts, where, who)
    silent = "ended without a result" if own.exists() else "not started"
    reason = silent if error is None else reason_of(error)
    status = "KILLED" if error is None or isinstance(error, WorkerDied) else "FAILED"
    if (own / layout.RECORD).exists() and not journal.ended(own):
        end(own, status, reason)
    return Result(number, facts.name, str(own), journal.run_id(own), status, reason, facts.choices, {})


def _close(
    folder: Path, tracker: Tracker | None, results: Sequence[Result], interrupt: KeyboardInterrupt | None
) -> bool:
    """Draw the results, and end the sweep's record; returns whether that can be completed, if it is not by now."""
    terminal, sentence = job.screen(), answer(results)
    terminal.say("")
    terminal.table(results)
    terminal.verdict(sentence)
    if tracker is None:
        return True
    page = _report(folder, tracker, results)
    statuses = {result.status for result in results}
    failed = interrupt is None and not statuses <= {"FINISHED", "RUNNING"}
    status = "FINISHED" if all(map(_as_planned, results)) else "FAILED" if failed else "KILLED"
    recorded = session.close_sweep(
        tracker,
        status=status,
        description=sentence,
        results=results,
        metrics=best.metrics(results),
        tags=best.tags(results),
        say=terminal.say,
    )
    if page is not None:
        terminal.say(f"Report: {page}")
    terminal.say(f"See it in MLflow: {session.ui_command(tracker.uri, project.project_root())}")
    return recorded


def _report(folder: Path, tracker: Tracker, results: Sequence[Result]) -> Path | None:
    """Write the report and plots and keep them in the sweep's record; their failure must not cost the record its end.

    A sweep of one run is spared the plots, which show nothing that the report does not.
    """
    from frostline.report import html, plots

    record, title = Record(folder), f"Sweep {folder.parent.name} {folder.name}"
    try:
        page = html.write(folder / layout.REPORT, results, title=title, tracker=asdict(tracker))
        record.artifact(page)
        for file in plots.write(folder / layout.PLOTS, results) if len(results) > 1 else []:
            record.artifact(file, layout.PLOTS)
    except Exception as error:
        job.screen().say(f"The report could not be written: {reason_of(error)}", "yellow")
        return None
    return page
