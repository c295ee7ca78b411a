"""A sweep whose runs are jobs in a cluster's queue: submitit hands them over, Slurm carries them out.

The process that is typed at, or a first job, queues them and may go: each job says in the sweep's folder that it ended,
and the last one draws the results.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.singleton import Singleton
from hydra.core.utils import setup_globals
from omegaconf import DictConfig

from frostline.core import interrupts, project
from frostline.core.config import ClusterConfig, Config
from frostline.core.errors import UserError, user_error
from frostline.records import cluster_jobs, slurm
from frostline.records.recording import reason_of
from frostline.records.sweep_record import Shared
from frostline.sweeps import closing, watching
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.executor import Executor, Further, pin, pinned
from frostline.sweeps.lockstep_groups import batches
from frostline.tracking import session

log = logging.getLogger(__name__)
T = TypeVar("T")
_LARGEST = 1000
"""Jobs of an array, at most: Slurm's `MaxArraySize`, if nothing else is configured, is 1001."""
_ABOUT = {
    "generic resource": "gpus",
    "cpu count": "cpus",
    "memory specification": "memory_gb",
    "time limit": "hours",
    "partition": "partition",
}
"""What Slurm's refusals say, and the key of `cluster` that each is about."""
_WARNING = f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"
"""The signal that submitit asks for before the time limit."""


def queues(launcher: object) -> bool:
    """Return whether a launcher of Hydra's is submitit's, which hands jobs to a queue."""
    return hasattr(launcher, "_EXECUTOR") and hasattr(launcher, "params")


class Cluster(Executor):
    """Hands runs to submitit as one array of jobs."""

    def __init__(self, launcher: Any, config: DictConfig, *, detached: bool, in_job: bool = False) -> None:
        """Use a `launcher` of submitit's, with the `config` of the sweep.

        What is `detached` is not waited for. It may be used `in_job` of the cluster, and not by who typed.
        """
        self.launcher, self.config, self.detached, self._in_job = launcher, config, detached, in_job
        self._place = str(config.hydra.sweep.dir)
        self._planned: list[PlannedRun] = []
        self._folder = Path()
        self.asked = ""
        """Hash of what was typed."""

    def start(self, config: Config) -> None:
        """Be told what jobs are like."""
        self.how: ClusterConfig = config.cluster

    def ask(self, function: Callable[[], T], meanwhile: Callable[[], object] = lambda: None) -> T:
        """Call the function in this process."""
        meanwhile()
        return function()

    @property
    def checks_in_job(self) -> bool:
        """Whether a first job has yet to look at data and weights, and to queue the others."""
        return self.detached and not self._in_job and self.how.check == "job"

    @property
    def workers(self) -> int:
        """One for all runs that are packed into a job."""
        return 0 if self.how.pack == 1 else 1

    def settle(self, folder: Path, planned: Sequence[PlannedRun]) -> None:
        """Keep what each job has to be told."""
        self._folder = folder
        self._planned += planned
        pin(self.config, folder)

    def run(self, jobs: Mapping[int, int | None], further: Further) -> Mapping[int, Exception]:
        """Queue the jobs, packed as `cluster.pack` says, and wait for their end unless they are detached."""
        configs = {number: self._planned[number].config for number in jobs}
        groups = batches(configs, self.how.pack)
        calls = [Batch(self.launcher, self._folder, self._orders(group), Singleton.get_state()) for group in groups]
        for first in range(0, len(calls), _LARGEST):
            part = slice(first, first + _LARGEST)
            runs = [tuple(self._planned[number].folder for number in group) for group in groups[part]]
            self.submit(calls[part], runs, self._folder)
        if not self.detached:
            watching.wait(self._folder)
        return {}

    def leave(self, folder: Path) -> int | None:
        """Follow what is detached, where somebody typed it who wants to see it."""
        if not self.detached:
            return None
        if self._in_job:
            return 0
        return watching.left(folder) if self.how.detach else watching.follow(folder)

    def _orders(self, group: Sequence[int]) -> list[tuple[int, list[str]]]:
        return [(n, pinned(self._planned[n].overrides, self._folder, self._planned[n].folder)) for n in group]

    def submit(self, calls: Sequence[Callable[[], object]], runs: Sequence[tuple[str, ...]], sweep: Path) -> list[str]:
        """Queue the calls, the runs of each named by their folders, and return the engine's names of their jobs.

        Raises `UserError` with what the engine found wrong.
        """
        import submitit

        params, engine = dict(self.launcher.params), self.launcher._EXECUTOR
        folder = str(params.pop("submitit_folder")).replace(self._place, str(sweep), 1)
        timeouts = params.pop("max_num_timeout", None)
        own = {"name", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes"}
        own |= {"stderr_to_stdout"}
        first = {} if timeouts is None else {f"{engine}_max_num_timeout": timeouts}
        try:
            with submitit.helpers.clean_env(), redirect_stderr(io.StringIO()):  # it prints what it raises
                executor = submitit.AutoExecutor(Path(folder), cluster=engine, **first)
                executor.update_parameters(
                    **{key if key in own else f"{engine}_{key}": value for key, value in params.items()}
                )
                if Path(folder).is_relative_to(sweep):  # else there are jobs of others, too
                    cluster_jobs.announce(sweep, engine, runs, Path(folder), self.asked)
                queued = executor.map_array(_call, calls)
        except (RuntimeError, ValueError, TypeError) as error:
            raise _refusal(error, self.how) from None
        jobs = [
            cluster_jobs.Job(engine, each.job_id, run, str(each.paths.stdout), self.asked)
            for each, run in zip(queued, runs, strict=True)
        ]
        cluster_jobs.note(sweep, jobs)
        return [each.id for each in jobs]


def _refusal(error: Exception, how: ClusterConfig) -> UserError:
    """Return what a queue found wrong, as the line of the key that it is about, if that can be told."""
    said = reason_of(error)
    about = next((key for words, key in _ABOUT.items() if words in said.lower()), None) if how.name == "slurm" else None
    key, value = ("cluster", how.name) if about is None else (f"cluster.{about}", getattr(how, about))
    return user_error(key, value, f"what its queue takes ({said})")


class _Call:
    """Calls what it is given; where the time is over, submitit queues it again as it is."""

    def __call__(self, call: Callable[[], object]) -> None:
        call()

    def checkpoint(self, call: Callable[[], object]) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self, call)


