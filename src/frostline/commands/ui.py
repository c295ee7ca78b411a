"""Open the MLflow UI on this project's newest experiment, with the columns that matter."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from frostline.commands import Parser
from frostline.core import credentials
from frostline.core.errors import UserError, user_error
from frostline.records import layout
from frostline.tracking import server, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_VIEW = "frostline"
_TAG = f"mlflow.sharedViewState.{_VIEW}"  # MLflow's UI reads it if its address has `viewStateShareKey`
_COLUMNS = (
    "metrics.`best/val_accuracy`",
    "metrics.`test/accuracy`",
    "metrics.`lr`",
    "params.`freeze_mode`",
    "params.`model`",
    "params.`data`",
    "params.`seed`",
    "metrics.`cost/train_seconds`",
)
_LAST_PORT = 2**16 - 1
_START = 300.0  # seconds that MLflow's UI may take to answer: more than a minute beside a sweep on two cores


def main(arguments: list[str]) -> int:
    """Serve the UI until Ctrl-C and return 0; the UI of a tracking server is only opened."""
    parser = Parser("ui", __doc__)
    parser.add_argument("--experiment", help="name of the experiment (default: that of the newest run)")
    parser.add_argument("--uri", help="tracking URI (default: MLFLOW_TRACKING_URI, else the project's own store)")
    parser.add_argument("--port", type=_port, default=5000, help="local port, 0 for any free one (default: 5000)")
    parser.add_argument("--no-browser", action="store_true", help="print the address without opening a browser")
    options = parser.parse_args(arguments)
    uri = tracking_uri.resolved(options.uri)
    experiment = _newest_experiment(uri, options.experiment)
    _set_columns(uri, experiment)
    with contextlib.nullcontext(uri) if tracking_uri.is_server(uri) else _pages(uri, options.port) as base:
        where = _address(base, experiment)
        print(where, flush=True)
        if not options.no_browser:
            webbrowser.open(where)
        if base != uri:
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
    return 0


def _port(text: str) -> int:
    """Parse a port, for `add_argument(type=...)`."""
    if not text.isdecimal() or int(text) > _LAST_PORT:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to {_LAST_PORT}, not {text}")
    return int(text)


def _newest_experiment(uri: str, name: str | None) -> str:
    """Return the id of the experiment `name`, by default of that of the newest run; `UserError` if there is none.

    MLflow changes an experiment's `last_update_time` when the experiment is created or tagged, not with its runs.
    """
    try:
        with server.connected(uri) as client:
            ids = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
            newest = [] if name is not None else _newest_run(client, [*ids.values()])
    except server.Unreachable as problem:
        raise UserError(f"tracking.uri={uri}: expected MLflow to answer ({problem})") from None
    if newest:
        return str(newest[0].info.experiment_id)
    if name in ids:
        return ids[name]
    what = f"an experiment of {uri}" if name is not None else f"an experiment of {uri} with runs of frostline"
    raise user_error("--experiment", name or "(any)", what, [*ids])


def _newest_run(client: MlflowClient, experiments: list[str]) -> list[Run]:
    """Return the frostline run, or sweep, that started last in any of these experiments; empty if there is none."""
    ours = f"tags.`{layout.SWEEP_TAG}` != ''"
    return list(client.search_runs(experiments, ours, order_by=["attributes.start_time DESC"], max_results=1))


def _set_columns(uri: str, experiment_id: str) -> None:
    """Store in a tag of the experiment the columns that its list of runs shows, sorted best first, at `_address`."""
    state = {
        "selectedColumns": list(_COLUMNS),
        "orderByKey": _COLUMNS[0],  # sorted by time, runs would be collapsed below their sweeps
        "orderByAsc": False,
        "searchFilter": "",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "startTime": "ALL",
        "viewMaximized": True,
    }
    with server.connected(uri) as client:
        client.set_experiment_tag(experiment_id, _TAG, json.dumps(state))


def _address(base: str, experiment_id: str) -> str:
    """Return the address of the experiment's runs on the MLflow server at `base`."""
    view = f"viewStateShareKey={_VIEW}&compareRunsMode=TABLE&workflowType=machine_learning"  # not the GenAI menus
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{view}"


@contextmanager
def _pages(uri: str, port: int) -> Iterator[str]:
    """Serve MLflow's UI for the database `uri` on loopback and yield its address; `UserError` if it does not start."""
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": credentials.restored(uri)}  # not on the command line
    port = port or _free_port()
    arguments = ["ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with tempfile.TemporaryFile() as said:
        command = [sys.executable, "-m", "mlflow", *arguments]
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        try:
            if not _answers(process, f"http://127.0.0.1:{port}"):
                if process.poll() is None:
                    raise UserError(f"--port={port}: expected MLflow's UI to answer within {_START:g} seconds")
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines() or ["no answer"]
                raise UserError(f"--port={port}: expected a port on which MLflow's UI can start ({lines[-1]})")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _answers(process: subprocess.Popen[bytes], base: str) -> bool:
    """Wait for the server that `process` starts to answer at `base`; return whether it did within `_START` seconds."""
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{base}/health", timeout=1):
                return process.poll() is None  # another program may answer there
        except OSError:
            time.sleep(0.1)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
