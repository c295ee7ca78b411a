"""One job of a sweep, in whatever process a launcher runs it: its outcome is recorded in any case."""

from __future__ import annotations

import functools
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from frostline.core import files, interrupts
from frostline.core.config import Config
from frostline.core.config_keys import choices, digest, flatten, semantic
from frostline.core.errors import UserError
from frostline.records import cluster_jobs, heartbeat, journal, layout, liveness, provenance, trial_tags
from frostline.records.heartbeat import Busy, Heartbeat
from frostline.records.layout import RESULT
from frostline.records.recording import Paused, Record, reason_of, recording
from frostline.records.result import EPOCHS, SECONDS, Result, read_result, write_result
from frostline.records.sweep_facts import RunFacts, SweepFacts
from frostline.records.system_metrics import sampled
from frostline.records.trial_tags import Judge
from frostline.report import terminal
from frostline.sweeps import find_weights, hydra_keys, lockstep_groups
from frostline.sweeps.job_config import JobConfig, config_of, config_text, recordable

log = logging.getLogger(__name__)


def run_job(composed: DictConfig) -> Result:
    """Run one job and return its result, which is also in `result.json`; only interrupts are raised."""
    hydra = HydraConfig.get()
    sweep = Path(hydra.sweep.dir)
    if not SweepFacts.exist(sweep):
        line = "hydra.mode, hydra/sweeper: expected MULTIRUN and frostline, since a single run is a sweep of one"
        raise UserError(line)

    def configure() -> JobConfig:
        config = config_of(composed)
        typed = [*hydra_keys.hydra_options(hydra), *hydra.overrides.task]
        return JobConfig(config, recordable(composed, config), typed)

    return SweepJob(sweep, hydra.job.num).carry_out(configure)


def busy_result(number: int, facts: RunFacts, folder: Path | None, owner: liveness.Holder) -> Result:
    """Return the RUNNING result of a run that `owner` holds, in `folder` if that is on this machine."""
    reason, run_id = f"{owner} has it at this moment", journal.run_id(folder) if folder else None
    return Result(number, facts.name, str(folder or ""), run_id, "RUNNING", reason, facts.choices, {})


