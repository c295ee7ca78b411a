"""The end of a sweep: collect the results of its runs, show them, write the report, and close the record."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from frostline.core import locks
from frostline.records import cluster_jobs, journal, layout, liveness, run_folders, trial_tags
from frostline.records.recording import end, reason_of
from frostline.records.result import Result, read_result
from frostline.records.slurm import State
from frostline.records.sweep_facts import RunFacts, SweepFacts, Tracker
from frostline.report import cells, outcome, terminal
from frostline.report.command_line import CONTINUE
from frostline.sweeps import job
from frostline.sweeps.already_finished import FinishedSweep
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.pool import WorkerDied
from frostline.sweeps.skip_or_resume import describe_skipped
from frostline.tracking import pending_sweeps, session

T = TypeVar("T")
_NONE: Mapping[int, Exception] = MappingProxyType({})
Aside = Callable[[Callable[[], Any]], Any]
"""Calls a function, perhaps in another process on this machine, and returns its value."""


def _here(function: Callable[[], Any]) -> Any:
    return function()


def succeeded(results: Sequence[Result]) -> bool:
    """Return whether a sweep succeeded: every run finished, was planned in a dry run, or is a trial that diverged.

    A diverged trial informs its search, but a search in which all trials diverged has no answer.
    """
    others = [result for result in results if result.status not in ("FINISHED", "PLANNED")]
    return all(map(trial_tags.is_diverged_trial, others)) and (not others or len(others) < len(results))


def results(
    folder: Path, runs: Sequence[RunFacts], reasons: Mapping[int, Exception] = _NONE, which: Iterable[int] | None = None
) -> list[Result]:
    """Return the results so far of the sweep in `folder`: of all `runs` in the order of their numbers, or of `which`.

    `reasons` are the errors of jobs that failed, by number.
    """
    numbers = range(len(runs)) if which is None else [*which]
    engine = cluster_jobs.in_charge(folder, (runs[n].folder for n in numbers if runs[n].to_do))
    return [result(folder, n, runs[n], reasons.get(n), engine.get(runs[n].folder)) for n in numbers]


def result(
    folder: Path,
    number: int,
    facts: RunFacts,
    error: Exception | None = None,
    engine: tuple[cluster_jobs.Job, State] | None = None,
) -> Result:
    """Return the result that a run wrote, or one that says why there is none, e.g. the `error` of its job.

    A run that another process holds may be finished by now, and a job may outlive its launcher. `engine` is the run's
    job in a cluster with its state, given if the cluster ended the job or queued it again.
    """
    own = folder / facts.folder
    if facts.busy and not facts.busy.folder:
        return facts.busy
    where = Path(facts.busy.folder) if facts.busy else own
    written = read_result(where)
    ended_by_others = engine is not None and written is not None and written.status == "KILLED"
    if written is not None and not ended_by_others and (where == own or written.status == "FINISHED"):
        return replace(written, job=number, name=facts.name, choices=facts.choices, command=facts.command)
    who = liveness.holder(where)
    if who is None and where != own and (theirs := run_folders.sweep_of(where)):  # that sweep has yet to start it
        who = liveness.living(theirs / layout.OWNER)
    if who is not None:
        return job.busy_result(number, facts, where, who)
    silent = "ended without a result" if own.exists() else "not started"
    reason = silent if error is None else reason_of(error)
    if engine is not None:
        reason = cluster_jobs.why(*engine)
    status = "KILLED" if error is None or isinstance(error, WorkerDied) else "FAILED"
    if (own / layout.RECORD).exists() and not journal.ended(own):
        end(own, status, reason)
    return Result(number, facts.name, str(own), journal.run_id(own), status, reason, facts.choices, {})


def never_begun(folder: Path, planned: Sequence[PlannedRun], death: WorkerDied) -> list[Result]:
    """Return results for the runs of a sweep whose worker died during the checks; writes nothing."""
    reason = f"not started, since the worker that checks died: {death}"
    return [
        Result(number, run.name, str(folder / run.folder), None, "KILLED", reason, run.choices, {})
        for number, run in enumerate(planned)
    ]


def close_if_over(folder: Path) -> bool:
    """Write the results of a sweep on a cluster, in `folder`, unless a job of it is running or queued.

    Returns whether this call did it. A search is closed by the process that conducts it. If the sweep failed before
    its record began, the results are only shown.
    """
    with locks.held(folder / layout.CLOSING_LOCK):
        if not SweepFacts.exist(folder) or journal.ended(folder) or cluster_jobs.alive(folder):
            return False
        shared = SweepFacts.read(folder)
        if shared.search is not None:
            return False
        tracker = shared.tracker or _begun(folder)
        if tracker is not None:
            session.take_up(tracker)
        close(folder, tracker, results(folder, shared.runs), None)
        return True


def _begun(folder: Path) -> Tracker | None:
    """Return the place of the sweep's record according to its journal; None if no record was begun."""
    if journal.uid(folder) is None:
        return None
    place = pending_sweeps.place_of(folder)
    return Tracker(place.uri, place.experiment, str(folder), None, journal.run_id(folder))


