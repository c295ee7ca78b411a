"""Who carries out a sweep's jobs: our own workers, or whatever launcher Hydra was told to use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from hydra.core.utils import JobReturn, JobStatus

from frostline import job
from frostline.config import Config
from frostline.worker import Errand

T = TypeVar("T")


class Crew(Protocol):
    """What a sweep asks of those who carry out its jobs."""

    def start(self, config: Config) -> None:
        """Begin to get ready, given the config of the first job."""

    def ask(self, function: Callable[[], T], meanwhile: Callable[[], object] = lambda: None) -> T:
        """Return what the function does where torch is loaded; `meanwhile` may be done on the way."""

    def run(self, numbers: Sequence[int]) -> Mapping[int, Exception]:
        """Carry out the jobs of these numbers, and return why some did not come to an end, by number."""

    def close(self, *, now: bool) -> None:
        """Let go of what is still there, in good order or `now`."""


class Workers:
    """Our own launcher: long-lived processes that import torch while the rest of the sweep is still composed."""

    def __init__(self, launcher: Any, jobs: Sequence[Sequence[str]]) -> None:
        self._launcher, self._jobs = launcher, jobs

    def start(self, config: Config) -> None:
        """Start the workers; a device that is named is everybody's, others get a GPU each."""
        self._launcher.say = lambda text: job.screen().say(f"  {text}", "yellow")
        gpus = config.device in ("auto", "cuda")
        self._pool = self._launcher.start(
            gpus=gpus, errands=[Errand(importlib.import_module, ("frostline.experiment",))]
        )

    def ask(self, function: Callable[[], T], meanwhile: Callable[[], object] = lambda: None) -> T:
        """Have the first worker call the function."""
        self._launcher.pool.begin(function)
        meanwhile()
        answer: T = self._launcher.pool.finish()
        return answer

    def run(self, numbers: Sequence[int]) -> Mapping[int, Exception]:
        """Hand the jobs to the workers in this order."""
        return _reasons(self._launcher.run({number: self._jobs[number] for number in numbers}))

    def close(self, *, now: bool) -> None:
        """End the workers."""
        self._launcher.close(now=now)


class Foreign:
    """Another launcher, which is given whole batches and numbers their jobs itself."""

    def __init__(self, launcher: Any, batches: Sequence[Sequence[Sequence[str]]]) -> None:
        self._launcher, self._batches = launcher, batches

    def start(self, config: Config) -> None:
        """Leave it to the launcher."""

    def ask(self, function: Callable[[], T], meanwhile: Callable[[], object] = lambda: None) -> T:
        """Call the function in this process."""
        return function()

    def run(self, numbers: Sequence[int]) -> Mapping[int, Exception]:
        """Launch every batch that holds one of the jobs; the others of a batch find out that they are done."""
        first, returned = 0, dict[int, JobReturn]()
        for batch in self._batches:
            if not set(numbers).isdisjoint(range(first, first + len(batch))):
                returned |= enumerate(self._launcher.launch(batch, initial_job_idx=first), first)
            first += len(batch)
        return _reasons(returned)

    def close(self, *, now: bool) -> None:
        """Leave it to the launcher."""


def check(configs: Sequence[Config]) -> dict[str, dict[str, str]]:
    """Raise the `UserError` of the first config that cannot run; return what `auto` means on each device, by key."""
    from frostline import environment, setup  # imports torch

    for config in configs:
        setup.check(config)
    return {config.device: environment.meaning_of_auto(config.device) for config in configs}


def fingerprints(configs: Sequence[Config]) -> list[str | None]:
    """Return the fingerprint of each config's data, None where they cannot be read."""
    from frostline import setup

    found: dict[str, str | None] = {}
    for config in configs:
        if repr(config.data) not in found:
            found[repr(config.data)] = setup.fingerprint(config, job.screen())
    return [found[repr(config.data)] for config in configs]


def _reasons(returned: Mapping[int, JobReturn]) -> dict[int, Exception]:
    """Return what was raised by the jobs, or by the process they ran in."""
    return {number: done._return_value for number, done in returned.items() if done.status == JobStatus.FAILED}
