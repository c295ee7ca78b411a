"""Executors, which run the jobs of a sweep: our own workers, or another launcher of Hydra."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict, read_write

from frostline.core import driver, files
from frostline.core.config import Config
from frostline.data.roots import require_folder, require_table
from frostline.report import terminal
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.hydra_overrides import Overrides
from frostline.sweeps.pool import Jobs, WorkerDied

T = TypeVar("T")
Further = Callable[[int], Jobs]
"""Called with the number of each finished job; returns the jobs to run next."""


class Executor(ABC):
    """What a sweep needs from the backend that runs its jobs, with defaults for backends that need no preparation."""

    in_job: bool = False
    """Whether this process is the first job of the sweep on a cluster, which was queued with the sweep's folder."""

    @property
    def runs_elsewhere(self) -> bool:
        """Whether runs may be on machines that see other files than the process of `call`."""
        return False

    @property
    def workers(self) -> int:
        """Number of processes that can train several jobs in lockstep; 0 if each job trains alone."""
        return 0

    def start(self, config: Config) -> None:
        """Start preparing for the jobs, given the config of the first one."""
        return

    def call(self, function: Callable[[], T], meanwhile: Callable[[], object] = lambda: None) -> T:
        """Call `function` in a process with torch and return its value; call `meanwhile` here in the waiting time."""
        return function()

    def aside(self, function: Callable[[], T]) -> T:
        """Call `function` in another process on this machine, if there is one, and return its value.

        So libraries that it imports do not stay in the memory of this process.
        """
        return function()

    @abstractmethod
    def run(self, folder: Path, planned: Sequence[PlannedRun], jobs: Jobs, further: Further) -> Mapping[int, Exception]:
        """Run these jobs, and return the errors of those that failed, by number.

        `folder` is that of the sweep; `planned` has its runs by number. Executors that can take in more jobs meanwhile
        call `further` after each job, which adds their runs to `planned`.
        """

    def leave(self, folder: Path) -> int | None:
        """Return the exit status if the runs continue without this process and the last one writes the results."""
        return None

    def close(self, *, now: bool) -> None:
        """Release all processes, gracefully or `now`."""
        return


class Workers(Executor):
    """Our own launcher: long-lived processes that import torch while the rest of the sweep is being composed."""

    def __init__(self, launcher: Any, compose: Callable[[Overrides], DictConfig]) -> None:
        self._launcher, self._compose = launcher, compose

    def start(self, config: Config) -> None:
        """Start the workers: each gets `devices` GPUs, but all share a fixed device such as `cpu` or `cuda:1`.

        UserError for a GPU, a folder of images or a table that is not there, which needs no torch.
        """
        self._launcher.say = lambda text: terminal.say(f"  {text}", "yellow")
        driver.require_here(config.device)
        require = {"folder": require_folder, "table": require_table}.get(config.data.source)
        if require is not None and config.data.root.strip():
            require(files.absolute(config.data.root))
        gpus = config.device in ("auto", "cuda")
        self._pool = self._launcher.start(gpus=gpus, each=config.devices, preload="frostline.runs.run")

    def call(self, function: Callable[[], T], meanwhile: Callable[[], object] = lambda: None) -> T:
        """Call `function` in the first worker."""
        answer: T = self._launcher.pool.call(function, meanwhile)
        return answer

    def aside(self, function: Callable[[], T]) -> T:
        """Call `function` in the first worker, or here if that worker dies or an interrupt has ended the workers."""
        if self._launcher.pool is not None:
            with suppress(WorkerDied):
                return self.call(function)
        return function()

    @property
    def workers(self) -> int:
        """The number of workers that were started."""
        return len(self._pool)

    def run(self, folder: Path, planned: Sequence[PlannedRun], jobs: Jobs, further: Further) -> Mapping[int, Exception]:
        """Hand the jobs to the workers in this order, all jobs of a stack to one worker."""

        def compose(number: int) -> DictConfig:
            config = self._compose(planned[number].overrides)
            pin(config, folder, planned[number].folder)
            return config

        pin(self._launcher.config, folder)
        return _reasons(self._launcher.run(jobs, compose, further=further))

    def close(self, *, now: bool) -> None:
        """End the workers."""
        self._launcher.close(now=now)


class HydraLauncher(Executor):
    """Another launcher of Hydra, which takes whole batches and numbers their jobs itself."""

    def __init__(self, launcher: Any, size: int | None, config: DictConfig) -> None:
        """Give `launcher` batches of `size` jobs, or all jobs in one batch for None."""
        self._launcher, self._size, self._config = launcher, size, config
        self._launched: set[int] = set()

    @property
    def runs_elsewhere(self) -> bool:
        """True: where another launcher runs its jobs is not known."""
        return True

    def run(self, folder: Path, planned: Sequence[PlannedRun], jobs: Jobs, further: Further) -> Mapping[int, Exception]:
        """Launch every batch that holds one of the jobs; the other jobs of a batch find their results and return.

        Jobs that were launched before, and continue now, are launched one by one. If the launcher gives up a batch,
        e.g. because a job was cancelled or a worker killed, results on disk count, and the next batches still run.
        """
        pin(self._config, folder)
        returned, given_up = dict[int, JobReturn](), dict[int, Exception]()
        for numbers in self._batches(jobs.keys(), len(planned)):
            batch = [pinned(run.overrides, folder, run.folder) for run in planned[numbers.start : numbers.stop]]
            try:
                returned |= enumerate(self._launcher.launch(batch, initial_job_idx=numbers.start), numbers.start)
            except Exception as error:
                given_up |= dict.fromkeys(numbers, error)
            self._launched.update(numbers)
        return given_up | _reasons(returned)

    def _batches(self, jobs: Set[int], count: int) -> list[range]:
        """Return the batches, out of `count` jobs, that hold one of the `jobs`."""
        size, new = self._size or count, jobs - self._launched
        starts = range(min(new, default=count), count, size)
        batches = [range(start, min(start + size, count)) for start in starts]
        again = [range(number, number + 1) for number in sorted(jobs & self._launched)]
        return again + [batch for batch in batches if not new.isdisjoint(batch)]


def pinned(overrides: Overrides, folder: Path, run: str | None = None) -> list[str]:
    """Return `overrides` with the folder of the sweep, and of the `run` within it, added."""
    return [*overrides, _override("dir", str(folder)), *([] if run is None else [_override("subdir", run)])]


def pin(config: DictConfig, folder: Path, run: str | None = None) -> None:
    """Write the sweep's `folder`, and that of the `run` in it, into a config that Hydra composed."""
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = str(folder)
        if run is not None:
            config.hydra.sweep.subdir = run


def _override(key: str, value: str) -> str:
    return f"hydra.sweep.{key}={QuotedString(value, Quote.double).with_quotes()}"


def _reasons(returned: Mapping[int, JobReturn]) -> dict[int, Exception]:
    """Return the exceptions of failed jobs, raised by the jobs or by the processes that ran them."""
    return {number: done._return_value for number, done in returned.items() if done.status == JobStatus.FAILED}