_call = _Call()


@dataclass(frozen=True)
class Batch:
    """Runs that one job carries out, one after the other."""

    launcher: Any
    sweep: Path
    orders: Sequence[tuple[int, Sequence[str]]]
    """Their numbers, and what is said of each."""
    state: Any
    """Of Hydra, as it was where the job was queued."""

    def __call__(self) -> None:
        """Carry them out, and draw the sweep's results if no other job of it is left."""
        setup_globals()
        project.register_resolver()
        as_job(self.sweep, self._carry_out, fault="a job came to nothing")

    def _carry_out(self) -> None:
        tracker = Shared.read(self.sweep).tracker
        if tracker is not None:
            session.take_up(tracker, project.project_root())
        for number, overrides in self.orders:
            self.launcher(list(overrides), "hydra.sweep.dir", number, "", self.state)
        if tracker is not None:  # what an interrupt ends has no time to wait for MLflow
            session.leave(tracker)


def as_job(sweep: Path, work: Callable[[], str | None], *, fault: str) -> None:
    """Do the work of a job of the `sweep`, say in its folder how that ended, and draw the results if it was the last.

    What `work` returns it found wrong before any run started. The process ends with status 1 where the work breaks off,
    by a `fault`, which is logged, or by an interrupt.
    """
    queue_again, own = _listen(), cluster_jobs.here(sweep)
    refused = stopped = None
    try:
        refused = work()
    except KeyboardInterrupt as interrupt:
        stopped = _ended_by(interrupt, own, queue_again)
    except Exception as error:
        stopped = reason_of(error)
        log.exception(fault)
    if own is not None:
        cluster_jobs.end(sweep, own.id, stopped=stopped, refused=refused)
    closing.close_if_over(sweep)
    if stopped is not None:
        raise SystemExit(1)


def _preempted(job: cluster_jobs.Job) -> bool:
    """Return whether a job that hears SIGTERM was neither cancelled nor timed out, as Slurm would say by then."""
    ((_, state),) = cluster_jobs.states([job])
    return job.engine == "slurm" and state.word in ("RUNNING", "PREEMPTED")


def _queued_again(job: cluster_jobs.Job) -> bool:
    """Return whether Slurm has queued this process's job again by itself, as it does with what it preempts."""
    return job.engine == "slurm" and slurm.restarts(job.id) > int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _ended_by(interrupt: KeyboardInterrupt, own: cluster_jobs.Job | None, queue_again: Callable[[], str]) -> str:
    """Return what ended this process's `own` job, unless the engine takes that back: the process ends here then."""
    stopped = interrupts.name(interrupt)
    if own is not None and _queued_again(own):
        raise SystemExit(1)
    if stopped == _WARNING or (own is not None and _preempted(own)):
        return f"{stopped} ({queue_again()})"
    return stopped


def _listen() -> Callable[[], str]:
    """Have signals end a run of this process as Ctrl-C does, with a checkpoint, and not as submitit does.

    Returns what does that afterwards: it has the engine queue the job again and ends the process, or returns why not.
    """
    warning = getattr(signal, _WARNING)
    queue_again = signal.getsignal(warning)
    interrupts.install(warning=warning, once=True)

    def call() -> str:
        try:
            if callable(queue_again):
                queue_again(warning, None)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:  # queued again as often as it may
            return reason_of(error)
        return "not queued again"

    return call
