"""A tracking server below a path behind a proxy, as with `mlflow server --static-prefix /team`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

import stores
import warm

CHECKOUT = Path(__file__).parents[2]
PREFIX = "/team"
QUICK = ("data.limit=40", "epochs=1", "batch_size=20", "model.image_size=32", "threads=1", "lr=1e-2,1e-3")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5):
            return True
    except HTTPError as answer:
        answer.close()
    except OSError:
        pass
    return False


@pytest.fixture(scope="module")
def server_address(tmp_path_factory):
    """Yield the server's address with its path. Other paths do not answer."""
    folder, port, behind = tmp_path_factory.mktemp("server"), free_port(), free_port()
    (folder / "manner").write_text("well")
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    for key, value in {
        "FILE_STORE": f"sqlite:///{stores.put(folder / 'mlflow.db')}",
        "ARTIFACT_ROOT": "mlflow-artifacts:/",
        "ARTIFACT_DESTINATION": str(folder / "kept"),
        "SERVE_ARTIFACTS": "true",
    }.items():
        environment[f"_MLFLOW_SERVER_{key}"] = value
    environment["_MLFLOW_STATIC_PREFIX"] = PREFIX
    place = ("--host", "127.0.0.1", "--port", str(behind))
    proxy = [sys.executable, CHECKOUT / "tests" / "proxy.py", str(port), str(behind), folder / "manner", PREFIX]
    command = [sys.executable, "-m", "uvicorn", *place, "mlflow.server.fastapi_app:app"]
    with (
        (folder / "log").open("wb") as log,
        warm.Popen(command, env=environment, stdout=log, stderr=log) as server,
        subprocess.Popen(proxy) as between,
    ):
        try:
            deadline = time.monotonic() + 120
            while not answers(f"http://127.0.0.1:{port}{PREFIX}/health"):
                assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
            assert not answers(f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}{PREFIX}"
        finally:
            between.kill()
            server.kill()


def run_frostline(*arguments, cwd, uri):
    own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT / "src"), "MLFLOW_TRACKING_URI": uri}
    done = warm.run([sys.executable, "-m", "frostline", *arguments], env=own, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_sweep_on_a_server_with_a_path_prefix(server_address, tmp_path):
    from mlflow import MlflowClient

    folder, elsewhere = tmp_path / "here" / "sweep", tmp_path / "elsewhere"
    for place in (tmp_path / "here", elsewhere):
        place.mkdir()
    command = ("-m", "freeze=head", *QUICK, f"hydra.sweep.dir={folder}")
    printed = run_frostline(*command, cwd=folder.parent, uri=f"{server_address}/")
    assert f"See it in MLflow: {server_address}\n" in printed
    results = json.loads((folder / "results.json").read_text())
    client, first = MlflowClient(server_address), results[0]["run_id"]
    run = client.get_run(first)
    assert run.info.status == results[0]["status"] == "FINISHED"
    kept = {file.path for file in client.list_artifacts(first)}
    assert {"best.safetensors", "config.yaml", "metrics.jsonl", "train.log"} <= kept
    folder.rename(tmp_path / "away")  # now only the server has the run
    page = elsewhere / "again.html"
    run_frostline("report", f"runs:/{first}", "-o", str(page), cwd=elsewhere, uri=server_address)
    runs = f"{server_address}/#/experiments/{run.info.experiment_id}/runs"
    assert all(f"{runs}/{result['run_id']}" in page.read_text() for result in results)
    (address,) = run_frostline("ui", "--no-browser", cwd=elsewhere, uri=f"{server_address}/").splitlines()
    assert address.startswith(f"{runs}?")