def close(
    folder: Path,
    tracker: Tracker | None,
    results: Sequence[Result],
    interrupt: KeyboardInterrupt | None,
    aside: Aside = _here,
    *,
    resume: bool = True,
) -> bool:
    """Show and write the results and end the sweep's record.

    Returns whether report and plots are written, and the record is or can be completed. `aside` calls the functions
    that import matplotlib and SciPy, which would stay in the memory of this process. `resume` says whether the same
    command resumes the runs.
    """
    sentence = show(results, aside)
    if tracker is None:
        return True
    again = f"python -m frostline report {shlex.quote(str(folder))}"
    page = _drawn("report", again, partial(outcome.write_page, folder, results, tracker=asdict(tracker)), aside)
    plots = _drawn("plots", f"{again} --plots", partial(outcome.draw_plots, folder, results), aside)
    recorded = session.close_sweep(
        tracker,
        status=status_of(results, interrupt),
        description="\n\n".join(terminal.sentences(sentence)),  # in Markdown paragraphs
        results=results,
        metrics=cells.metrics(results),
        tags=cells.tags(results),
        say=terminal.say,
    )
    _point_to(page, tracker)
    if interrupt is not None and resume and not succeeded(results) and CONTINUE not in sentence:
        terminal.say(f"{CONTINUE}, type the same command again: finished runs are skipped, interrupted ones resumed.")
    return recorded and page is not None and plots is not None


def status_of(results: Sequence[Result], interrupt: KeyboardInterrupt | None) -> str:
    """Return the final status of a sweep, given the results of its runs and the interrupt, if there was one."""
    if succeeded(results):
        return "FINISHED"
    failed = interrupt is None and not {result.status for result in results} <= {"FINISHED", "RUNNING"}
    return "FAILED" if failed else "KILLED"


def repeat(answered: FinishedSweep) -> None:
    """Show the results of an earlier sweep that has finished all runs of this one."""
    skipped = [(done.name, past) for done, past in zip(answered.results, answered.pasts, strict=True)]
    for line in describe_skipped(skipped):
        terminal.say(line)
    show(answered.results)
    _point_to(answered.folder / layout.REPORT, answered.tracker)


def show(results: Sequence[Result], aside: Aside = _here) -> str:
    """Show the table and the verdict, also in quiet mode, and return the verdict."""
    screen = terminal.screen()
    parts, sentence = aside(partial(outcome.summary, results, limit=screen.limit))
    screen.answer()
    screen.say("")
    screen.outcome(parts)
    screen.verdict(sentence)
    return str(sentence)


def _point_to(page: Path | None, tracker: Tracker) -> None:
    """Print where to find the report, if it could be written, and how to open MLflow."""
    if page is not None:
        terminal.say(f"Report: {page}")
    terminal.say(f"See it in MLflow: {session.ui_command(tracker.uri)}")


def _drawn(what: str, again: str, draw: Callable[[], T], aside: Aside) -> T | None:
    """Return the value of `draw`, or None after an error: the record must be closed in any case.

    The error is printed, with the command that draws it `again`.
    """
    try:
        drawn: T = aside(draw)
        return drawn
    except Exception as error:
        terminal.say(f"The {what} could not be written: {reason_of(error)}; `{again}` tries again", "yellow")
        return None
