"""The seam to Hydra: a launcher whose workers outlive their jobs, and whose sweep outlives its workers."""

import logging
import re
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from frostline.sweeps.hydra_task import call, in_common, packed
from frostline.sweeps.pool import NotStarted, Pool, Task
from frostline.sweeps.visible_gpus import places
from frostline.sweeps.worker import Errand

log = logging.getLogger(__name__)
_ALIKE = 3
"""So many first runs that fail in the same way end a sweep."""


@dataclass
class FrostlineLauncherConf:
    """What `hydra/launcher=frostline` may be given."""

    _target_: str = "hydra_plugins.frostline_launcher.FrostlineLauncher"
    workers: int | None = None
    """How many run jobs at the same time; null for one per GPU, or per `devices` of them, or one on a CPU."""
    job_timeout: float | None = 1800.0
    """Kill a job whose main thread has not moved for so many seconds; null for never."""
    retries: int = 1
    """How often a job is started again whose worker died or hung; one that fails by itself is not."""


ConfigStore.instance().store(group="hydra/launcher", name="frostline", node=FrostlineLauncherConf, provider="frostline")


class FrostlineLauncher(Launcher):
    """Hands jobs to long-lived workers, one process per GPU."""

    def __init__(self, workers: int | None, job_timeout: float | None, retries: int) -> None:
        self.workers, self.job_timeout, self.retries = workers, job_timeout, retries
        self.pool: Pool | None = None
        self.compose: Callable[[Sequence[str]], DictConfig] = self._compose
        """Returns the config of a job."""
        self.forget: Callable[[Sequence[str]], object] = lambda job: None
        """Is told of a job that is done, whose config is not asked for any more."""
        self.say: Callable[[str], object] = log.warning
        """Tells the person what happened to a worker."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what every job needs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))

    def start(self, *, gpus: bool = True, each: int = 1, errands: Sequence[Errand] = ()) -> Pool:
        """Start the workers, which see to their `errands` at once, and return them; `close` ends them.

        Where they have `gpus`, each has so many.
        """
        own = places(self.workers, gpus=gpus, each=each, say=self.say)
        self.pool = Pool(own, limit=self.job_timeout, errands=errands)
        return self.pool

    def close(self, *, now: bool = False) -> None:
        """End the workers, in good order or `now`."""
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.close(now=now)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Return what came of each job, in the order of the jobs."""
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        jobs = dict(enumerate(job_overrides, initial_job_idx))
        try:
            done = self.run(jobs, whole=True)
        finally:
            self.close()
        return [done[number] for number in jobs]

    def run(
        self,
        jobs: dict[int, Sequence[str]],
        stacks: Mapping[int, int | None] | None = None,
        *,
        further: Callable[[int], Mapping[int, Sequence[str]]] = lambda number: {},
        whole: bool = False,
    ) -> dict[int, JobReturn]:
        """Return what came of each job; they are started in the order given, whatever their numbers.

        Those that have the same number in `stacks` are carried out by one worker. `further` is told of each job that is
        done, and returns what else is to be done. The configs of jobs, which Hydra's own sweepers read, come back with
        what came of them only if it is wanted `whole`.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        log.info("Launching %d jobs", len(jobs))
        pool, waiting, done = self.pool or self.start(), deque(jobs), dict[int, JobReturn]()
        jobs = dict(jobs)
        common = in_common(self.hydra_context, self.task_function)
        hopeless = None
        try:
            answers = pool.run(
                waiting,
                lambda number: self._task(number, jobs[number], common, whole=whole),
                stacks=stacks or {},
                retries=self.retries,
                say=self.say,
            )
            for number, answer in answers:
                done[number] = answer.value if answer.error is None else _failed(jobs[number], answer.error)
                self.forget(jobs[number])
                more = further(number)
                jobs |= more
                waiting.extend(more)
                if waiting and (hopeless := _hopeless(done.values())):
                    waiting.clear()
                    self.say(f"Stopped: {hopeless}.")
        except KeyboardInterrupt as interrupt:
            self.pool = None  # first: one more interrupt ends the workers, too
            pool.interrupt(interrupt)
            raise
        left = NotStarted(str(hopeless))
        return {number: done.get(number) or _failed(jobs[number], left) for number in jobs}

    def _task(self, number: int, overrides: Sequence[str], common: bytes, *, whole: bool) -> Task:
        log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
        config = self.compose(overrides)
        with read_write(config), open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return (call, common, packed(config), whole)


def _failed(overrides: Sequence[str], error: BaseException) -> JobReturn:
    done = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    done.return_value = error
    return done


def why(done: JobReturn) -> str | None:
    """Return why a job did not do what it should, in one line.

    None if it did, found that somebody else does it, or waits for whether its trial goes on.
    """
    value = done._return_value
    if done.status == JobStatus.FAILED:
        return " ".join(f"{type(value).__name__}: {value}".split())
    return None if getattr(value, "status", None) in ("RUNNING", "PAUSED") else getattr(value, "reason", None)


def _hopeless(done: Collection[JobReturn]) -> str | None:
    """Return what there is to say if the first jobs all failed in the same way, numbers aside.

    A run that diverged says something about its own settings only.
    """
    if len(done) < _ALIKE or any(why(job) is None for job in done):
        return None
    reasons = [why(job) for job in done]
    if "Diverged" in str(reasons[0]):
        return None
    if len({re.sub(r"\d+", "#", str(reason)) for reason in reasons}) > 1:
        return None
    return f"the first {len(reasons)} runs all failed in the same way ({reasons[0]})"
