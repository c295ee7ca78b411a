"""Runs as jobs on a cluster: submitit submits them, Slurm runs them.

The command's own process, or a first job, queues the jobs and may then exit; see `cluster_work` for what each job does.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from omegaconf import DictConfig

from frostline.core.config import ClusterConfig, Config
from frostline.core.errors import UserError, user_error
from frostline.records import cluster_jobs
from frostline.records.recording import reason_of
from frostline.sweeps import watching
from frostline.sweeps.cluster_work import Batch
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.executor import Executor, Further, pin, pinned
from frostline.sweeps.lockstep_groups import batches
from frostline.sweeps.pool import Jobs

_LARGEST = 1000
"""Maximum number of jobs in an array: Slurm's `MaxArraySize` is 1001 by default."""
_OF_ANY_ENGINE = (
    *("name", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes"),
    "stderr_to_stdout",
)
"""Parameters of submitit whose names have no engine in front."""
_ABOUT = {
    "generic resource": "gpus",
    "cpu count": "cpus",
    "memory specification": "memory_gb",
    "time limit": "hours",
    "partition": "partition",
}
"""Words in Slurm's error messages, and the key of `cluster` that each is about."""


def is_submitit(launcher: object) -> bool:
    """Return whether a launcher of Hydra is submitit's, which submits jobs to a queue."""
    return hasattr(launcher, "_EXECUTOR") and hasattr(launcher, "params")


class Cluster(Executor):
    """Submits runs with submitit as an array of jobs."""

    def __init__(self, launcher: Any, config: DictConfig, *, detached: bool, in_job: bool = False) -> None:
        """Use submitit's `launcher`, with the `config` of the sweep.

        `detached` jobs are not waited for. With `in_job` this process is itself a job of the cluster.
        """
        self.launcher, self.config, self.detached, self.in_job = launcher, config, detached, in_job
        self._place = str(config.hydra.sweep.dir)
        self.asked = ""
        """Hash of the sweep that was typed."""

    def start(self, config: Config) -> None:
        """Take the settings of `cluster` from the first config."""
        self.how: ClusterConfig = config.cluster

    @property
    def runs_elsewhere(self) -> bool:
        """Whether this process, which checks, is none of the cluster's jobs."""
        return not self.in_job

    @property
    def workers(self) -> int:
        """1 if a job may run several runs, which it can train in lockstep; else 0."""
        return 0 if self.how.pack == 1 else 1

    def run(self, folder: Path, planned: Sequence[PlannedRun], jobs: Jobs, further: Further) -> Mapping[int, Exception]:
        """Queue the jobs, packed as `cluster.pack` says, and wait for their end unless they are detached."""
        pin(self.config, folder)
        groups = batches({number: planned[number].config for number in jobs}, self.how.pack)
        orders = {number: pinned(planned[number].overrides, folder, planned[number].folder) for number in jobs}
        state = Singleton.get_state()
        calls = [Batch(self.launcher, folder, [(n, orders[n]) for n in group], state) for group in groups]
        for first in range(0, len(calls), _LARGEST):
            part = slice(first, first + _LARGEST)
            runs = [tuple(planned[number].folder for number in group) for group in groups[part]]
            self.submit(calls[part], runs, folder)
        if not self.detached:
            watching.wait(folder)
        return {}

    def leave(self, folder: Path) -> int | None:
        """Follow detached jobs, unless asked not to wait or in a job itself; None if the jobs are not detached."""
        if not self.detached:
            return None
        if self.in_job:
            return 0
        return watching.follow(folder, detach=self.how.detach)

    def submit(self, calls: Sequence[Callable[[], object]], runs: Sequence[tuple[str, ...]], sweep: Path) -> list[str]:
        """Queue the calls and return the ids of their jobs; `runs` has the folders of the runs of each call.

        Raises `UserError` with the engine's error message.
        """
        import submitit

        engine, typed = self.launcher._EXECUTOR, str(self.launcher.params["submitit_folder"])
        folder = Path(typed.replace(self._place, str(sweep), 1))
        try:
            with submitit.helpers.clean_env(), redirect_stderr(io.StringIO()):  # submitit prints what it raises
                executor = self._submitit(folder)
                if folder.is_relative_to(sweep):  # a folder elsewhere may contain jobs of other sweeps
                    cluster_jobs.announce(sweep, engine, runs, folder, self.asked)
                queued = executor.map_array(_call, calls)
        except (RuntimeError, ValueError, TypeError) as error:
            raise _refusal(error, self.how) from None
        jobs = [
            cluster_jobs.Job(engine, each.job_id, run, str(each.paths.stdout), self.asked)
            for each, run in zip(queued, runs, strict=True)
        ]
        cluster_jobs.note(sweep, jobs)
        return [each.id for each in jobs]

    def _submitit(self, folder: Path) -> Any:
        """Return submitit's executor with the parameters of the launcher; it writes its files into `folder`."""
        import submitit

        params, engine = dict(self.launcher.params), self.launcher._EXECUTOR
        del params["submitit_folder"]
        timeouts = params.pop("max_num_timeout", None)
        first = {} if timeouts is None else {f"{engine}_max_num_timeout": timeouts}
        if engine == "slurm" and (cpus := params.get("cpus_per_task")):  # which srun inherits no more since 22.05
            params["srun_args"] = [f"--cpus-per-task={cpus}"]
        executor = submitit.AutoExecutor(folder, cluster=engine, **first)
        executor.update_parameters(
            **{key if key in _OF_ANY_ENGINE else f"{engine}_{key}": value for key, value in params.items()}
        )
        return executor


def _refusal(error: Exception, how: ClusterConfig) -> UserError:
    """Return the error of a queue as a `UserError` for the key that it is about, or else for `cluster`."""
    said = reason_of(error)
    about = next((key for words, key in _ABOUT.items() if words in said.lower()), None) if how.name == "slurm" else None
    key, value = ("cluster", how.name) if about is None else (f"cluster.{about}", getattr(how, about))
    return user_error(key, value, f"a value that its queue accepts ({said})")


class _Call:
    """Calls a function; at the time limit submitit queues the same call again."""

    def __call__(self, call: Callable[[], object]) -> None:
        call()

    def checkpoint(self, call: Callable[[], object]) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self, call)


_call = _Call()
