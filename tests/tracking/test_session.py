"""The record is complete, survives a kill, never leaks a password, and any number of processes may start it at once."""

from __future__ import annotations

import json
import os
import re
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

import stores
import warm
from frostline.commands import sync as sync_command
from frostline.commands import ui
from frostline.core.errors import UserError
from frostline.records import journal, layout, liveness, sweep_record
from frostline.records import recording as recording_module
from frostline.records.recording import now, recording
from frostline.records.result import TEST, VAL, Result
from frostline.records.sweep_record import Tracker
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
    """Return a sweep in the one store of this file, which is the project's own."""
    (root / "mlruns").mkdir()
    stores.put(root / "mlruns" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        uri = tracking_uri.resolved(None, root)
    (root / "sweep").mkdir()
    return open_sweep(uri, root=root, folder=root / "sweep")


def open_sweep(uri: str, *, root: Path, experiment: str = "demo", **options) -> Tracker:
    return session.open_sweep(RecordPlace(uri, root, experiment), **{"name": "sweep", "tags": TAGS} | options)


@pytest.fixture
def folder(tracker, request) -> Path:
    """Return a run's folder in the sweep."""
    path = Path(tracker.folder) / re.sub(r"\W+", "-", request.node.name)
    path.mkdir()
    return path


def up_to_date(tracker) -> bool:
    """Return whether MLflow has all that was written so far, waiting for it as `close_sweep` does."""
    patience, limit = session._CLOSE
    return session._threads[tracker.folder].complete(patience=patience, limit=limit)


def mirrored(tracker, folder) -> str:
    """Return MLflow's id of a run, once MLflow has all of it."""
    assert up_to_date(tracker)
    return journal.run_id(folder)


@pytest.fixture(scope="session")
def client(tracker) -> MlflowClient:
    return MlflowClient(tracker.uri)


def test_a_run_is_recorded_in_full(tracker, client, folder):
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
    ("error", "status", "why"),
    [
        (ValueError("loss is nan\nin epoch 1"), "FAILED", "ValueError: loss is nan in epoch 1"),
        (UserError("lr=nan: expected a number"), "FAILED", "lr=nan: expected a number"),
        (SystemExit(3), "FAILED", "SystemExit: 3"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        (RuntimeError("x" * 9000), "FAILED", f"RuntimeError: {'x' * 486}"),
    ],
)
def test_a_run_that_ends_early_says_so_and_the_error_goes_on(tracker, client, error, status, why):
    folder = Path(tempfile.mkdtemp(dir=tracker.folder))
    with pytest.raises(type(error)), recording(folder, name="run", tags={}, params={}):
        raise error
    run = client.get_run(mirrored(tracker, folder))
    assert (run.info.status, run.data.tags["frostline.reason"]) == (status, why)
    said = run.data.tags["mlflow.note.content"]
    assert said.startswith(f"{why}\n\n") and "the sweep's command again" in said
    assert (f"`train.log` of its folder, `{folder}`" in said) == (status == "FAILED")
    with recording(folder, name="run", tags={}, params={}):
        pass
    tags = client.get_run(mirrored(tracker, folder)).data.tags
    assert (tags["frostline.reason"], tags["mlflow.note.content"]) == ("", "")


def test_an_artifact_can_be_fetched_and_nothing_outside_the_folder_is_touched(tracker, folder, tmp_path):
    (folder / "model.safetensors").write_bytes(b"weights")
    with recording(folder, name="run", tags={}, params={}) as record:
        record.artifact(folder / "model.safetensors", "best")
    mirrored(tracker, folder)
    name = "best/model.safetensors"
    fetched = download.fetch_artifact(tracker.uri, journal.run_id(folder), name, tmp_path / "got")
    assert fetched.read_bytes() == b"weights" and fetched.is_relative_to(tmp_path / "got")
    for run_id, wanted in [
        (journal.run_id(folder), "../best/model.safetensors"),
        (journal.run_id(folder), "/etc/hostname"),
        (journal.run_id(folder), "best"),
        (journal.run_id(folder), "missing.safetensors"),
        ("0" * 32, name),
        ("../../x", name),
    ]:
        with pytest.raises(UserError, match=r"^model\.weights=runs:/") as caught:
            download.fetch_artifact(tracker.uri, run_id, wanted, tmp_path / "other")
        assert "\n" not in str(caught.value)


# What a job of another process does here: open its own sweep in a fresh store, write one metric, and be killed.
JOB = """
import logging, os, sys
from pathlib import Path
from frostline.records.recording import recording
from frostline.tracking import server, session, tracking_uri
from frostline.tracking.pending_sweeps import RecordPlace
logging.basicConfig(level=logging.INFO)
root = Path(sys.argv[1])
folder = root / sys.argv[2]
(folder / "0").mkdir(parents=True)
uri = tracking_uri.resolved(None, root)
tracker = session.open_sweep(RecordPlace(uri, root, "demo"), folder=folder, name=sys.argv[2], tags={})
with recording(folder / "0", name="run", tags={}, params={}) as record:
    record.metrics({"train/loss": 1.0}, 1)
    print(tracker.experiment_id, tracker.sweep_run_id, flush=True)
    os._exit(0)
"""


@pytest.mark.slow
def test_processes_that_open_a_fresh_store_at_once_all_succeed_and_a_kill_loses_nothing(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    commands = [[sys.executable, "-c", JOB, str(tmp_path), str(job)] for job in range(3)]
    with ThreadPoolExecutor() as threads:
        said = [(job.stdout, job.stderr) for job in threads.map(partial(warm.run, env=environment), commands)]
    assert [err for _, err in said] == ["", "", ""], "creating the store leaves the screen clean"
    rows = [out.split() for out, _ in said]
    assert len({experiment for experiment, _ in rows}) == 1
    uri = f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}"
    client = MlflowClient(uri)
    assert len(pending_sweeps.remembered(uri, tmp_path)) == 3
    for folder in pending_sweeps.remembered(uri, tmp_path):
        assert sync.complete(SweepMirror(folder, pending_sweeps.place_of(folder, tmp_path)))
        sweep, run = client.get_run(journal.run_id(folder)), client.get_run(journal.run_id(folder / "0"))
        assert run.data.metrics == {"train/loss": 1.0}
        assert run.data.tags["mlflow.parentRunId"] == sweep.info.run_id
        assert (sweep.info.status, run.info.status) == ("KILLED", "KILLED")
    assert {journal.run_id(tmp_path / str(job)) for job in range(3)} == {sweep for _, sweep in rows}
    assert len(client.search_runs([rows[0][0]])) == 6
    assert pending_sweeps.remembered(uri, tmp_path) == []


def test_a_sweep_ends_with_its_summary_and_no_run_of_it_stays_open(tracker, client, root, tmp_path):
    (tmp_path / "0").mkdir()
    other = open_sweep(tracker.uri, root=root, folder=tmp_path)
    journal.append(tmp_path / "0", "run", uid="0", name="lost", tags={}, time=now())
    lost = Result(
        0,
        "lost",
        "0",
        None,
        "KILLED",
        "the process died",
        {"freeze_mode": "full", "lr": 0.1, "data": "d", "seed": 0},
        {},
    )
    metrics = {"best/val_accuracy": 0.5, "test/accuracy": 0.25, "cost/train_seconds": 2.0}
    done = [
        Result(1 + i, "x", "x", None, "FINISHED", None, {"freeze_mode": mode, "lr": lr, "data": "d", "seed": 0}, values)
        for i, (mode, lr, values) in enumerate(
            [("head", 0.1, metrics), ("head", 0.2, metrics | {"best/val_accuracy": 0.75}), ("full", 0.1, metrics)]
        )
    ]
    results = [lost, *done]
    best = {"metrics": cells.metrics(results), "tags": cells.tags(results)}
    session.close_sweep(other, status="FAILED", description="# Nothing won", results=results, **best)
    closed = client.get_run(other.sweep_run_id)
    assert (closed.info.status, closed.data.tags["mlflow.note.content"]) == ("FAILED", "# Nothing won")
    assert [item.path for item in client.list_artifacts(other.sweep_run_id)] == ["results.json"]
    assert (closed.data.metrics["head/val_accuracy"], closed.data.metrics["head/lr"]) == (0.75, 0.2)
    assert (closed.data.metrics["full/test_accuracy"], closed.data.metrics["full/train_seconds"]) == (0.25, 2.0)
    assert "lr=0.2" in closed.data.tags["frostline.best.head"]
    assert client.get_run(journal.run_id(tmp_path / "0")).info.status == "KILLED"
    assert pending_sweeps.remembered(tracker.uri, root) == [Path(tracker.folder).resolve()]


def test_interrupts_end_a_sweep_before_anything_that_takes_long(tracker, client, root, tmp_path, monkeypatch):
    for name, moment in (("open", "complete"), ("runs", None)):
        (sweep := tmp_path / name).mkdir()
        (sweep / "0").mkdir()

        def interrupted(*_, **__):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), session.ended_in_any_case(sweep), monkeypatch.context() as patch:
            if moment:
                patch.setattr(session.MirrorThread, moment, interrupted)
            open_sweep(tracker.uri, root=root, folder=sweep, experiment="hasty")
            journal.append(sweep / "0", "run", uid="lost", name="lost", tags={}, time=now())
            interrupted()
        assert journal.ended(sweep) and str(sweep) not in session._threads
        assert client.get_run(journal.run_id(sweep)).info.status == "KILLED"
    assert client.get_run(journal.run_id(sweep / "0")).info.status == "KILLED"
    assert not {tmp_path / "open", tmp_path / "runs"} & {*pending_sweeps.remembered(tracker.uri, root)}
    with pytest.raises(KeyboardInterrupt), session.ended_in_any_case(tmp_path / "never"):
        raise KeyboardInterrupt


