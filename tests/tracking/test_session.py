"""Sessions of tracking: complete records, kills, interrupts, unreachable stores, and concurrent processes."""

from __future__ import annotations

import errno
import json
import logging.config
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import stores
import warm
from frostline.commands import sync as sync_command
from frostline.commands import ui
from frostline.core import files, project
from frostline.core.errors import UserError
from frostline.records import journal, layout, liveness, sweep_record
from frostline.records import recording as recording_module
from frostline.records.recording import now, reason_of, recording
from frostline.records.result import TEST, VAL, Result
from frostline.records.sweep_facts import Tracker
from frostline.records.system_metrics import sampled
from frostline.report import cells
from frostline.sweeps import resume
from frostline.sweeps.past_runs import PastRun
from frostline.tracking import download, pending_sweeps, query, server, session, sync, tracking_uri
from frostline.tracking.pending_sweeps import RecordPlace
from frostline.tracking.sync import SweepMirror

TAGS = {"frostline.sweep": "s", "frostline.digest": "d" * 64}


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("project with a space")


@pytest.fixture(scope="session")
def tracker(root) -> Tracker:
    """Return a sweep in the project's default store, which all tests of this file share."""
    (root / "mlruns").mkdir()
    stores.put(root / "mlruns" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(project, "project_root", lambda: root)
        (root / "sweep").mkdir()
        return open_sweep(tracking_uri.resolved(None), folder=root / "sweep")


def open_sweep(uri: str, *, folder: Path, experiment: str = "demo", **options) -> Tracker:
    liveness.write(folder / layout.OWNER)  # else the threads of other sweeps may take it for abandoned and end it
    return session.open_sweep(RecordPlace(uri, experiment), folder=folder, **{"name": "sweep", "tags": TAGS} | options)


@pytest.fixture
def folder(tracker, request) -> Path:
    """Return the folder of a run in the sweep."""
    path = Path(tracker.folder) / re.sub(r"\W+", "-", request.node.name)
    path.mkdir()
    return path


def up_to_date(tracker) -> bool:
    """Wait as `close_sweep` does, and return whether MLflow has everything written so far."""
    patience, limit = session._CLOSE
    return session._threads[tracker.folder].complete(patience=patience, limit=limit)


def mirrored(tracker, folder) -> str:
    """Wait until MLflow has the whole run and return its MLflow id."""
    assert up_to_date(tracker)
    return journal.run_id(folder)


@pytest.fixture(scope="session")
def client(tracker) -> MlflowClient:
    return MlflowClient(tracker.uri)


def test_run_is_recorded_completely(tracker, client, folder):
    file = folder / "config.yaml"
    file.write_text("lr: 0.001\n")
    params = {f"data.options.{i}": i for i in range(230)} | {"lr": 0.001, "long": "x" * 9000, "nothing": None}
    with recording(folder, name="full lr=0.001", tags=TAGS, params=params) as record:
        record.dataset(name="digits", source="digits", digest="f" * 64, images={"train": 1078, "val": 359, "test": 360})
        for epoch in (1, 2):
            record.metrics({"train/loss": 1 / epoch, "val/accuracy": 0.5}, epoch)
        record.metrics({"test/accuracy": 0.75, "test/loss": float("inf")})
        record.tag("frostline.source", "abc")
        record.artifact(file)
        record.artifact(file, "inner")
    run = client.get_run(mirrored(tracker, folder))
    assert journal.run_id(folder) == run.info.run_id
    assert run.info.status == "FINISHED" and run.info.run_name == "full lr=0.001"
    assert (
        run.data.tags.items()
        >= (TAGS | {"mlflow.parentRunId": tracker.sweep_run_id, "frostline.source": "abc"}).items()
    )
    assert len(run.data.params) == 233
    assert (run.data.params["lr"], len(run.data.params["long"])) == ("0.001", 6000)
    losses = client.get_metric_history(journal.run_id(folder), "train/loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 1.0), (2, 0.5)]
    assert (run.data.metrics["test/accuracy"], run.data.metrics["lr"]) == (0.75, 0.001)
    assert run.data.metrics["test/loss"] != run.data.metrics["test/loss"]
    contexts = {item.dataset.name: item.tags[0].value for item in run.inputs.dataset_inputs}
    assert contexts == {"digits train": "training", "digits val": "validation", "digits test": "testing"}
    assert {item.path for item in client.list_artifacts(journal.run_id(folder))} == {"config.yaml", "inner"}


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("loss is nan\nin epoch 1"), "FAILED", "ValueError: loss is nan in epoch 1"),
        (UserError("lr=nan: expected a number"), "FAILED", "lr=nan: expected a number"),
        (SystemExit(3), "FAILED", "SystemExit: 3"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        (RuntimeError("x" * 9000), "FAILED", f"RuntimeError: {'x' * 486}"),
    ],
)
def test_failed_run_records_its_reason_and_reraises(tracker, client, error, status, reason):
    folder = Path(tempfile.mkdtemp(dir=tracker.folder))
    with pytest.raises(type(error)), recording(folder, name="run", tags={}, params={}):
        raise error
    run = client.get_run(mirrored(tracker, folder))
    assert (run.info.status, run.data.tags["frostline.reason"]) == (status, reason)
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith(f"{reason}\n\n") and "the sweep's command again" in note
    assert (f"`train.log` of its folder, `{folder}`" in note) == (status == "FAILED")
    with recording(folder, name="run", tags={}, params={}):
        pass
    tags = client.get_run(mirrored(tracker, folder)).data.tags
    assert (tags["frostline.reason"], tags["mlflow.note.content"]) == ("", "")


