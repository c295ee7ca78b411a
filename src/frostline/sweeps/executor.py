"""Who carries out a sweep's jobs: our own workers, or whatever launcher Hydra was told to use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict, read_write

from frostline.core import garbage, machine
from frostline.core.config import Config
from frostline.sweeps import job
from frostline.sweeps.compose import Overrides, PlannedRun
from frostline.sweeps.pool import WorkerDied
from frostline.sweeps.worker import Errand

T = TypeVar("T")
Further = Callable[[int], Mapping[int, int | None]]
"""Is told of each job that is done, and returns what else is to be done by then: jobs by number with their stack."""


class Executor(Protocol):
    """What a sweep asks of those who carry out its jobs, and what is done where they need nothing."""

    @property
    def workers(self) -> int:
        """How many processes make the steps of several jobs together; 0 where each job makes its own."""
        return 0

    def start(self, config: Config) -> None:
        """Begin to get ready, given the config of the first job."""
        return

    def ask(self, function: Callable[[], T], meanwhile: Callable[[], object] = lambda: None) -> T:
        """Return what the function does where torch is loaded; `meanwhile` may be done on the way."""
        return function()

    def aside(self, function: Callable[[], T]) -> T:
        """Return what the function does on this machine, where it does not fill the memory of this process for ever.

        Where there is no other process, this one calls it.
        """
        return function()

    def settle(self, folder: Path, planned: Sequence[PlannedRun]) -> None:
        """Be told further runs before any of them is carried out, and where the sweep lies."""

    def run(self, jobs: Mapping[int, int | None], further: Further) -> Mapping[int, Exception]:
        """Carry out these jobs, given by number with their stack, and return why some did not come to an end.

        `further` is asked by who can take in more jobs meanwhile.
        """

    def leave(self, folder: Path) -> int | None:
        """Return the exit status where the runs go on without this process, and the last one draws the results."""
        return None

    def close(self, *, now: bool) -> None:
        """Let go of what is still there, in good order or `now`."""
        return


class Workers(Executor):
    """Our own launcher: long-lived processes that import torch while the rest of the sweep is still composed."""

    def __init__(self, launcher: Any) -> None:
        self._launcher = launcher
        self._jobs: list[Overrides] = []
        self._folder, self._places = Path(), dict[tuple[str, ...], str]()
        self._compose: Callable[[Overrides], DictConfig] = launcher.compose
        launcher.compose = self._pinned

    def start(self, config: Config) -> None:
        """Start the workers; a device that is named is everybody's, others get a GPU each, or `devices` of them."""
        self._launcher.say = lambda text: job.screen().say(f"  {text}", "yellow")
        machine.require_driver(config.device)
        gpus = config.device in ("auto", "cuda")
        errand = Errand(garbage.spared, (partial(importlib.import_module, "frostline.runs.run"),))
        self._pool = self._launcher.start(gpus=gpus, each=config.devices, errands=[errand])

    def ask(self, function: Callable[[], T], meanwhile: Callable[[], object] = lambda: None) -> T:
        """Have the first worker call the function."""
        self._launcher.pool.begin(function)
        meanwhile()
        answer: T = self._launcher.pool.finish()
        return answer

    def aside(self, function: Callable[[], T]) -> T:
        """Have the first worker call it; this process, where it dies of that, or an interrupt ended the workers."""
        if self._launcher.pool is not None:
            with suppress(WorkerDied):
                return self.ask(function)
        return function()

    def settle(self, folder: Path, planned: Sequence[PlannedRun]) -> None:
        """Keep it for the configs that the workers are given, each of which is composed when its turn comes."""
        self._jobs += [run.overrides for run in planned]
        self._folder = folder
        self._places |= {tuple(run.overrides): run.folder for run in planned}
        pin(self._launcher.config, folder)

    def _pinned(self, overrides: Overrides) -> DictConfig:
        """Return the config of a job with the place of its run in it."""
        config = self._compose(overrides)
        if (place := self._places.get(tuple(overrides))) is not None:
            pin(config, self._folder, place)
        return config

    @property
    def workers(self) -> int:
        """As many as were started."""
        return len(self._pool)

    def run(self, jobs: Mapping[int, int | None], further: Further) -> Mapping[int, Exception]:
        """Hand the jobs to the workers in this order, those of a stack to the same one."""
        stacks = dict(jobs)

        def more(number: int) -> dict[int, Overrides]:
            stacks.update(found := further(number))
            return {added: self._jobs[added] for added in found}

        return _reasons(self._launcher.run({number: self._jobs[number] for number in jobs}, stacks, further=more))

    def close(self, *, now: bool) -> None:
        """End the workers."""
        self._launcher.close(now=now)


class Foreign(Executor):
    """Another launcher, which is given whole batches and numbers their jobs itself."""

    def __init__(self, launcher: Any, size: int | None, config: DictConfig) -> None:
        """Give `launcher` batches of `size` jobs, None for one of all."""
        self._launcher, self._size, self._config = launcher, size, config
        self._jobs: list[list[str]] = []
        self._launched: set[int] = set()

    def settle(self, folder: Path, planned: Sequence[PlannedRun]) -> None:
        """Say it with every job, whose config the launcher composes itself."""
        pin(self._config, folder)
        self._jobs += [pinned(run.overrides, folder, run.folder) for run in planned]

    def run(self, jobs: Mapping[int, int | None], further: Further) -> Mapping[int, Exception]:
        """Launch every batch that holds one of the jobs; the others of a batch find out that they are done.

        Jobs that were launched before, and go on, are launched one by one.

        A launcher that gives a batch up, since a job of its was cancelled or its worker killed, takes nothing from what
        the jobs have written, nor from the batches after it.
        """
        returned, given_up = dict[int, JobReturn](), dict[int, Exception]()
        for numbers in self._batches(jobs.keys()):
            batch = self._jobs[numbers.start : numbers.stop]
            try:
                returned |= enumerate(self._launcher.launch(batch, initial_job_idx=numbers.start), numbers.start)
            except Exception as error:
                given_up |= dict.fromkeys(numbers, error)
            self._launched.update(numbers)
        return given_up | _reasons(returned)

    def _batches(self, jobs: Set[int]) -> list[range]:
        """Return the numbers of the jobs of each batch that is launched."""
        size, new = self._size or len(self._jobs), jobs - self._launched
        starts = range(min(new, default=len(self._jobs)), len(self._jobs), size)
        batches = [range(start, min(start + size, len(self._jobs))) for start in starts]
        again = [range(number, number + 1) for number in sorted(jobs & self._launched)]
        return again + [batch for batch in batches if not new.isdisjoint(batch)]


def pinned(overrides: Overrides, folder: Path, run: str | None = None) -> list[str]:
    """Return `overrides` that say, too, where the sweep lies, and where in it the `run`."""
    return [*overrides, _override("dir", str(folder)), *([] if run is None else [_override("subdir", run)])]


def pin(config: DictConfig, folder: Path, run: str | None = None) -> None:
    """Write the sweep's `folder`, and that of the `run` in it, into what Hydra composed."""
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = str(folder)
        if run is not None:
            config.hydra.sweep.subdir = run


def _override(key: str, value: str) -> str:
    return f"hydra.sweep.{key}={QuotedString(value, Quote.double).with_quotes()}"


def _reasons(returned: Mapping[int, JobReturn]) -> dict[int, Exception]:
    """Return what was raised by the jobs, or by the process they ran in."""
    return {number: done._return_value for number, done in returned.items() if done.status == JobStatus.FAILED}
