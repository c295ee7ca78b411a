"""Hydra launcher plugin: long-lived workers run many jobs each, and a sweep survives the death of a worker."""

import logging
import re
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from frostline.sweeps.hydra_task import call, in_common, packed
from frostline.sweeps.pool import Jobs, NotStarted, Pool, Task
from frostline.sweeps.visible_gpus import places

log = logging.getLogger(__name__)
_ALIKE = 3
"""A sweep stops if its first runs all fail in the same way and there are at least so many of them."""


@dataclass
class FrostlineLauncherConf:
    """Settings of `hydra/launcher=frostline`."""

    _target_: str = "hydra_plugins.frostline_launcher.FrostlineLauncher"
    workers: int | None = None
    """Number of worker processes; null for one per `devices` GPUs, or one on a CPU."""
    job_timeout: float | None = 1800.0
    """Kill a worker whose main thread makes no progress for so many seconds; null for never."""
    retries: int = 1
    """How often a job is restarted after its worker died or hung; a job that raises an error is not restarted."""


ConfigStore.instance().store(group="hydra/launcher", name="frostline", node=FrostlineLauncherConf, provider="frostline")


class FrostlineLauncher(Launcher):
    """Runs jobs in long-lived worker processes, one per GPU."""

    def __init__(self, workers: int | None, job_timeout: float | None, retries: int) -> None:
        self.workers, self.job_timeout, self.retries = workers, job_timeout, retries
        self.pool: Pool | None = None
        self.say: Callable[[str], object] = log.warning
        """Reports events of workers to the user."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember the context, the task function and the config of the sweep."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def start(self, *, gpus: bool = True, each: int = 1, preload: str = "") -> Pool:
        """Start the workers, which import the module `preload`, and return them; `close` ends them.

        With `gpus`, each worker gets `each` of them.
        """
        own = places(self.workers, gpus=gpus, each=each, say=self.say)
        self.pool = Pool(own, limit=self.job_timeout, preload=preload)
        return self.pool

    def close(self, *, now: bool = False) -> None:
        """End the workers, gracefully or `now`."""
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.close(now=now)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return their outcomes, in the order of the jobs."""
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        jobs, load = dict(enumerate(job_overrides, initial_job_idx)), self.hydra_context.config_loader.load_sweep_config
        try:
            done = self.run(dict.fromkeys(jobs), lambda number: load(self.config, [*jobs[number]]), whole=True)
        finally:
            self.close()
        return [done[number] for number in jobs]

    def run(
        self,
        jobs: Jobs,
        compose: Callable[[int], DictConfig],
        *,
        further: Callable[[int], Jobs] = lambda number: {},
        whole: bool = False,
    ) -> dict[int, JobReturn]:
        """Run the jobs in this order, and return their outcomes by number.

        `compose` returns the config of a job. `further` is called with each finished job, and returns further jobs.
        With `whole`, the outcomes contain the configs, which Hydra's own sweepers read.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        log.info("Launching %d jobs", len(jobs))
        pool, waiting, done = self.pool or self.start(), deque(jobs), dict[int, JobReturn]()
        stacks = dict(jobs)
        common = in_common(self.hydra_context, self.task_function)
        hopeless = None
        try:
            answers = pool.run(
                waiting,
                lambda number: _task(number, compose(number), common, whole=whole),
                stacks=stacks,
                retries=self.retries,
                say=self.say,
            )
            for number, answer in answers:
                done[number] = answer.value if answer.error is None else _failed(answer.error)
                more = further(number)
                stacks |= more
                waiting.extend(more)
                if waiting and (hopeless := _hopeless(done.values())):
                    waiting.clear()
                    self.say(f"Stopped: {hopeless}.")
        except KeyboardInterrupt as interrupt:
            self.pool = None  # before anything else, so that a second interrupt ends the workers, too
            pool.interrupt(interrupt)
            raise
        left = NotStarted(str(hopeless))
        return {number: done.get(number) or _failed(left) for number in stacks}


def _task(number: int, config: DictConfig, common: bytes, *, whole: bool) -> Task:
    log.info("\t#%d : %s", number, " ".join(config.hydra.overrides.task))
    with read_write(config), open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
    return (call, common, packed(config), whole)


def _failed(error: BaseException) -> JobReturn:
    done = JobReturn(status=JobStatus.FAILED)
    done.return_value = error
    return done


def _why(done: JobReturn) -> str | None:
    """Return why a job failed, in one line.

    None if it succeeded, if another process has its run, or if its trial waits at a rung.
    """
    value = done._return_value
    if done.status == JobStatus.FAILED:
        return " ".join(f"{type(value).__name__}: {value}".split())
    return None if getattr(value, "status", None) in ("RUNNING", "PAUSED") else getattr(value, "reason", None)


def _hopeless(done: Collection[JobReturn]) -> str | None:
    """Return a message if the first jobs all failed with the same error, apart from numbers in it; else None.

    Diverged runs do not count, since divergence depends on a run's own settings.
    """
    reasons = [*map(_why, done)]
    if len(reasons) < _ALIKE or None in reasons or "Diverged" in str(reasons[0]):
        return None
    if len({re.sub(r"\d+", "#", str(reason)) for reason in reasons}) > 1:
        return None
    return f"the first {len(reasons)} runs all failed in the same way ({reasons[0]})"