def test_artifact_is_fetched_only_within_its_run(tracker, folder, tmp_path):
    (folder / "model.safetensors").write_bytes(b"weights")
    with recording(folder, name="run", tags={}, params={}) as record:
        record.artifact(folder / "model.safetensors", "best")
    mirrored(tracker, folder)
    name = "best/model.safetensors"
    fetched = download.fetch_artifact(tracker.uri, journal.run_id(folder), name, tmp_path / "got")
    assert fetched.read_bytes() == b"weights" and fetched.is_relative_to(tmp_path / "got")
    for run_id, path in [
        (journal.run_id(folder), "../best/model.safetensors"),
        (journal.run_id(folder), "/etc/hostname"),
        (journal.run_id(folder), "best"),
        (journal.run_id(folder), "missing.safetensors"),
        ("0" * 32, name),
        ("../../x", name),
    ]:
        with pytest.raises(UserError, match=r"^model\.weights=runs:/") as caught:
            download.fetch_artifact(tracker.uri, run_id, path, tmp_path / "other")
        assert "\n" not in str(caught.value)


# A job in another process: it opens its own sweep in a new store, writes a metric, and is killed.
JOB = """
import logging, os, sys
from pathlib import Path
from frostline.core import project
from frostline.records.recording import recording
from frostline.tracking import server, session, tracking_uri
from frostline.tracking.pending_sweeps import RecordPlace
logging.basicConfig(level=logging.INFO)
root = Path(sys.argv[1])
folder = root / sys.argv[2]
(folder / "0").mkdir(parents=True)
project.project_root = lambda: root
tracker = session.open_sweep(RecordPlace(tracking_uri.resolved(None), "demo"), folder=folder, name=sys.argv[2], tags={})
with recording(folder / "0", name="run", tags={}, params={}) as record:
    record.metrics({"train/loss": 1.0}, 1)
    print(tracker.experiment_id, tracker.sweep_run_id, flush=True)
    os._exit(0)
"""


@pytest.mark.slow
def test_concurrent_first_sweeps_succeed_and_survive_a_kill(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    commands = [[sys.executable, "-c", JOB, str(tmp_path), str(job)] for job in range(3)]
    with ThreadPoolExecutor() as threads:
        printed = [(job.stdout, job.stderr) for job in threads.map(partial(warm.run, env=environment), commands)]
    assert [err for _, err in printed] == ["", "", ""], "creating the store printed something"
    rows = [out.split() for out, _ in printed]
    assert len({experiment for experiment, _ in rows}) == 1
    uri = f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}"
    client = MlflowClient(uri)
    assert len(pending_sweeps.remembered(uri)) == 3
    for folder in pending_sweeps.remembered(uri):
        assert sync.complete(SweepMirror(folder, pending_sweeps.place_of(folder)))
        sweep, run = client.get_run(journal.run_id(folder)), client.get_run(journal.run_id(folder / "0"))
        assert run.data.metrics == {"train/loss": 1.0}
        assert run.data.tags["mlflow.parentRunId"] == sweep.info.run_id
        assert (sweep.info.status, run.info.status) == ("KILLED", "KILLED")
    assert {journal.run_id(tmp_path / str(job)) for job in range(3)} == {sweep for _, sweep in rows}
    assert len(client.search_runs([rows[0][0]])) == 6
    assert pending_sweeps.remembered(uri) == []


