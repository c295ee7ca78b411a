"""Checks before a sweep on Ray are carried out by a task there, tested with a fake Ray."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from frostline.core.errors import UserError
from frostline.sweeps import ray_tasks
from frostline.sweeps.pool import WorkerDied
from frostline.sweeps.ray_tasks import RayTasks
from small import compose

HERE = Path("here")


class RayError(Exception):
    """The base of Ray's errors."""


class RayTaskError(RayError):
    """Ray's error for a task that raised. Its text contains a traceback."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("ray::check() (pid=1)\nTraceback (most recent call last): ...")
        self.cause = cause


class FakeRay:
    """A fake `ray` module that calls tasks in this process, unless `killed` or `away`, and records the options."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.task_options: list[dict[str, Any]] = []
        self.killed = self.away = False
        self.resources = {"CPU": 4.0, "GPU": 1.0}

    def is_initialized(self) -> bool:
        return bool(self.started)

    def init(self, **options: Any) -> None:
        if self.away:
            raise ConnectionError("Failed to connect to Ray cluster")
        self.started.append(options)

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def shutdown(self) -> None:
        self.started.clear()

    def remote(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        self.task_options.append(options)

        def made(function: Callable[..., Any]) -> Any:
            bound = SimpleNamespace(remote=lambda *given: lambda: function(*given))
            return SimpleNamespace(options=lambda **_: bound)

        return made

    def get(self, task: Callable[[], Any]) -> Any:
        if self.killed:
            raise RayError("The worker died: out of memory")
        try:
            return task()
        except Exception as error:
            raise RayTaskError(error) from None


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)  # type: ignore[arg-type]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return fake


def tasks(*, check: str = "job", address: str | None = None) -> RayTasks:
    how = OmegaConf.create({"init": {"address": address}, "remote": {"num_gpus": 1, "max_retries": 3}})
    executor = RayTasks(
        SimpleNamespace(ray_cfg=how, launch=lambda *_, **__: []), 1, OmegaConf.create({"hydra": {"sweep": {}}})
    )
    config = compose()
    executor.start(replace(config, cluster=replace(config.cluster, check=check)))
    return executor


def test_check_runs_as_a_task_like_a_run(ray: FakeRay) -> None:
    done: list[str] = []
    assert tasks().call(lambda: [*done, "asked"], lambda: done.append("meanwhile")) == ["meanwhile", "asked"]
    assert ray.task_options == [{"num_gpus": 1, "max_retries": 3}]
    assert tasks(check="here").call(os.getpid) == os.getpid() and len(ray.task_options) == 1
    assert (tasks().runs_elsewhere, tasks(check="here").runs_elsewhere) == (False, True)


def test_ray_is_started_once_and_memory_set_only_locally(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = tasks()
    executor.call(os.getpid)
    executor.run(HERE, [], {0: None}, lambda number: {})
    assert ray.started == [{"address": None, "object_store_memory": ray_tasks._LITTLE}]
    ray.started.clear()
    tasks(address="10.0.0.1:6379").call(os.getpid)
    assert ray.started == [{"address": "10.0.0.1:6379"}]
    ray.started.clear()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    tasks(check="here").run(HERE, [], {0: None}, lambda number: {})  # Hydra's launcher would connect
    assert ray.started == [{"address": None}]


def test_task_raises_user_mistakes_and_worker_deaths(ray: FakeRay) -> None:
    def refuse() -> None:
        raise UserError("lr=x: expected a number")

    with pytest.raises(UserError, match=r"^lr=x: expected a number$"):
        tasks().call(refuse)
    ray.killed = True
    with pytest.raises(WorkerDied, match=r"^the task that checks failed: RayError: The worker died: out of"):
        tasks().call(os.getpid)


def test_unreachable_cluster_is_a_user_error(ray: FakeRay) -> None:
    ray.away = True
    with pytest.raises(UserError, match=r"^cluster=ray: expected a cluster that answers \(ConnectionError: Failed to"):
        tasks(address="10.0.0.1:6379").call(os.getpid)
    reasons = tasks(check="here").run(
        HERE, [], dict.fromkeys((0, 1)), lambda number: {}
    )  # recorded as each run's reason
    assert [type(error) for error in reasons.values()] == [UserError, UserError]


def test_more_gpus_than_a_local_ray_has_are_refused(ray: FakeRay) -> None:
    ray.resources = {"CPU": 2.0}
    with pytest.raises(UserError, match=r"^cluster.gpus=1: expected at most 0 on this machine, where Ray starts if R"):
        tasks().call(os.getpid)
    assert not ray.started
    tasks(address="10.0.0.1:6379").call(os.getpid)  # a cluster may grow
