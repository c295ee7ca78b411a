"""One job of a sweep, in whatever process a launcher runs it: its outcome is recorded in any case."""

from __future__ import annotations

import functools
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from frostline.core import credentials, files, interrupts, notices
from frostline.core.config import Config
from frostline.core.config_keys import choices, digest, flatten, semantic, with_values
from frostline.core.errors import user_error
from frostline.core.validation import parse
from frostline.records import cluster_jobs, heartbeat, journal, layout, liveness, provenance, trial_tags
from frostline.records.heartbeat import Busy, Heartbeat
from frostline.records.layout import RESULT
from frostline.records.recording import Paused, Record, reason_of, recording
from frostline.records.result import EPOCHS, SECONDS, Result, read_result, write_result
from frostline.records.sweep_record import RunFacts, SweepFacts, Tracker
from frostline.records.system_metrics import sampled
from frostline.records.trial_tags import Decision
from frostline.report.terminal import Screen
from frostline.sweeps import find_weights, hydra_keys, lockstep_groups
from frostline.sweeps.config_text import config_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobConfig:
    """The config of a job, as it runs and as it is recorded."""

    config: Config
    values: Mapping[str, Any]
    """The config for the record, without secrets from the environment."""
    command: Sequence[str]
    """The overrides that the user typed for it."""

    def with_values(self, values: Mapping[str, Any]) -> JobConfig:
        """Return the config with `values`, by key, set in the config and in its recorded form."""
        written = deepcopy(dict(self.values))
        for key, value in values.items():
            *sections, name = key.split(".")
            functools.reduce(dict.__getitem__, sections, written)[name] = value
        return replace(self, config=with_values(self.config, values), values=written)


def run_job(composed: DictConfig) -> Result:
    """Run one job and return its result, which is also in `result.json`; only interrupts are raised."""
    hydra = HydraConfig.get()
    sweep, folder = Path(hydra.sweep.dir), Path(hydra.runtime.output_dir)
    if not SweepFacts.exist(sweep):
        raise hydra_keys.not_ours()

    def configure() -> JobConfig:
        config = config_of(composed)
        return JobConfig(config, recordable(composed, config), [*hydra_keys.beside(hydra), *hydra.overrides.task])

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
    """Run a run whose folder `heart` has claimed."""
    from frostline.runs.run import execute  # imports torch
    from frostline.runs.run_context import RunContext

    facts = shared.runs[number]
    result = Result(number, facts.name, str(folder), None, "KILLED", None, facts.choices, {})
    (folder / RESULT).unlink(missing_ok=True)  # the result of an attempt that died
    spent: dict[str, float] = {}
    told = (facts.previous or {}).get("folder")
    before = Path(told) if told else None
    try:
        if before and before != folder / layout.PREVIOUS:  # two jobs that resume it would write to one MLflow run
            heart.claim(before, heir_of=liveness.read(sweep / layout.OWNER))
        job = configure().with_values(facts.settled)
        with (
            screen().run(facts.name, job=number, jobs=len(shared.runs), epochs=job.config.epochs),
            _recording(job, facts, shared.tracker, sweep, folder) as record,
            sampled(record, on=job.config.tracking.system_metrics, device=job.config.device),
            heart.telling(functools.partial(record.tag, layout.SIGN_TAG)) if record else nullcontext(),
            _failure_told(record, result) as spent,
        ):
            run = RunContext(
                name=facts.name,
                folder=folder,
                screen=screen(),
                previous=before,
                fetch=find_weights.weights,
                siblings=functools.partial(lockstep_groups.siblings, job.config, number, shared.runs),
                judge=_judge(job.config, facts, sweep),
                sweep=sweep,
            )
            metrics, images = execute(job.config, run, record)
            status = "FINISHED" if record else "PLANNED"
            result = replace(result, status=status, metrics=metrics, images=images)
            _tell_state(record, result)
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


@contextmanager
def _failure_told(record: Record | None, result: Result) -> Iterator[dict[str, float]]:
    """Record the failure of a trial whose block raises, with its epochs and seconds, which count against the budget.

    Yields a dictionary, which then holds these costs.
    """
    spent: dict[str, float] = {}
    began = time.monotonic()
    try:
        yield spent
    except (Exception, SystemExit):
        if record is not None and trial_tags.is_trial(result.choices):
            spent |= {EPOCHS: len(journal.epochs(Path(result.folder))) + 1.0, SECONDS: time.monotonic() - began}
            record.metrics(spent)
        _tell_state(record, replace(result, status="FAILED"))
        raise


def _tell_state(record: Record | None, result: Result) -> None:
    """Record the final state of a trial."""
    if record is not None and (state := trial_tags.state(result)) is not None:
        record.tag(layout.STATE_TAG, state)


def _judge(config: Config, facts: RunFacts, sweep: Path) -> Callable[[int, float], Decision] | None:
    """Return the function that may stop a run early, if it is a trial of a search with pruning."""
    if config.search.prune == "none" or config.dry_run or trial_tags.TRIAL not in facts.choices:
        return None
    from frostline.sweeps.study import judge_of

    return judge_of(config, sweep, facts.choices[trial_tags.STUDY], facts.choices[trial_tags.TRIAL])


def config_of(composed: DictConfig) -> Config:
    """Return the checked config from Hydra's, without the `hydra` section; UserError for credentials in it."""
    raw = OmegaConf.to_container(composed.search, resolve=False)
    if isinstance(raw, dict) and isinstance(place := raw["storage"], str) and credentials.removed(place) != place:
        expected = "no credentials in a config; `'${oc.env:NAME}'` takes all of it from a variable"
        raise user_error("search.storage", credentials.removed(place), expected)
    values = {str(key): composed[key] for key in composed if key != "hydra"}
    return parse(
        {
            key: OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
            if OmegaConf.is_config(value)
            else value
            for key, value in values.items()
        }
    )


@functools.cache
def screen() -> Screen:
    """Return the owner of this process's terminal, which also prints notices."""
    terminal = Screen()
    notices.to(lambda line: terminal.say(f"  {line}", "yellow"))
    return terminal


def recordable(composed: DictConfig, config: Config) -> dict[str, Any]:
    """Return the config for the record: values from the environment stay as `${oc.env:NAME}`."""
    raw = OmegaConf.to_container(composed, resolve=False)
    return credentials.unresolved(asdict(config), raw)  # type: ignore[arg-type]


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