def test_closed_sweep_has_a_summary_and_no_open_run(tracker, client, tmp_path):
    (tmp_path / "0").mkdir()
    other = open_sweep(tracker.uri, folder=tmp_path)
    journal.append(tmp_path / "0", "run", uid="0", name="lost", tags={}, time=now())
    choices, metrics = {"data": "d", "seed": 0}, {VAL: 0.5, TEST: 0.25, "cost/train_seconds": 2.0}
    lost = choices | {"freeze_mode": "full", "lr": 0.1}
    results = [Result(0, "lost", "0", None, "KILLED", "the process died", lost, {})]
    for number, (mode, lr, val) in enumerate([("head", 0.1, 0.5), ("head", 0.2, 0.75), ("full", 0.1, 0.5)], 1):
        own = choices | {"freeze_mode": mode, "lr": lr}
        results.append(Result(number, "x", "x", None, "FINISHED", None, own, metrics | {VAL: val}))
    best = {"metrics": cells.metrics(results), "tags": cells.tags(results)}
    session.close_sweep(other, status="FAILED", description="# Nothing won", results=results, **best)
    closed = client.get_run(other.sweep_run_id)
    assert (closed.info.status, closed.data.tags["mlflow.note.content"]) == ("FAILED", "# Nothing won")
    assert [item.path for item in client.list_artifacts(other.sweep_run_id)] == ["results.json"]
    assert (closed.data.metrics["head/val_accuracy"], closed.data.metrics["head/lr"]) == (0.75, 0.2)
    assert (closed.data.metrics["full/test_accuracy"], closed.data.metrics["full/train_seconds"]) == (0.25, 2.0)
    assert "lr=0.2" in closed.data.tags["frostline.best.head"]
    assert client.get_run(journal.run_id(tmp_path / "0")).info.status == "KILLED"
    assert pending_sweeps.remembered(tracker.uri) == [Path(tracker.folder).resolve()]


def test_interrupted_sweep_is_killed_in_mlflow(tracker, client, tmp_path, monkeypatch):
    for name, moment in (("open", "complete"), ("runs", None)):
        (sweep := tmp_path / name).mkdir()
        (sweep / "0").mkdir()

        def interrupted(*_, **__):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), session.ended_in_any_case(sweep), monkeypatch.context() as patch:
            if moment:
                patch.setattr(session.MirrorThread, moment, interrupted)
            open_sweep(tracker.uri, folder=sweep, experiment="hasty")
            journal.append(sweep / "0", "run", uid="lost", name="lost", tags={}, time=now())
            interrupted()
        assert journal.ended(sweep) and str(sweep) not in session._threads
        assert client.get_run(journal.run_id(sweep)).info.status == "KILLED"
    assert client.get_run(journal.run_id(sweep / "0")).info.status == "KILLED"
    assert not {tmp_path / "open", tmp_path / "runs"} & {*pending_sweeps.remembered(tracker.uri)}
    with pytest.raises(KeyboardInterrupt), session.ended_in_any_case(tmp_path / "never"):
        raise KeyboardInterrupt


def test_folder_of_artifacts_is_listed_where_mlflow_knows_no_logged_models(tracker, folder, monkeypatch):
    """Servers older than MLflow 3 answer 404 to any question about logged models."""

    def unknown(*about, **more):
        raise MlflowException("API request to endpoint /api/2.0/mlflow/logged-models/search failed with error code 404")

    with recording(folder, name="run", tags={}, params={}) as record:
        (file := folder / "config.yaml").write_text("lr: 0.1")
        record.artifact(file, "inner")
    monkeypatch.setattr(MlflowClient, "search_logged_models", unknown)
    assert download.files(tracker.uri, mirrored(tracker, folder), "inner") == {"inner/config.yaml": len("lr: 0.1")}


