"""Launchers and workers that fail: which jobs are affected and what is reported."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

import warm
from frostline.core import driver
from frostline.core.errors import UserError
from frostline.sweeps import pool as pools
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.executor import HydraLauncher, Workers
from frostline.sweeps.pool import Pool, WorkerDied
from frostline.sweeps.sweep import run_planned
from small import compose


class FailingLauncher:
    """A launcher that completes all batches except that of job 2, for which it raises."""

    def __init__(self) -> None:
        self.launched: list[int] = []

    def launch(self, batch: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        numbers = range(initial_job_idx, initial_job_idx + len(batch))
        self.launched += numbers
        if 2 in numbers:
            raise RuntimeError("a worker process was killed")
        done = [JobReturn() for _ in batch]
        for one in done:
            one.status = JobStatus.COMPLETED
        return done


def test_failed_batch_affects_only_its_own_jobs() -> None:
    launcher = FailingLauncher()
    executor = HydraLauncher(launcher, 2, OmegaConf.create({"hydra": {"sweep": {"dir": "here", "subdir": "0"}}}))
    config = compose()
    runs = [PlannedRun(config, "", {}, str(number), [f"lr={number}"]) for number in range(6)]
    reasons = executor.run(Path("here"), runs, dict.fromkeys((0, 1, 2, 3, 5)), lambda number: {})
    assert launcher.launched == [0, 1, 2, 3, 4, 5]
    assert {number: str(error) for number, error in reasons.items()} == dict.fromkeys(
        (2, 3), "a worker process was killed"
    )


@pytest.mark.parametrize("worker_dies", [False, True])
def test_aside_uses_a_worker_or_this_process(worker_dies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "subprocess", warm.forking_subprocess())
    pool = Pool([{}], limit=None)
    workers = Workers(SimpleNamespace(pool=pool), compose)
    here = os.getpid()
    try:
        assert (workers.aside(partial(_process_id, here if worker_dies else 0)) == here) == worker_dies
    finally:
        pool.close(now=True)
    interrupted = Workers(SimpleNamespace(pool=None), compose)
    assert interrupted.aside(os.getpid) == here


def _process_id(only: int) -> int:
    """Return the id of this process. A process other than `only` is killed, unless that is 0."""
    if only not in (0, os.getpid()):
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("data.root={none}", "^data.root={none}: expected a folder that exists, with one folder of images per class"),
        ("data=table data.root={none}", "^data.root={none}: expected a table that exists: .csv, .tsv, .parquet or"),
        ("device=cuda", "^device=cuda: expected auto or cpu: there is no driver of NVIDIA on this machine"),
    ],
)
def test_what_is_not_on_this_machine_is_refused_before_workers_start(
    typed: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_of_torch", lambda: (13, 2))
    monkeypatch.setattr(driver, "_of_driver", lambda: None)
    monkeypatch.setattr(sys, "platform", "linux")
    none = tmp_path / "none"
    workers = Workers(SimpleNamespace(start=pytest.fail), compose)
    with pytest.raises(UserError, match=line.format(none=none)):
        workers.start(compose("data=image_folder", f"data.root={tmp_path}", *typed.format(none=none).split()))


class DyingLauncher(HydraLauncher):
    """A launcher whose worker dies in the check before the runs."""

    def call(self, check: partial[object], *_: object) -> NoReturn:
        assert check.keywords["runs_elsewhere"]
        raise WorkerDied("its worker was killed by signal 9")


def test_failed_check_names_every_run_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [PlannedRun(compose(), name, {}, name, []) for name in ("head", "full")]
    executor = DyingLauncher(FailingLauncher(), None, OmegaConf.create())
    assert run_planned(runs, executor=executor, folder=tmp_path / "sweep", folder_named=True) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("not started, since the worker that checks died: its worker was killed by signal 9") == 2
    assert "none of 2 runs finished" in printed
    assert not (tmp_path / "sweep").exists()
