"""A sweep from its jobs to its verdict: every run is composed and checked before the first one starts."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.core import files, garbage, interrupts, project
from frostline.core.config_keys import digest
from frostline.records import heartbeat, layout, liveness, run_folders
from frostline.records.recording import Record, end
from frostline.records.sweep_facts import SweepFacts, Tracker
from frostline.report import terminal
from frostline.sweeps import already_finished, closing, data_index, hydra_overrides, unused_keys
from frostline.sweeps.closing import close, repeat, succeeded
from frostline.sweeps.cluster import Cluster
from frostline.sweeps.compose import PlannedRun, compose_all, resolve_auto, to_check
from frostline.sweeps.composer import Composer
from frostline.sweeps.executor import Executor
from frostline.sweeps.first_job import send
from frostline.sweeps.hydra_overrides import Overrides
from frostline.sweeps.ownership import claim
from frostline.sweeps.pool import WorkerDied
from frostline.sweeps.preflight import check, fingerprints
from frostline.sweeps.skip_or_resume import Takeover
from frostline.sweeps.sweep_runs import SweepRuns
from frostline.tracking import artifact_root, server, session, tracking_uri
from frostline.tracking.pending_sweeps import RecordPlace

if TYPE_CHECKING:
    from frostline.sweeps.search_rounds import Search  # imports Optuna


def run_sweep(
    jobs: Sequence[Overrides],
    *,
    compose: Composer,
    executor: Executor,
    folder_named: bool,
    notes: Sequence[str] = (),
) -> int:
    """Check and run every job, write the results, and return the exit status: 0 if all is FINISHED and written.

    `compose` composes the jobs; `executor` runs them. If the user named the folder (`folder_named`), it must be free or
    hold the same sweep; otherwise a taken folder gets a suffix. `notes` about what was typed are shown if the runs can
    start. Raises `UserError` before any run starts.
    """
    first, earlier = compose.job(jobs[0], 0), list[Path]()
    if not isinstance(executor, Cluster):
        named = files.absolute(first.sweep) if folder_named else None
        earlier = already_finished.begun_with(first.config, len(jobs), named)
    if not earlier:  # else the workers may not be needed
        executor.start(first.config)
    folder, planned = compose_all(jobs, compose)
    typed = hydra_overrides.typed_values(chain.from_iterable(jobs))
    for line in [*notes, *unused_keys.check(typed, [run.config for run in planned]), *_merged_runs(planned)]:
        terminal.say(line, "yellow")
    if earlier:
        if (answered := already_finished.with_all(planned, earlier)) is not None:
            repeat(answered)
            return 0
        executor.start(first.config)
    if isinstance(executor, Cluster) and not executor.in_job:
        again = partial(run_sweep, jobs, folder_named=True)
        status = send(planned, executor, folder, named=folder_named, run=again)
        if status is not None:
            return status
    return run_planned(planned, executor=executor, folder=folder, folder_named=folder_named)


def run_planned(
    planned: Sequence[PlannedRun], *, executor: Executor, folder: Path, folder_named: bool, search: Search | None = None
) -> int:
    """Check and run the `planned` runs, write the results, and return the exit status as `run_sweep` does.

    With a `search`, this decides round by round what runs, and the `planned` runs serve only for the checks.
    """
    config = planned[0].config
    uri, artifacts = tracking_uri.resolved(config.tracking.uri), artifact_root.chosen(config.tracking.artifacts)
    place = RecordPlace(uri, config.experiment_name, artifacts)
    run_folders.require_free(folder)
    if search is None:
        run_folders.require_same(folder, [run.folder for run in planned])
    recorded = search is None and not config.dry_run
    index = already_finished.index_of(planned) if recorded else None  # before any check reads the data
    try:
        auto = _checked(planned, executor, search)
    except WorkerDied as death:
        closing.show(closing.never_begun(folder, planned, death))
        return 1
    planned = resolve_auto(planned, auto)
    if executor.in_job:
        liveness.write(folder / layout.OWNER)
    else:
        digests, again = [digest(run.config) for run in planned], config.resume and not config.dry_run
        folder = claim(folder, digests, search=search.identity if search else None, again=again, named=folder_named)
    if not config.dry_run:
        data_index.write(folder, index)
    with session.ended_in_any_case(folder):
        tracker = None if config.dry_run else _open(place, folder)
        return _Sweep(planned, executor, folder, search, tracker).carry_out()


def _checked(
    planned: Sequence[PlannedRun], executor: Executor, search: Search | None
) -> Mapping[str, Mapping[str, str]]:
    """Check all runs; return the values that `auto` takes for each kind of run, which a search takes in, too.

    This process imports MLflow meanwhile. UserError for a run that cannot work; `WorkerDied` if the worker that checks
    dies.
    """
    mlflow = (lambda: None) if planned[0].config.dry_run else partial(server.load, models=False)
    checks = partial(check, to_check(planned), runs_elsewhere=executor.runs_elsewhere)
    auto, _ = executor.call(checks, partial(garbage.spared, mlflow))
    if search is not None:
        search.resolve_auto(auto, lambda configs: executor.call(partial(fingerprints, configs)))
    return auto


@dataclass(frozen=True)
class _Sweep:
    """A checked sweep, in the folder that this process owns."""

    planned: Sequence[PlannedRun]
    executor: Executor
    folder: Path
    search: Search | None
    tracker: Tracker | None
    """None in a dry run."""

    def carry_out(self) -> int:
        """Run everything, write the results, and return the exit status."""
        folder, tracker = self.folder, self.tracker
        runs, interrupt = self._run_all()
        if tracker is not None and interrupt is None and (status := self.executor.leave(folder)) is not None:
            return status
        if not SweepFacts.exist(folder):  # else the results would call every run "not started"
            raise OSError(errno.ENOENT, "moved or removed while the sweep ran", str(folder))
        with interrupts.deferred():  # closing the record takes a few seconds; a second interrupt waits for it
            if tracker is not None:
                if interrupt is not None:  # the record is complete even if this process is killed now
                    end(folder, closing.status_of(runs.results(), interrupt), None)
                session.flush(tracker)
            results = runs.results()
            resume = self.planned[0].config.resume
            whole = close(folder, tracker, results, interrupt, self.executor.aside, resume=resume)
        if interrupt is None:
            return 0 if whole and succeeded(results) else 1
        return interrupts.status(interrupt)

    def _run_all(self) -> tuple[SweepRuns, KeyboardInterrupt | None]:
        """Run everything under the sweep's heartbeat; return the runs, and the interrupt if there was one."""
        search, tracker, resume = self.search, self.tracker, self.planned[0].config.resume
        with (
            heartbeat.beating(self.folder / layout.OWNER) as heart,
            heart.telling(self._tell) if tracker else nullcontext(),
        ):
            takeover = None
            if tracker and (resume or search):
                of_grid = {digest(run.config) for run in self.planned} if search is None else None
                digests = of_grid if resume else ()  # without resume only the trials of a shared study count
                takeover = Takeover(tracker, self.folder, heart=heart, call=self.executor.call, digests=digests)
            identity = search.identity if search else None
            runs = SweepRuns(self.executor, self.folder, tracker, takeover, identity)
            return runs, runs.carry_out(self.planned) if search is None else runs.carry_out_search(search)

    def _tell(self, beat: str) -> None:
        """Publish a sign of life in the sweep's record, and in a study shared with other searches."""
        Record(self.folder).tag(layout.ALIVE_TAG, beat)
        if self.search is not None:
            self.search.alive()


def _merged_runs(planned: Sequence[PlannedRun]) -> list[str]:
    """Return a line for every run that several jobs ask for, because they differ only in keys that it does not read."""
    return [
        f"{run.name}: one run, not {run.jobs}, since {run.config.freeze_mode.name} ignores {', '.join(run.unread)}"
        for run in planned
        if run.jobs > 1
    ]


def _open(place: RecordPlace, folder: Path) -> Tracker:
    name = f"{folder.parent.name} {folder.name}"
    root = project.project_root()
    sweep = str(folder.relative_to(root) if folder.is_relative_to(root) else folder)
    code = {layout.SOURCE_TAG: project.source_sha256()}
    tags = {layout.SWEEP_TAG: sweep, layout.FOLDER_TAG: str(folder), **code, **liveness.this_process().tags()}
    return session.open_sweep(place, folder=folder, name=name, tags=tags, say=terminal.say)