def test_error_fails_a_sweep_unless_runs_continue(tracker, client, tmp_path, monkeypatch):
    for name, alive in (("over", []), ("going on", [tmp_path])):
        (sweep := tmp_path / name).mkdir()
        monkeypatch.setattr(session.run_folders, "going_on", lambda folder, alive=alive: alive)
        with pytest.raises(OSError, match="full"), session.ended_in_any_case(sweep):
            opened = open_sweep(tracker.uri, folder=sweep, experiment="hasty")
            raise OSError("full")
        assert journal.ended(sweep) != bool(alive)
        session.flush(opened)
        assert client.get_run(journal.run_id(sweep)).info.status == ("RUNNING" if alive else "FAILED")
        session._threads.pop(str(sweep), None)


def test_import_loads_neither_mlflow_nor_torch():
    heavy = ("mlflow", "torch", "sqlalchemy")
    code = f"import sys, frostline.tracking.session; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


SMALL_SWEEP = """
import sys
from pathlib import Path
from frostline.records.recording import recording
from frostline.tracking import session
from frostline.tracking.pending_sweeps import RecordPlace
root = Path(sys.argv[1])
folder, run = root / "sweep", root / "sweep" / "0"
run.mkdir(parents=True)
uri = f"sqlite:///{root}/mlflow.db"
tracker = session.open_sweep(RecordPlace(uri, "demo"), folder=folder, name="sweep", tags={})
with recording(run, name="run", tags={}, params={"lr": 0.1}) as record:
    record.dataset(name="digits", source="digits", digest="f" * 64, images={"train": 10})
    record.metrics({"train/loss": 0.5}, 1)
    (run / "config.yaml").write_text("lr: 0.1")
    record.artifact(run / "config.yaml")
session.close_sweep(tracker, status="FINISHED", description="", results=[])
print(*{"mlflow", "numpy", "pandas", "pyarrow", "pygments", "scipy", "sklearn", "torch"} & set(sys.modules))
import pandas
"""


