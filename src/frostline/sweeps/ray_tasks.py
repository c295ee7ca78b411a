"""A sweep whose runs are tasks of Ray: what needs torch before them is a task, too, on a node like theirs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from frostline.core.config import Config
from frostline.core.errors import UserError, user_error
from frostline.records.recording import reason_of
from frostline.sweeps.executor import Foreign, Further
from frostline.sweeps.pool import WorkerDied

T = TypeVar("T")
_MEMORY, _LITTLE = "object_store_memory", 78_643_200  # bytes, the least that Ray takes: tasks share files, not objects


def carries_out(launcher: object) -> bool:
    """Return whether a launcher of Hydra's is Ray's."""
    return hasattr(launcher, "ray_cfg")


class Tasks(Foreign):
    """Ray's launcher, and a task for what is asked before it."""

    def __init__(self, launcher: Any, size: int | None, config: DictConfig) -> None:
        """Give `launcher` batches of `size` jobs, None for one of all."""
        super().__init__(launcher, size, config)
        self._how: DictConfig = launcher.ray_cfg
        self._here = True

    def start(self, config: Config) -> None:
        """Be told what jobs are like."""
        self._here = config.cluster.check == "here"

    def ask(self, function: Callable[[], T], meanwhile: Callable[[], object] = lambda: None) -> T:
        """Have a task call the function, which asks of Ray what a run does; raises `WorkerDied` where Ray lost it."""
        if self._here:
            return super().ask(function, meanwhile)
        import ray

        self._connect()
        remote = ray.remote(**_options(self._how.remote))(_call)
        asked = remote.options(name="check").remote(function)
        meanwhile()
        try:
            answer: T = ray.get(asked)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise WorkerDied(f"the task that checks came to nothing: {reason_of(error)}") from None
        return answer

    def run(self, jobs: Mapping[int, int | None], further: Further) -> Mapping[int, Exception]:
        """Launch every batch that holds one of the jobs."""
        try:
            if jobs:
                self._connect()
        except UserError as error:
            return dict.fromkeys(jobs, error)
        return super().run(jobs, further)

    def _connect(self) -> None:
        """Connect to the cluster, or start one here: the launcher would ask a cluster that is there for memory.

        Raises `UserError` where that fails, and where one of this machine alone would wait for more than there is.
        """
        import ray

        if ray.is_initialized():
            return
        own = {} if os.environ.get("RAY_ADDRESS") or self._how.init.get("address") else {_MEMORY: _LITTLE}
        try:
            ray.init(**{**own, **_options(self._how.init)})
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise user_error("cluster", "ray", f"a cluster that answers ({reason_of(error)})") from None
        for key, kind in (("gpus", "GPU"), ("cpus", "CPU")) if own else ():
            asked, there = self._how.remote.get(f"num_{key}") or 0, int(ray.cluster_resources().get(kind, 0))
            if asked > there:
                ray.shutdown()
                where = "on this machine, where Ray starts if RAY_ADDRESS names no cluster"
                raise user_error(f"cluster.{key}", asked, f"at most {there} {where}")


def _options(config: Any) -> dict[str, Any]:
    found = OmegaConf.to_container(config or OmegaConf.create({}), resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _call(function: Callable[[], T]) -> T:
    """Call the function: a remote function has to be one that has a name."""
    return function()
