"""What is asked before the runs of a sweep on Ray is asked of a task there, here by a Ray that is made up."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from frostline.core.errors import UserError
from frostline.sweeps import ray_tasks
from frostline.sweeps.pool import WorkerDied
from frostline.sweeps.ray_tasks import Tasks
from small import compose


class RayError(Exception):
    """What Ray raises."""


class RayTaskError(RayError):
    """What it raises where a task did, whose text has a traceback in it."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("ray::check() (pid=1)\nTraceback (most recent call last): ...")
        self.cause = cause


class Ray:
    """Calls what a task is to call, unless its worker is `killed`, and knows with what it was asked."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.killed = self.away = False
        self.resources = {"CPU": 4.0, "GPU": 1.0}

    def is_initialized(self) -> bool:
        return bool(self.begun)

    def init(self, **options: Any) -> None:
        if self.away:
            raise ConnectionError("Failed to connect to Ray cluster")
        self.begun.append(options)

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def shutdown(self) -> None:
        self.begun.clear()

    def remote(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        self.asked.append(options)

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
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    made = Ray()
    monkeypatch.setitem(sys.modules, "ray", made)  # type: ignore[arg-type]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return made


def tasks(*, check: str = "job", address: str | None = None) -> Tasks:
    how = OmegaConf.create({"init": {"address": address}, "remote": {"num_gpus": 1, "max_retries": 3}})
    executor = Tasks(SimpleNamespace(ray_cfg=how, launch=lambda *_, **__: []), 1, OmegaConf.create())
    config = compose()
    executor.start(replace(config, cluster=replace(config.cluster, check=check)))
    return executor


def test_what_is_asked_is_a_task_that_has_what_a_run_has_unless_it_is_to_be_done_here(ray: Ray) -> None:
    done: list[str] = []
    assert tasks().call(lambda: [*done, "asked"], lambda: done.append("meanwhile")) == ["meanwhile", "asked"]
    assert ray.asked == [{"num_gpus": 1, "max_retries": 3}]
    assert tasks(check="here").call(os.getpid) == os.getpid() and len(ray.asked) == 1


def test_a_cluster_that_is_there_is_not_asked_for_memory_and_none_is_connected_to_twice(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = tasks()
    executor.call(os.getpid)
    executor.run({0: None}, lambda number: {})
    assert ray.begun == [{"address": None, "object_store_memory": ray_tasks._LITTLE}]
    ray.begun.clear()
    tasks(address="10.0.0.1:6379").call(os.getpid)
    assert ray.begun == [{"address": "10.0.0.1:6379"}]
    ray.begun.clear()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    tasks(check="here").run({0: None}, lambda number: {})  # its launcher would ask
    assert ray.begun == [{"address": None}]


def test_a_mistake_is_raised_as_it_is_and_a_task_that_dies_is_a_worker_that_died(ray: Ray) -> None:
    def refuse() -> None:
        raise UserError("lr=x: expected a number")

    with pytest.raises(UserError, match=r"^lr=x: expected a number$"):
        tasks().call(refuse)
    ray.killed = True
    with pytest.raises(WorkerDied, match=r"^the task that checks failed: RayError: The worker died: out of"):
        tasks().call(os.getpid)


def test_a_cluster_that_is_away_is_one_line(ray: Ray) -> None:
    ray.away = True
    with pytest.raises(UserError, match=r"^cluster=ray: expected a cluster that answers \(ConnectionError: Failed to"):
        tasks(address="10.0.0.1:6379").call(os.getpid)
    given_up = tasks(check="here").run(dict.fromkeys((0, 1)), lambda number: {})  # by then a record is to say why
    assert [type(error) for error in given_up.values()] == [UserError, UserError]


def test_more_than_this_machine_has_is_refused_where_ray_starts_here_and_would_wait_for_it(ray: Ray) -> None:
    ray.resources = {"CPU": 2.0}
    with pytest.raises(UserError, match=r"^cluster.gpus=1: expected at most 0 on this machine, where Ray starts if R"):
        tasks().call(os.getpid)
    assert not ray.begun
    tasks(address="10.0.0.1:6379").call(os.getpid)  # that one may grow