@pytest.mark.slow
def test_sweep_process_loads_no_model_libraries(tmp_path):
    stores.put(tmp_path / "mlflow.db")
    command = [sys.executable, "-c", SMALL_SWEEP, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mlflow"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run(journal.run_id(tmp_path / "sweep" / "0"))
    assert (run.info.status, run.data.params["lr"], run.data.metrics["train/loss"]) == ("FINISHED", "0.1", 0.5)
    assert [item.dataset.name for item in run.inputs.dataset_inputs] == ["digits train"]
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["config.yaml"]


def test_unreachable_server_does_not_leak_its_password(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    uri = tracking_uri.resolved(None)
    messages: list[str] = []
    tracker = open_sweep(uri, folder=tmp_path, say=messages.append)
    session.close_sweep(tracker, status="FINISHED", description="", results=[], say=messages.append)
    assert [line.partition(" (")[0] for line in messages] == [
        "MLflow does not have the record yet",
        "MLflow does not have the whole record yet",
    ]
    assert "127.0.0.1" in messages[0] and "hunter2" not in "".join(messages)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or "hunter2" not in file.read_text()


def test_ui_command_is_short_for_the_default_store(tracker, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert session.ui_command(tracker.uri) == f"python -m frostline ui --uri '{tracker.uri}'"
    assert session.ui_command(tracking_uri.resolved(None)) == "python -m frostline ui"
    assert session.ui_command("http://server:5000") == "http://server:5000"


def test_deleted_experiment_names_the_restore_command(tracker, client, tmp_path):
    """MLflow's command looks into another store unless it is told."""
    client.delete_experiment(client.create_experiment("gone"))
    told = re.escape(f"`MLFLOW_TRACKING_URI={shlex.quote(tracker.uri)} mlflow experiments restore -x ")
    with pytest.raises(UserError, match=rf"^experiment_name=gone: .*{told}\d+`"):
        open_sweep(tracker.uri, folder=tmp_path, experiment="gone")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../../escape", "..", "a/b c", "ünï %41"])
def test_artifacts_stay_in_the_project_for_any_experiment_name(tracker, client, root, tmp_path, name):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "kept.txt").write_text("x")
    for number, half in enumerate(("", "{", "[]", "{}")):  # files that another process is still writing
        (root / "mlruns" / "pending" / f"{number}.json").write_text(half)
    other = open_sweep(tracker.uri, folder=tmp_path, experiment=name)
    with recording(tmp_path / "0", name="run", tags={}, params={}) as record:
        record.artifact(tmp_path / "0" / "kept.txt")
    session.close_sweep(other, status="FINISHED", description="", results=[])
    (kept,) = (root / "mlruns" / "artifacts").glob(f"*/{journal.run_id(tmp_path / '0')}/artifacts/kept.txt")
    assert kept.is_file()


def test_unreadable_pending_sweep_does_not_stop_others(tmp_path, monkeypatch, capsys):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for name in ("own", "closed"):
        (tmp_path / name).mkdir()
        journal.append(tmp_path / name, "run", uid=name, tags={}, uri=uri, experiment="e")
        pending_sweeps.remember(tmp_path / name, pending_sweeps.RecordPlace(uri, "e"))
    (tmp_path / "pending" / "long.json").write_text(
        json.dumps({"store": tracking_uri.name(uri), "folder": f"/home/{'a' * 5000}"})
    )
    assert pending_sweeps.remembered(uri) == [tmp_path / "closed", tmp_path / "own"]

    def complete(sweep):
        if sweep.folder.name == "closed":
            raise PermissionError(13, "Permission denied", "lock")
        return True

    monkeypatch.setattr(sync, "complete", complete)
    assert sync_command.main(["--uri", uri]) == 1
    printed = capsys.readouterr().out
    assert "closed: still pending, lock: Permission denied" in printed and "own: complete" in printed


def test_unwritable_pending_register_does_not_stop_a_sweep(tmp_path):
    (tmp_path / "pending" / "planning.lock").mkdir(parents=True)  # a folder, which not even root can open as a file
    with pending_sweeps.planning(f"sqlite:///{tmp_path}/mlflow.db"):
        pass


@pytest.mark.parametrize("value", [float("nan"), 1e308, -1.0])
def test_invalid_accuracy_in_mlflow_is_ignored(tracker, client, tmp_path, value):
    run = client.create_run(tracker.experiment_id, tags={layout.REASON_TAG: ""})
    for key, number in (("test/accuracy", value), ("best/val_accuracy", 0.5), ("test/loss", 2.0)):
        client.log_metric(run.info.run_id, key, number)
    (found,) = query.results(tracker.uri, run.info.run_id)
    assert found.metrics == {"best/val_accuracy": 0.5, "test/loss": 2.0} and found.reason is None


@pytest.mark.parametrize("content", ["", "[1]", '[{"name": "head"}]'])
def test_finished_run_without_accuracy_in_mlflow_is_killed(tracker, client, tmp_path, content):
    parent = client.create_run(tracker.experiment_id).info.run_id
    (tmp_path / layout.RESULTS).write_text(content)
    client.log_artifact(parent, tmp_path / layout.RESULTS)
    for number, metrics in enumerate(({VAL: 0.5, TEST: 0.25}, {VAL: 0.5, TEST: 57.9}), 1):
        run = client.create_run(tracker.experiment_id, number, {layout.PARENT_TAG: parent}, f"head seed={number}")
        for key, value in metrics.items():
            client.log_metric(run.info.run_id, key, value)
        client.set_terminated(run.info.run_id, "FINISHED")
    whole, lacking = sweep_record.read(download.sweep(tracker.uri, parent, tmp_path / "fetched")).results
    assert whole.status == "FINISHED" and whole.metrics == {VAL: 0.5, TEST: 0.25}
    assert lacking.status == "KILLED" and lacking.metrics == {VAL: 0.5}
    assert lacking.reason == "it finished, but MLflow has no valid test/accuracy"


def test_sweep_without_results_in_mlflow_has_the_choices_that_it_stated(tracker, client, tmp_path):
    """As after a sweep that was killed: MLflow has all keys of each run, as text."""
    parent = client.create_run(tracker.experiment_id).info.run_id
    of_modes = {"head": {"optimizer": "adam"}, "probe": {}}
    for mode, seed in (("head", 0), ("head", 1), ("probe", 0)):
        run = client.create_run(tracker.experiment_id, seed, {layout.PARENT_TAG: parent}, f"{mode} seed={seed}")
        rules = {"freeze_mode.phases": f"[{{'of': '{mode}'}}]", "data.fraction": str(0.5 + seed)}
        params = {"freeze_mode": mode, "data": "007", "seed": str(seed), "epochs": "3", "model.weights": "None"}
        for key, text in {**params, **rules, **of_modes[mode]}.items():
            client.log_param(run.info.run_id, key, text)
    found = sweep_record.read(download.sweep(tracker.uri, parent, tmp_path / "fetched")).results
    same = {"data": "007", "model.weights": "null"}
    assert sorted((one.choices for one in found), key=repr) == [
        {"freeze_mode": "head", "optimizer": "adam", "seed": 0, "data.fraction": 0.5, **same},
        {"freeze_mode": "head", "optimizer": "adam", "seed": 1, "data.fraction": 1.5, **same},
        {"freeze_mode": "probe", "seed": 0, "data.fraction": 0.5, **same},
    ]


def test_fetched_files_of_a_run_include_its_adapters(tracker, client, tmp_path):
    run = client.create_run(tracker.experiment_id).info.run_id
    (tmp_path / "file").write_text("x")
    for name, inside in ((layout.CONFIG, None), (layout.BEST, None), ("adapter_config.json", layout.ADAPTER)):
        client.log_artifact(run, (tmp_path / "file").rename(tmp_path / name), inside)
        (tmp_path / "file").write_text("x")
    (fetched := tmp_path / "fetched").mkdir()
    download.fetch_files(tracker.uri, run, fetched, but=[layout.BEST])
    files = {str(path.relative_to(fetched)) for path in fetched.rglob("*") if path.is_file()}
    assert files == {layout.CONFIG, f"{layout.ADAPTER}/adapter_config.json"}


def test_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "broken.db").write_bytes(b"not a database" * 100)
    uri = tracking_uri.resolved(f"sqlite:///{tmp_path}/broken.db")
    with pytest.raises(UserError, match=r"^tracking\.uri=.*not a database") as caught:
        open_sweep(uri, folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert pending_sweeps.remembered(uri) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "sqlite:///locked.db", "sqlite:///file/x.db"])
