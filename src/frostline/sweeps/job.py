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
from frostline.records.sweep_record import RunFacts, SweepFacts, Tracker
from frostline.records.system_metrics import sampled
from frostline.records.trial_tags import Judge
from frostline.report import terminal
from frostline.sweeps import find_weights, hydra_keys, lockstep_groups
from frostline.sweeps.job_config import JobConfig, config_of, config_text, recordable

log = logging.getLogger(__name__)


def run_job(composed: DictConfig) -> Result:
    """Run one job and return its result, which is also in `result.json`; only interrupts are raised."""
    hydra = HydraConfig.get()
    sweep, folder = Path(hydra.sweep.dir), Path(hydra.runtime.output_dir)
    if not SweepFacts.exist(sweep):
        line = "hydra.mode, hydra/sweeper: expected MULTIRUN and frostline, since a single run is a sweep of one"
        raise UserError(line)

    def configure() -> JobConfig:
        config = config_of(composed)
        typed = [*hydra_keys.hydra_options(hydra), *hydra.overrides.task]
        return JobConfig(config, recordable(composed, config), typed)

    return carry_out(configure, number=hydra.job.num, sweep=sweep, folder=folder)


def carry_out(configure: Callable[[], JobConfig], *, number: int, sweep: Path, folder: Path) -> Result:
    """Do the work of `run_job`, as job `number` of `sweep`; `configure` returns the config to run.

    A run that another process holds, or that was finished after the sweep was planned, is left alone, and its state is
    returned.
    """
    logging.raiseExceptions = False  # no tracebacks on the screen if a log cannot be written
    shared = SweepFacts.read(sweep)
    facts = shared.runs[number]
    if known := facts.finished or facts.busy:  # launchers that take whole batches also launch these
        return Result(**known)
    sweeps = liveness.read(sweep / layout.OWNER)  # jobs inherit the runs that the sweep's process claimed
    try:
        with heartbeat.beating() as heart:
            heart.claim(folder, heir_of=sweeps)
            return _done_since(sweep, folder) or _carry_out(configure, number, shared, sweep, folder, heart)
    except Busy as busy:
        log.info("%s is left alone: %s", facts.name, busy)
        return busy_result(number, facts, folder, busy.owner)


def busy_result(number: int, facts: RunFacts, folder: Path | None, owner: liveness.Holder) -> Result:
    """Return the RUNNING result of a run that `owner` holds, in `folder` if that is on this machine."""
    reason, run_id = f"{owner} has it at this moment", journal.run_id(folder) if folder else None
    return Result(number, facts.name, str(folder or ""), run_id, "RUNNING", reason, facts.choices, {})


def _done_since(sweep: Path, folder: Path) -> Result | None:
    """Return the result of a run that another job finished after its sweep was planned; else None."""
    found = read_result(folder)
    if found is None or found.status != "FINISHED":
        return None
    written, planned = (path.stat().st_mtime_ns for path in (folder / RESULT, sweep / layout.SWEEP))
    return found if written > planned else None


def _carry_out(
    configure: Callable[[], JobConfig], number: int, shared: SweepFacts, sweep: Path, folder: Path, heart: Heartbeat
) -> Result:
    """Run a run whose folder `heart` has claimed, and write its result, however it ends."""
    facts = shared.runs[number]
    result = Result(number, facts.name, str(folder), None, "KILLED", None, facts.choices, {})
    (folder / RESULT).unlink(missing_ok=True)  # the result of an attempt that died
    spent: dict[str, float] = {}
    told = (facts.previous or {}).get("folder")
    before = Path(told) if told else None
    try:
        if before and before != folder / layout.PREVIOUS:  # two jobs that resume it would write to one MLflow run
            heart.claim(before, heir_of=liveness.read(sweep / layout.OWNER))
        result = _executed(configure().with_values(facts.settled), result, shared, sweep, before, heart, spent)
    except Busy as busy:
        result = busy_result(number, facts, busy.folder, busy.owner)
    except Paused as pause:
        metrics = {EPOCHS: float(pause.epochs), SECONDS: pause.seconds}
        result = replace(result, status="PAUSED", reason=str(pause), metrics=metrics)
    except KeyboardInterrupt as interrupt:
        result = replace(result, status="KILLED", reason=interrupts.name(interrupt))
        raise
    except (Exception, SystemExit) as error:
        log.exception("%s failed", facts.name)
        result = replace(result, status="FAILED", reason=reason_of(error), metrics=spent)
    finally:
        result = replace(result, run_id=journal.run_id(folder) or result.run_id)
        write_result(folder, result)
    if result.status == "FINISHED":  # the same run is skipped from now on, so no checkpoint is needed
        for place in (folder / layout.CHECKPOINT, folder / layout.PREVIOUS, before and before / layout.CHECKPOINT):
            if place:
                shutil.rmtree(place, ignore_errors=True)
    return result