def test_an_error_ends_a_sweep_as_failed_unless_runs_go_on(tracker, client, root, tmp_path, monkeypatch):
    for name, alive in (("over", []), ("going on", [tmp_path])):
        (sweep := tmp_path / name).mkdir()
        monkeypatch.setattr(session.sweep_record, "going_on", lambda folder, alive=alive: alive)
        with pytest.raises(OSError, match="full"), session.ended_in_any_case(sweep):
            opened = open_sweep(tracker.uri, root=root, folder=sweep, experiment="hasty")
            raise OSError("full")
        assert journal.ended(sweep) != bool(alive)
        session.flush(opened)
        assert client.get_run(journal.run_id(sweep)).info.status == ("RUNNING" if alive else "FAILED")
        session._threads.pop(str(sweep), None)


def test_importing_the_module_imports_neither_mlflow_nor_torch():
    heavy = ("mlflow", "torch", "sqlalchemy")
    code = f"import sys, frostline.tracking.session; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


LEAN = """
import sys
from pathlib import Path
from frostline.records.recording import recording
from frostline.tracking import session
from frostline.tracking.pending_sweeps import RecordPlace
root = Path(sys.argv[1])
folder, run = root / "sweep", root / "sweep" / "0"
run.mkdir(parents=True)
uri = f"sqlite:///{root}/mlflow.db"
tracker = session.open_sweep(RecordPlace(uri, root, "demo"), folder=folder, name="sweep", tags={})
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
def test_a_sweeps_process_passes_all_on_without_what_mlflow_wants_for_its_models(tmp_path):
    stores.put(tmp_path / "mlflow.db")
    done = subprocess.run([sys.executable, "-c", LEAN, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mlflow"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run(journal.run_id(tmp_path / "sweep" / "0"))
    assert (run.info.status, run.data.params["lr"], run.data.metrics["train/loss"]) == ("FINISHED", "0.1", 0.5)
    assert [item.dataset.name for item in run.inputs.dataset_inputs] == ["digits train"]
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["config.yaml"]


def test_a_server_that_cannot_be_reached_does_not_make_its_password_public(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    uri = tracking_uri.resolved(None, tmp_path)
    said: list[str] = []
    tracker = open_sweep(uri, root=tmp_path, folder=tmp_path, say=said.append)
    session.close_sweep(tracker, status="FINISHED", description="", results=[], say=said.append)
    assert [line.split(" ")[0:2] for line in said] == [["MLflow", "is"], ["MLflow", "does"]]
    assert "127.0.0.1" in said[0] and "hunter2" not in "".join(said)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or "hunter2" not in file.read_text()


def test_the_ui_command_can_be_pasted_and_is_short_where_the_record_is_the_projects_own(tracker, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert session.ui_command(tracker.uri, tmp_path) == f"python -m frostline ui --uri '{tracker.uri}'"
    assert session.ui_command(tracking_uri.resolved(None, tmp_path), tmp_path) == "python -m frostline ui"
    assert session.ui_command("http://server:5000", tmp_path) == "http://server:5000"


def test_a_deleted_experiment_is_refused_with_the_way_out(tracker, client, root, tmp_path):
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(UserError, match=r"^experiment_name=gone: .*mlflow experiments restore -x \d+"):
        open_sweep(tracker.uri, root=root, folder=tmp_path, experiment="gone")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../../escape", "..", "a/b c", "ünï %41"])
def test_artifacts_stay_in_the_project_whatever_the_experiment_is_called(tracker, client, root, tmp_path, name):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "kept.txt").write_text("x")
    for number, half in enumerate(("", "{", "[]", "{}")):  # as another process may be writing them
        (root / "mlruns" / "pending" / f"{number}.json").write_text(half)
    other = open_sweep(tracker.uri, root=root, folder=tmp_path, experiment=name)
    with recording(tmp_path / "0", name="run", tags={}, params={}) as record:
        record.artifact(tmp_path / "0" / "kept.txt")
    session.close_sweep(other, status="FINISHED", description="", results=[])
    (kept,) = (root / "mlruns" / "artifacts").glob(f"*/{journal.run_id(tmp_path / '0')}/artifacts/kept.txt")
    assert kept.is_file()


def test_a_pending_sweep_in_a_home_that_is_closed_stops_nobody(tmp_path, monkeypatch, capsys):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for name in ("own", "closed"):
        (tmp_path / name).mkdir()
        journal.append(tmp_path / name, "run", uid=name, tags={}, uri=uri, experiment="e")
        pending_sweeps.remember(tmp_path / name, pending_sweeps.RecordPlace(uri, tmp_path, "e", None))
    (tmp_path / "pending" / "long.json").write_text(
        json.dumps({"store": tracking_uri.name(uri), "folder": f"/home/{'a' * 5000}"})
    )
    assert pending_sweeps.remembered(uri, tmp_path) == [tmp_path / "closed", tmp_path / "own"]

    def complete(sweep):
        if sweep.folder.name == "closed":
            raise PermissionError(13, "Permission denied", "lock")
        return True

    monkeypatch.setattr(sync, "complete", complete)
    monkeypatch.setattr(sync_command.project, "project_root", lambda: tmp_path)
    assert sync_command.main(["--uri", uri]) == 1
    said = capsys.readouterr().out
    assert "closed: still pending, lock: Permission denied" in said and "own: complete" in said


def test_a_register_that_nobody_may_write_to_stops_no_sweep(tmp_path):
    (tmp_path / "pending" / "planning.lock").mkdir(parents=True)  # which root cannot open either
    with pending_sweeps.planning(f"sqlite:///{tmp_path}/mlflow.db", tmp_path):
        pass


@pytest.mark.parametrize("value", [float("nan"), 1e308, -1.0])
def test_an_accuracy_that_is_none_is_not_read_from_a_store_to_which_others_write(tracker, client, tmp_path, value):
    run = client.create_run(tracker.experiment_id, tags={layout.REASON_TAG: ""})
    for key, told in (("test/accuracy", value), ("best/val_accuracy", 0.5), ("test/loss", 2.0)):
        client.log_metric(run.info.run_id, key, told)
    (found,) = query.results(tracker.uri, run.info.run_id)
    assert found.metrics == {"best/val_accuracy": 0.5, "test/loss": 2.0} and found.reason is None


@pytest.mark.parametrize("told", ["", "[1]", '[{"name": "head"}]'])
def test_a_finished_run_whose_accuracy_is_gone_from_the_store_is_told_as_that(tracker, client, tmp_path, told):
    parent = client.create_run(tracker.experiment_id).info.run_id
    (tmp_path / layout.RESULTS).write_text(told)
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


def test_a_store_that_can_never_be_opened_is_one_line(tmp_path):
    (tmp_path / "broken.db").write_bytes(b"not a database" * 100)
    uri = tracking_uri.resolved(f"sqlite:///{tmp_path}/broken.db", tmp_path)
    with pytest.raises(UserError, match=r"^tracking\.uri=.*not a database") as caught:
        open_sweep(uri, root=tmp_path, folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert pending_sweeps.remembered(uri, tmp_path) == []


@pytest.mark.parametrize("away", ["http://127.0.0.1:9", "sqlite:///locked.db", "sqlite:///file/x.db"])
def test_a_store_that_is_away_is_one_line_and_the_record_waits(tmp_path, monkeypatch, away):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "_BUSY", 0.1)
    (tmp_path / "file").write_text("in the way")
    with closing(sqlite3.connect(tmp_path / "locked.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        uri = tracking_uri.resolved(away, tmp_path)
        (sweep := tmp_path / "sweep").mkdir()
        said: list[str] = []
        tracker = open_sweep(uri, root=tmp_path, folder=sweep, say=said.append)
        (sweep / "0").mkdir()
        with recording(sweep / "0", name="run", tags={}, params={}) as record:
            record.metrics({"train/loss": 1.0}, 1)
        assert journal.run_id(sweep / "0") is None and tracker.sweep_run_id is None
        session.close_sweep(tracker, status="FINISHED", description="", results=[], say=said.append)
    assert len(said) == 2 and "frostline sync" in said[1] and "\n" not in "".join(said)
    assert any(why in said[0] for why in ("refused", "locked", "File exists", "Not a directory")), said[0]


def test_runs_whose_process_is_gone_can_be_found_and_ended(tracker, client, folder):
    with recording(folder, name="run", tags={"host": "far"}, params={}):
        run_id = mirrored(tracker, folder)
        running = dict(query.running(tracker.uri, "demo"))
        assert running[run_id]["host"] == "far" and tracker.sweep_run_id in running
        query.end(tracker.uri, run_id, "KILLED", "no sign of life")
        assert run_id not in dict(query.running(tracker.uri, "demo"))
        assert client.get_run(run_id).data.tags["frostline.reason"] == "no sign of life"
    assert client.get_run(mirrored(tracker, folder)).info.status == "FINISHED"
    assert query.running(tracker.uri, "never used") == []


def test_a_run_that_was_killed_elsewhere_before_its_second_sign_of_life_is_found(tracker, folder, monkeypatch):
    elsewhere = liveness.Owner("me", "far", "another boot", 1, time.time())
    with recording(folder, name="run", tags=elsewhere.tags(), params={}):
        run_id = mirrored(tracker, folder)
        past = PastRun(run_id, "RUNNING", dict(query.running(tracker.uri, "demo"))[run_id])
        assert past.holder is not None
        monkeypatch.setattr(liveness, "SILENT", -1.0)  # time goes by
        assert past.holder is None


def test_samples_of_the_machine_are_taken_while_a_run_lasts_if_asked_for(tracker, client, folder):
    with recording(folder, name="run", tags={}, params={}) as record:
        with sampled(record, on=False, device="cpu", every=0.01):
            assert "system" not in (folder / layout.RECORD).read_text()
        with sampled(record, on=True, device="cpu", every=0.01):
            while (folder / layout.RECORD).read_text().count("system/cpu") < 3:
                record.metrics({"train/loss": 1.0})
    metrics = client.get_run(mirrored(tracker, folder)).data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0
    assert len(list(journal.entries(folder))) == len((folder / layout.RECORD).read_text().splitlines())


def test_the_pages_open_at_the_newest_experiment_with_the_columns_that_answer(tracker, client):
    experiment = ui._newest_experiment(tracker.uri, "demo")
    assert experiment == tracker.experiment_id
    assert ui._newest_experiment(tracker.uri, None) != "0"
    ui._set_columns(tracker.uri, experiment)
    state = json.loads(client.get_experiment(experiment).tags["mlflow.sharedViewState.frostline"])
    assert {"metrics.`test/accuracy`", "params.`freeze_mode`", "metrics.`lr`"} <= set(state["selectedColumns"])
    assert ui._address("http://h:1/", "7").startswith("http://h:1/#/experiments/7/runs?viewStateShareKey=frostline")
    with pytest.raises(UserError, match=r"^experiment=demmo: .*did you mean demo\?"):
        ui._newest_experiment(tracker.uri, "demmo")


def test_a_sweep_and_a_run_of_it_go_on_in_their_folders_as_the_runs_they_were(tracker, client, root, tmp_path):
    (tmp_path / "0").mkdir()
    said = []
    for epoch, tags in ((1, {"try": "first"}), (2, {"try": "second"})):
        sweep = open_sweep(tracker.uri, root=root, folder=tmp_path, tags=tags)
        with recording(tmp_path / "0", name="run", tags=tags, params={"a": 1}) as record:
            assert up_to_date(sweep)
            said += [
                client.get_run(run_id).info.status for run_id in (sweep.sweep_run_id, journal.run_id(tmp_path / "0"))
            ]
            record.metrics({"train/loss": 0.5}, 1)
            record.metrics({"train/loss": 0.25}, epoch + 1)
        session.close_sweep(sweep, status="FINISHED", description="", results=[])
    assert said == ["RUNNING"] * 4
    runs = [client.get_run(run_id) for run_id in (sweep.sweep_run_id, journal.run_id(tmp_path / "0"))]
    assert [(run.info.status, run.data.tags["try"]) for run in runs] == [("FINISHED", "second")] * 2
    assert [point.step for point in client.get_metric_history(journal.run_id(tmp_path / "0"), "train/loss")] == [
        1,
        2,
        3,
    ]


@pytest.mark.slow
def test_a_store_whose_creation_was_killed_is_created_anew(tmp_path):
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "mlflow.db.new").write_bytes(b"half of a database")
    (tmp_path / "mlflow.db.new-journal").write_bytes(b"and of its journal")
    assert server.experiment(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, "demo")
    assert not (tmp_path / "mlflow.db.new").exists()


def test_a_run_that_mlflow_never_heard_of_goes_on_under_the_name_of_its_own_journal(tracker, root, tmp_path):
    """Or it would be recorded once by the sweep that goes on with it, and once more from what the killed one left."""
    dead, run = tmp_path / "dead", tmp_path / "dead" / "0"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    facts = {"name": "n", "tags": {}, "time": 0}
    place = {"uri": tracker.uri, "experiment": "demo"}
    journal.append(dead, "run", sync=True, uid="a" * 32, **place, **facts)
    journal.append(run, "run", sync=True, uid="b" * 32, **facts)
    left = PastRun(None, "RUNNING", {layout.FOLDER_TAG: str(run)})
    named = resume.with_run_id(left, root, tracker.uri)
    assert re.fullmatch("[0-9a-f]{32}", named.run_id)
    assert named.run_id == journal.run_id(run) == resume.with_run_id(left, root, tracker.uri).run_id
    client = MlflowClient(tracker.uri)
    found = client.search_runs([tracker.experiment_id], f"tags.`frostline.uid` = '{'b' * 32}'")
    assert [one.info.run_id for one in found] == [named.run_id]


def test_a_record_whose_first_line_is_gone_begins_anew(tmp_path):
    """A folder that was removed while its run was at work holds the lines since then, none of which names a run."""
    folder = tmp_path / "0"
    folder.mkdir()
    journal.append(folder, "metrics", step=3, time=now(), values={"val/loss": 1.0})
    with recording(folder, name="run", tags={}, params={}):
        pass
    assert journal.uid(folder) is not None


def test_times_in_the_record_never_run_backward(monkeypatch):
    times = iter([1000.0, 900.0, 1001.0])
    monkeypatch.setattr(recording_module, "_latest", 0)
    monkeypatch.setattr(recording_module.time, "time", lambda: next(times))
    assert [now() for _ in range(3)] == [1_000_000, 1_000_000, 1_001_000]


@pytest.mark.slow
def test_only_under_its_lock_is_a_store_created(tmp_path):
    """Creation that breaks off, on a full disk say, is not taken up in place by who merely looks into the store."""
    with pytest.raises(server.Unreachable, match="nothing has been recorded there"):
        server.client_of(f"sqlite:///{tmp_path}/mlflow.db")
    assert (tmp_path / "mlflow.db").stat().st_size == 0
    assert server.experiment(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, "e")