class SweepJob:
    """A job of a sweep: it owns the folder of its run while it carries the run out."""

    def __init__(self, sweep: Path, number: int) -> None:
        """Take the facts of run `number` from the folder of the `sweep`."""
        self._sweep, self._number, self._shared = sweep, number, SweepFacts.read(sweep)
        self._facts = self._shared.runs[number]
        self._folder = sweep / self._facts.folder
        previous = self._facts.previous
        self._resumed = Path(previous.folder) if previous and previous.folder else None
        self._owner = liveness.read(sweep / layout.OWNER)  # jobs inherit the runs that the sweep's process claimed
        self._spent: dict[str, float] = {}
        """The costs of a trial that failed, which count against the budget of its search."""

    def carry_out(self, configure: Callable[[], JobConfig]) -> Result:
        """Do the work of `run_job`; `configure` returns the config to run.

        A run that another process holds, or that was finished after the sweep was planned, is left alone, and its state
        is returned.
        """
        logging.raiseExceptions = False  # no tracebacks on the screen if a log cannot be written
        if known := self._facts.finished or self._facts.busy:  # launchers that take whole batches also launch these
            return known
        try:
            with heartbeat.beating() as heart:
                heart.claim(self._folder, heir_of=self._owner)
                return self._done_since() or self._attempt(configure, heart)
        except Busy as busy:
            log.info("%s is left alone: %s", self._facts.name, busy)
            return busy_result(self._number, self._facts, busy.folder, busy.owner)

    def _done_since(self) -> Result | None:
        """Return the result of a run that another job finished after its sweep was planned; else None."""
        found = read_result(self._folder)
        if found is None or found.status != "FINISHED":
            return None
        written, planned = (path.stat().st_mtime_ns for path in (self._folder / RESULT, self._sweep / layout.SWEEP))
        return found if written > planned else None

    def _attempt(self, configure: Callable[[], JobConfig], heart: Heartbeat) -> Result:
        """Run a run whose folder `heart` has claimed, and write its result, however it ends."""
        (self._folder / RESULT).unlink(missing_ok=True)  # the result of an attempt that died
        result = self._result("KILLED")
        try:
            if self._resumed and self._resumed != self._folder / layout.PREVIOUS:
                heart.claim(self._resumed, heir_of=self._owner)  # two jobs that resume it would write to one MLflow run
            result = self._executed(configure().with_values(self._facts.settled), heart)
        except Busy as busy:
            result = busy_result(self._number, self._facts, busy.folder, busy.owner)
        except Paused as pause:
            result = self._result("PAUSED", str(pause), {EPOCHS: float(pause.epochs), SECONDS: pause.seconds})
        except KeyboardInterrupt as interrupt:
            result = self._result("KILLED", interrupts.name(interrupt))
            raise
        except (Exception, SystemExit) as error:
            log.exception("%s failed", self._facts.name)
            result = self._result("FAILED", reason_of(error), self._spent)
        finally:
            write_result(self._folder, result)
        if result.status == "FINISHED":  # the same run is skipped from now on, so no checkpoint is needed
            for place in (self._folder / layout.CHECKPOINT, self._folder / layout.PREVIOUS):
                shutil.rmtree(place, ignore_errors=True)
            if self._resumed:
                shutil.rmtree(self._resumed / layout.CHECKPOINT, ignore_errors=True)
        return result

    def _result(self, status: str, reason: str | None = None, metrics: dict[str, float] | None = None) -> Result:
        facts, run_id = self._facts, journal.run_id(self._folder)
        return Result(self._number, facts.name, str(self._folder), run_id, status, reason, facts.choices, metrics or {})

    def _executed(self, given: JobConfig, heart: Heartbeat) -> Result:
        """Execute the run, or plan it in a dry run, and return its result; raises what ends it earlier."""
        from frostline.runs.run import execute  # imports torch
        from frostline.runs.run_context import RunContext

        config, runs = given.config, self._shared.runs
        with (
            terminal.screen().run(self._facts.name, job=self._number, jobs=len(runs), epochs=config.epochs),
            self._recording(given) as record,
            sampled(record, on=config.tracking.system_metrics, device=config.device),
            heart.telling(functools.partial(record.tag, layout.ALIVE_TAG)) if record else nullcontext(),
            self._failure_told(record),
        ):
            run = RunContext(
                name=self._facts.name,
                folder=self._folder,
                screen=terminal.screen(),
                previous=self._resumed,
                fetch=find_weights.weights,
                siblings=functools.partial(lockstep_groups.siblings, config, self._number, runs),
                judge=self._judge(config),
                sweep=self._sweep,
            )
            metrics, images = execute(config, run, record)
            result = replace(self._result("FINISHED" if record else "PLANNED", metrics=metrics), images=images)
            if record and (state := trial_tags.state(result)):
                record.tag(layout.STATE_TAG, state)
        return result

    @contextmanager
    def _failure_told(self, record: Record | None) -> Iterator[None]:
        """Record the state and the costs of a trial whose block raises."""
        began = time.monotonic()
        try:
            yield
        except (Exception, SystemExit):
            if record and trial_tags.is_trial(self._facts.choices):
                self._spent = {EPOCHS: len(journal.epochs(self._folder)) + 1.0, SECONDS: time.monotonic() - began}
                record.metrics(self._spent)
                record.tag(layout.STATE_TAG, trial_tags.FAILED)
            raise

    def _judge(self, config: Config) -> Judge | None:
        """Return the function that may stop the run early, if it is a trial of a search with pruning."""
        marks = self._facts.choices
        if config.search.prune == "none" or config.dry_run or not trial_tags.is_trial(marks):
            return None
        from frostline.sweeps.study import judge_of

        return judge_of(config, self._sweep, marks[trial_tags.STUDY], marks[trial_tags.TRIAL])

    def _recording(self, given: JobConfig) -> AbstractContextManager[Record | None]:
        """Return the run's record, opened with its tags and params; in a dry run a context that yields None."""
        code, folder, tracker, config = provenance.source(), self._folder, self._shared.tracker, given.config
        files.write(folder / layout.CONFIG, config_text(given.values))
        if tracker is None:
            return nullcontext()
        tags = {
            layout.SWEEP_TAG: self._sweep.name,
            layout.DIGEST_TAG: digest(config),
            layout.SOURCE_TAG: code.sha256,
            layout.FOLDER_TAG: str(folder),
            **liveness.this_process().tags(),
            **({layout.COMMIT_TAG: code.commit} if code.commit else {}),
            **trial_tags.tags(self._facts.choices),
        }
        if (cluster_job := cluster_jobs.here(self._sweep)) is not None:
            cluster_jobs.write(folder, cluster_job)
            tags |= {layout.JOB_TAG: str(cluster_job), layout.LOG_TAG: cluster_job.log}
        provenance.write_software(folder, given.command)
        written = flatten(given.values)
        params = {key: written.get(key, value) for key, value in semantic(config).items()} | choices(config)
        resumed = self._facts.previous.run_id if self._facts.previous else None
        if resumed and tracker.sweep_run_id:
            tags[layout.PARENT_TAG] = tracker.sweep_run_id
        return recording(folder, name=self._facts.name, tags=tags, params=params, resume_run_id=resumed)