def _executed(
    job: JobConfig,
    result: Result,
    shared: SweepFacts,
    sweep: Path,
    before: Path | None,
    heart: Heartbeat,
    spent: dict[str, float],
) -> Result:
    """Return the `result` of a run that was executed to its end, or planned in a dry run; raises what ends it earlier.

    `before` is the folder of the run that it resumes; `spent` gets the costs of a trial that fails.
    """
    from frostline.runs.run import execute  # imports torch
    from frostline.runs.run_context import RunContext

    config, folder, facts = job.config, Path(result.folder), shared.runs[result.job]
    with (
        terminal.screen().run(facts.name, job=result.job, jobs=len(shared.runs), epochs=config.epochs),
        _recording(job, facts, shared.tracker, sweep, folder) as record,
        sampled(record, on=config.tracking.system_metrics, device=config.device),
        heart.telling(functools.partial(record.tag, layout.ALIVE_TAG)) if record else nullcontext(),
        _failure_told(record, result, spent),
    ):
        run = RunContext(
            name=facts.name,
            folder=folder,
            screen=terminal.screen(),
            previous=before,
            fetch=find_weights.weights,
            siblings=functools.partial(lockstep_groups.siblings, config, result.job, shared.runs),
            judge=_judge(config, facts, sweep),
            sweep=sweep,
        )
        metrics, images = execute(config, run, record)
        result = replace(result, status="FINISHED" if record else "PLANNED", metrics=metrics, images=images)
        _tell_state(record, result)
    return result


@contextmanager
def _failure_told(record: Record | None, result: Result, spent: dict[str, float]) -> Iterator[None]:
    """Record the failure of a trial whose block raises; `spent` gets its costs, which count against the budget."""
    began = time.monotonic()
    try:
        yield
    except (Exception, SystemExit):
        if record is not None and trial_tags.is_trial(result.choices):
            spent |= {EPOCHS: len(journal.epochs(Path(result.folder))) + 1.0, SECONDS: time.monotonic() - began}
            record.metrics(spent)
        _tell_state(record, replace(result, status="FAILED"))
        raise


def _tell_state(record: Record | None, result: Result) -> None:
    if record is not None and (state := trial_tags.state(result)) is not None:
        record.tag(layout.STATE_TAG, state)


def _judge(config: Config, facts: RunFacts, sweep: Path) -> Judge | None:
    """Return the function that may stop a run early, if it is a trial of a search with pruning."""
    if config.search.prune == "none" or config.dry_run or trial_tags.TRIAL not in facts.choices:
        return None
    from frostline.sweeps.study import judge_of

    return judge_of(config, sweep, facts.choices[trial_tags.STUDY], facts.choices[trial_tags.TRIAL])


def _recording(
    job: JobConfig, facts: RunFacts, tracker: Tracker | None, sweep: Path, folder: Path
) -> AbstractContextManager[Record | None]:
    """Return the run's record, opened with its tags and params; in a dry run a context that yields None."""
    code = provenance.source()
    files.write(folder / layout.CONFIG, config_text(job.values))
    if tracker is None:
        return nullcontext()
    tags = {
        layout.SWEEP_TAG: sweep.name,
        layout.DIGEST_TAG: digest(job.config),
        layout.SOURCE_TAG: code.sha256,
        layout.FOLDER_TAG: str(folder),
        **liveness.this_process().tags(),
        **({layout.COMMIT_TAG: code.commit} if code.commit else {}),
        **trial_tags.tags(facts.choices),
    }
    if (cluster_job := cluster_jobs.here(sweep)) is not None:
        cluster_jobs.write(folder, cluster_job)
        tags |= {layout.JOB_TAG: str(cluster_job), layout.LOG_TAG: cluster_job.log}
    provenance.write_software(folder, job.command)
    config, written = job.config, flatten(job.values)
    params = {**{key: written.get(key, value) for key, value in semantic(config).items()}, **choices(config)}
    resumed = (facts.previous or {}).get("run_id")
    if resumed and tracker.sweep_run_id:
        tags[layout.PARENT_TAG] = tracker.sweep_run_id
    return recording(folder, name=facts.name, tags=tags, params=params, resume_run_id=resumed)
