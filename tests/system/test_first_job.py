"""A cluster's first job that is killed, with submitit's local executor if it is installed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

import stores
import warm
from frostline.records import cluster_jobs
from whole_sweeps import QUICK, command, environment, places

submitit = pytest.importorskip("submitit")
LAUNCHER = ("hydra/launcher=submitit_local", "hydra.launcher.submitit_folder=${hydra.sweep.dir}/.jobs")


def command_of(folder, store):
    """Return the command line of a sweep of two runs, and its environment."""
    arguments = command("-m", *QUICK, "freeze=head", "lr=1e-2,1e-3", *LAUNCHER, *places(folder, store))
    own = environment()
    installed = str(Path(submitit.__file__).parents[1])
    return [one for one in arguments if one != "resume=false"], {
        **own,
        "PYTHONPATH": f"{own['PYTHONPATH']}:{installed}",
    }


def kill_first_job(folder):
    """Kill the process of the first job as soon as it exists, but not submitit's own process."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for job in cluster_jobs.of(folder):
            for child in psutil.Process(int(job.id)).children():
                os.kill(child.pid, signal.SIGKILL)
                return
        time.sleep(0.05)
    raise AssertionError("no job was started")


def test_killed_first_job_is_reported_and_the_command_continues(tmp_path):
    store, folder = stores.put(tmp_path / "mlflow.db"), tmp_path / "sweep"
    arguments, environment = command_of(folder, store)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(arguments, env=environment, **pipes) as process:
        kill_first_job(folder)
        said, _ = process.communicate(timeout=240)
    (job,) = cluster_jobs.of(folder)
    assert process.returncode == 1, said
    for name in ("head lr=0.01 seed=0", "head lr=0.001 seed=0"):
        assert f"killed  {name}: not queued: local job {job.id}, which checks first: ended" in said
    assert "Traceback" not in said and "The same command continues." in said
    done = warm.run(arguments, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lr=0.01 wins" in done.stdout