def test_unreachable_store_is_reported_and_the_record_waits(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "_BUSY", 0.1)
    (tmp_path / "file").write_text("in the way")
    with closing(sqlite3.connect(tmp_path / "locked.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        uri = tracking_uri.resolved(address)
        (sweep := tmp_path / "sweep").mkdir()
        messages: list[str] = []
        tracker = open_sweep(uri, folder=sweep, say=messages.append)
        (sweep / "0").mkdir()
        with recording(sweep / "0", name="run", tags={}, params={}) as record:
            record.metrics({"train/loss": 1.0}, 1)
        assert journal.run_id(sweep / "0") is None and tracker.sweep_run_id is None
        session.close_sweep(tracker, status="FINISHED", description="", results=[], say=messages.append)
    later = f"the next sweep with the same tracking URI sends the rest, or `python -m frostline sync {sweep}`"
    assert len(messages) == 2 and messages[1].endswith(later) and "\n" not in "".join(messages)
    assert any(cause in messages[0] for cause in ("refused", "locked", "File exists", "Not a directory")), messages[0]


def test_full_disk_of_a_sweep_is_not_called_an_unavailable_mlflow(tracker, tmp_path, monkeypatch):
    write = files.write

    def full(path, content, **how):
        if path.name == layout.MIRRORED:
            with files.naming(path):
                raise OSError(errno.ENOSPC, "No space left on device") from OSError(errno.ENOSPC, "the same, unnamed")
        write(path, content, **how)

    monkeypatch.setattr(files, "write", full)
    messages: list[str] = []
    (sweep := tmp_path / "sweep").mkdir()
    open_sweep(tracker.uri, folder=sweep, say=messages.append)
    session._break_off(sweep, "KILLED")
    why = f"{sweep / layout.MIRRORED}: No space left on device"
    assert messages == [f"MLflow does not have the record yet ({why}): it is kept in {sweep}, and sent later"]


def test_running_runs_can_be_found_and_ended(tracker, client, folder):
    with recording(folder, name="run", tags={"host": "far"}, params={}):
        run_id = mirrored(tracker, folder)
        running = dict(query.running(tracker.uri, "demo"))
        assert running[run_id]["host"] == "far" and tracker.sweep_run_id in running
        query.end(tracker.uri, run_id, "KILLED", "no sign of life")
        assert run_id not in dict(query.running(tracker.uri, "demo"))
        assert client.get_run(run_id).data.tags["frostline.reason"] == "no sign of life"
    assert client.get_run(mirrored(tracker, folder)).info.status == "FINISHED"
    assert query.running(tracker.uri, "never used") == []


def test_run_killed_on_another_machine_has_no_holder(tracker, folder, monkeypatch):
    elsewhere = liveness.Owner("me", "far", "another boot", 1, time.time())
    with recording(folder, name="run", tags=elsewhere.tags(), params={}):
        run_id = mirrored(tracker, folder)
        past = PastRun(run_id, "RUNNING", dict(query.running(tracker.uri, "demo"))[run_id])
        assert past.holder is not None
        monkeypatch.setattr(liveness, "SILENT", -1.0)  # as after a long time
        assert past.holder is None


def test_system_metrics_are_sampled_if_enabled(tracker, client, folder):
    with recording(folder, name="run", tags={}, params={}) as record:
        with sampled(record, on=False, device="cpu", every=0.01):
            assert "system" not in (folder / layout.RECORD).read_text()
        with sampled(record, on=True, device="cpu", every=0.01):
            while (folder / layout.RECORD).read_text().count("system/cpu") < 3:
                record.metrics({"train/loss": 1.0})
    metrics = client.get_run(mirrored(tracker, folder)).data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0
    assert len(list(journal.entries(folder))) == len((folder / layout.RECORD).read_text().splitlines())


def test_ui_opens_newest_experiment_with_chosen_columns(tracker, client):
    experiment = ui._newest_experiment(tracker.uri, "demo")
    assert experiment == tracker.experiment_id
    assert ui._newest_experiment(tracker.uri, None) != "0"
    ui._set_columns(tracker.uri, experiment)
    state = json.loads(client.get_experiment(experiment).tags["mlflow.sharedViewState.frostline"])
    assert {"metrics.`test/accuracy`", "params.`freeze_mode`", "metrics.`lr`"} <= set(state["selectedColumns"])
    assert ui._address("http://h:1/", "7").startswith("http://h:1/#/experiments/7/runs?viewStateShareKey=frostline")
    with pytest.raises(UserError, match=r"^--experiment=demmo: .*did you mean demo\?"):
        ui._newest_experiment(tracker.uri, "demmo")


def test_ui_opens_experiment_of_the_newest_run(tracker, client):
    """MLflow's `last_update_time` of an experiment does not change with a run in it."""
    later = int(1000 * time.time()) + 60_000
    for after, tags in ((1, {"frostline.sweep": "s"}), (2, {})):
        client.create_run(client.create_experiment(f"later {after}"), start_time=later + after, tags=tags)
    client.set_experiment_tag(tracker.experiment_id, "touched", "now")
    assert ui._newest_experiment(tracker.uri, None) == client.get_experiment_by_name("later 1").experiment_id


def test_slow_ui_start_is_not_called_a_wrong_port(tracker, monkeypatch):
    def never_answers(command, **options):
        return popen([sys.executable, "-c", "import time; time.sleep(60)"], **options)

    popen = subprocess.Popen
    monkeypatch.setattr(ui, "_START", 0.2)
    monkeypatch.setattr(ui.subprocess, "Popen", never_answers)
    said = r"^--port=\d+: expected MLflow's UI to answer within 0.2 seconds$"
    with pytest.raises(UserError, match=said), ui._pages(tracker.uri, 0):
        pass


def test_resumed_sweep_and_run_keep_their_mlflow_runs(tracker, client, tmp_path):
    (tmp_path / "0").mkdir()
    statuses = []
    for epoch, tags in ((1, {"try": "first"}), (2, {"try": "second"})):
        sweep = open_sweep(tracker.uri, folder=tmp_path, tags=tags)
        with recording(tmp_path / "0", name="run", tags=tags, params={"a": 1}) as record:
            assert up_to_date(sweep)
            statuses += [
                client.get_run(run_id).info.status for run_id in (sweep.sweep_run_id, journal.run_id(tmp_path / "0"))
            ]
            record.metrics({"train/loss": 0.5}, 1)
            record.metrics({"train/loss": 0.25}, epoch + 1)
        session.close_sweep(sweep, status="FINISHED", description="", results=[])
    assert statuses == ["RUNNING"] * 4
    runs = [client.get_run(run_id) for run_id in (sweep.sweep_run_id, journal.run_id(tmp_path / "0"))]
    assert [(run.info.status, run.data.tags["try"]) for run in runs] == [("FINISHED", "second")] * 2
    assert [point.step for point in client.get_metric_history(journal.run_id(tmp_path / "0"), "train/loss")] == [
        1,
        2,
        3,
    ]


@pytest.mark.slow
def test_half_created_store_is_created_again(tmp_path):
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "mlflow.db.new.0").write_bytes(b"half of a database")
    (tmp_path / "mlflow.db.new.0-journal").write_bytes(b"and of its journal")
    assert server.experiment(f"sqlite:///{tmp_path}/mlflow.db", "demo")
    assert not [*tmp_path.glob("mlflow.db.new*")]


def test_store_that_had_no_room_is_created_by_the_same_process_later(tmp_path, monkeypatch):
    """MLflow keeps its connection to a file, by name: it would write into the one that was removed."""
    tried = []

    class FullAtFirst:
        def __init__(self, uri):
            tried.append(uri)
            Path(uri.removeprefix("sqlite:///")).write_bytes(b"half")
            if len(tried) == 1 or uri in tried[:-1]:
                raise sqlite3.OperationalError("database or disk is full")

        def search_experiments(self, max_results): ...

    monkeypatch.setattr("mlflow.MlflowClient", FullAtFirst)
    with pytest.raises(sqlite3.OperationalError):
        server._create(tmp_path / "mlflow.db")
    server._create(tmp_path / "mlflow.db")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    assert (tmp_path / "mlflow.db").read_bytes() == b"half"


def test_reason_of_a_failed_run_names_the_full_disk_behind_it(tmp_path):
    """Hydra opens a run's log first."""
    handlers = {"file": {"class": "logging.FileHandler", "filename": str(tmp_path / "missing" / "train.log")}}
    with pytest.raises(ValueError, match="Unable to configure handler") as caught:
        logging.config.dictConfig({"version": 1, "handlers": handlers})
    reason = reason_of(caught.value)
    assert reason.startswith("ValueError: Unable to configure handler 'file': [Errno 2] No such file or directory: ")
    assert "train.log" in reason


def test_unmirrored_run_is_resumed_as_its_journals_run(tracker, tmp_path):
    """Otherwise the resuming sweep would record it once, and the journal of the killed sweep once more."""
    dead, run = tmp_path / "dead", tmp_path / "dead" / "0"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    facts = {"name": "n", "tags": {}, "time": 0}
    place = {"uri": tracker.uri, "experiment": "demo"}
    journal.append(dead, "run", sync=True, uid="a" * 32, **place, **facts)
    journal.append(run, "run", sync=True, uid="b" * 32, **facts)
    left = PastRun(None, "RUNNING", {layout.FOLDER_TAG: str(run)})
    named = resume.with_run_id(left, tracker.uri)
    assert re.fullmatch("[0-9a-f]{32}", named.run_id)
    assert named.run_id == journal.run_id(run) == resume.with_run_id(left, tracker.uri).run_id
    client = MlflowClient(tracker.uri)
    found = client.search_runs([tracker.experiment_id], f"tags.`frostline.uid` = '{'b' * 32}'")
    assert [one.info.run_id for one in found] == [named.run_id]


def test_journal_without_its_first_line_starts_again(tmp_path):
    """After a folder was removed during its run, its new journal has only later lines, none of which names a run."""
    folder = tmp_path / "0"
    folder.mkdir()
    journal.append(folder, "metrics", step=3, time=now(), values={"val/loss": 1.0})
    with recording(folder, name="run", tags={}, params={}):
        pass
    assert journal.uid(folder) is not None


def test_recorded_times_never_decrease(monkeypatch):
    times = iter([1000.0, 900.0, 1001.0])
    monkeypatch.setattr(recording_module, "_latest", 0)
    monkeypatch.setattr(recording_module.time, "time", lambda: next(times))
    assert [now() for _ in range(3)] == [1_000_000, 1_000_000, 1_001_000]


@pytest.mark.slow
def test_reading_does_not_create_a_store(tmp_path):
    """An interrupted creation, as on a full disk, is repeated only under the lock, not by a reader."""
    with pytest.raises(server.Unreachable, match="nothing has been recorded there"):
        server.client_of(f"sqlite:///{tmp_path}/mlflow.db")
    assert (tmp_path / "mlflow.db").stat().st_size == 0
    assert server.experiment(f"sqlite:///{tmp_path}/mlflow.db", "e")
