"""Runs as tasks of Ray: the checks that need torch are a task, too, on a node like theirs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from frostline.core.config import Config
from frostline.core.errors import UserError, user_error
from frostline.records.recording import reason_of
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.executor import Further, HydraLauncher
from frostline.sweeps.pool import Jobs, WorkerDied

T = TypeVar("T")
_MEMORY, _LITTLE = "object_store_memory", 78_643_200  # bytes, Ray's minimum: tasks share files, not objects


def is_ray(launcher: object) -> bool:
    """Return whether a launcher of Hydra is Ray's."""
    return hasattr(launcher, "ray_cfg")


class RayTasks(HydraLauncher):
    """Ray's launcher, with a task for the checks before the runs."""

    def start(self, config: Config) -> None:
        """Take `cluster.check` from the first config."""
        self._here = config.cluster.check == "here"

    @property
    def runs_elsewhere(self) -> bool:
        """Whether the checks are done here, and not in a task."""
        return self._here

    def call(self, function: Callable[[], T], meanwhile: Callable[[], object] = lambda: None) -> T:
        """Call `function` in a task with the resources of a run; raises `WorkerDied` if Ray lost the task."""
        if self._here:
            return super().call(function, meanwhile)
        import ray

        self._connect()
        remote = ray.remote(**_options(self._launcher.ray_cfg.remote))(_call)
        asked = remote.options(name="check").remote(function)
        meanwhile()
        try:
            answer: T = ray.get(asked)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise WorkerDied(f"the task that checks failed: {reason_of(error)}") from None
        return answer

    def run(self, folder: Path, planned: Sequence[PlannedRun], jobs: Jobs, further: Further) -> Mapping[int, Exception]:
        """Connect to Ray, then launch every batch that contains one of the jobs."""
        try:
            if jobs:
                self._connect()
        except UserError as error:
            return dict.fromkeys(jobs, error)
        return super().run(folder, planned, jobs, further)

    def _connect(self) -> None:
        """Connect to the cluster, or start one on this machine with a small object store.

        The launcher would request an object store also from an existing cluster, which refuses. Raises `UserError` if
        the connection fails, or if a cluster on this machine lacks the requested GPUs or CPUs.
        """
        import ray

        if ray.is_initialized():
            return
        how = self._launcher.ray_cfg
        own = {} if os.environ.get("RAY_ADDRESS") or how.init.get("address") else {_MEMORY: _LITTLE}
        try:
            ray.init(**{**own, **_options(how.init)})
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise user_error("cluster", "ray", f"a cluster that answers ({reason_of(error)})") from None
        for key, kind in (("gpus", "GPU"), ("cpus", "CPU")) if own else ():
            asked, there = how.remote.get(f"num_{key}") or 0, int(ray.cluster_resources().get(kind, 0))
            if asked > there:
                ray.shutdown()
                where = "on this machine, where Ray starts if RAY_ADDRESS names no cluster"
                raise user_error(f"cluster.{key}", asked, f"at most {there} {where}")


def _options(config: Any) -> dict[str, Any]:
    found = OmegaConf.to_container(config or OmegaConf.create({}), resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _call(function: Callable[[], T]) -> T:
    """Call the function: Ray needs a remote function with a name, which a partial lacks."""
    return function()
