"""MLflow gets every entry of the journal once and in order, despite faults, kills and damaged files."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

import stores
from faulty import Faulty, serve
from frostline.commands.sync import main as sync_command
from frostline.records import journal, layout, run_folders
from frostline.records.layout import UID_TAG
from frostline.records.recording import GONE, end, now, recording
from frostline.store import tensorfile
from frostline.tracking import pending_sweeps, server, session, sync
from frostline.tracking.mirror import Mirror
from frostline.tracking.pending_sweeps import RecordPlace
from frostline.tracking.sync import SweepMirror
from frostline.tracking.unsent_entries import Unsent, unsent_of

EPOCHS = 3


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    server.load()
    with serve(tmp_path_factory.mktemp("server")) as (faulty, uri):
        yield faulty, uri


@pytest.fixture
def faulty(served) -> Faulty:
    served[0].fault = served[0].often = served[0].held = served[0].largest = None
    served[0].away = False
    return served[0]


@pytest.fixture(scope="module")
def client(served) -> MlflowClient:
    return server.client_of(served[1])


@pytest.fixture
def experiment(client, request) -> str:
    return client.create_experiment(request.node.name)


def begin(folder: Path, uid: str = "a1b2") -> None:
    folder.mkdir(exist_ok=True)
    journal.append(folder, "run", uid=uid, name="run", tags={"first": "1"}, time=now())
    journal.append(folder, "params", values={f"p{number}": str(number) for number in range(130)})
    journal.append(folder, "dataset", name="digits", source="digits", digest="f" * 64, images={"train": 3, "test": 2})


def epochs(folder: Path, first: int = 1, last: int = EPOCHS) -> None:
    for epoch in range(first, last + 1):
        values = {"train/loss": 1 / epoch, "val/accuracy": float("nan")}
        journal.append(folder, "metrics", step=epoch, time=now(), values=values)


def finish(folder: Path) -> None:
    (folder / "plan.json").write_text("{}")
    journal.append(folder, "artifact", path="plan.json", inside=None)
    journal.append(folder, "tags", values={"last": "é"})
    journal.append(folder, "end", status="FINISHED", time=now())


def write_run(folder: Path) -> None:
    begin(folder), epochs(folder), finish(folder)


def assert_mirrored(client: MlflowClient, experiment: str, folder: Path) -> None:
    """Assert that MLflow has the whole record once."""
    (run,) = client.search_runs([experiment])
    assert run.info.run_id == journal.run_id(folder)
    assert run.info.status == "FINISHED"
    assert {"first": "1", "last": "é", UID_TAG: "a1b2"}.items() <= run.data.tags.items()
    assert run.data.params == {f"p{number}": str(number) for number in range(130)}
    for key, expected in (("train/loss", [1 / e for e in range(1, EPOCHS + 1)]), ("val/accuracy", ["nan"] * EPOCHS)):
        history = client.get_metric_history(run.info.run_id, key)
        assert [point.step for point in history] == list(range(1, EPOCHS + 1))
        assert [point.value if key == "train/loss" else str(point.value) for point in history] == expected
    assert sorted(item.dataset.name for item in run.inputs.dataset_inputs) == ["digits test", "digits train"]
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["plan.json"]
    assert not Mirror(folder).pending()


def try_sync(mirror: Mirror, client: MlflowClient, experiment: str) -> bool:
    try:
        mirror.sync(client, experiment, None)
    except Exception:  # like the mirror thread
        return False
    return True


def mirror_in_steps(faulty: Faulty, client: MlflowClient, experiment: str, folder: Path) -> None:
    """Write and mirror a run in three steps, alternating between two mirrors, with retries."""
    mirror = Mirror(folder)
    for number, step in enumerate((begin, epochs, finish)):
        step(folder)
        for attempt in range(30):
            mirror = mirror if (number + attempt) % 2 else Mirror(folder)
            if try_sync(mirror, client, experiment):
                break
    faulty.fault = faulty.often = None
    assert_mirrored(client, experiment, folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lost", "hollow"])
def test_fault_at_any_request_loses_nothing(faulty, client, tmp_path, request, kind):
    at = faulty.requests = 0
    while faulty.requests >= at:
        experiment = client.create_experiment(f"{request.node.name} {at}")
        faulty.requests, faulty.fault = 0, (at, kind)
        mirror_in_steps(faulty, client, experiment, tmp_path / str(at))
        at += 1
    assert at > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many_faults_in_a_row_lose_nothing(faulty, client, experiment, tmp_path, seed):
    faulty.often = random.Random(seed)
    mirror_in_steps(faulty, client, experiment, tmp_path / "run")


class Killed(BaseException):
    """Stands for the death of the process."""


class DyingClient:
    """A client whose call number `at` raises `Killed`, before or after its work."""

    def __init__(self, client: MlflowClient, at: int, *, after: bool) -> None:
        self._client, self._left, self._after = client, at, after

    def __getattr__(self, name):
        call = getattr(self._client, name)
        if not callable(call):
            return call

        def call_or_die(*arguments, **options):
            self._left -= 1
            if self._left == -1 and not self._after:
                raise Killed
            value = call(*arguments, **options)
            if self._left == -1:
                raise Killed
            return value

        return call_or_die


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_kill_in_any_call_loses_nothing(tmp_path, request, after):
    """The client has no server between it and the database, since only its calls count here."""
    client = server.client_of(f"sqlite:///{stores.put(tmp_path / 'mlflow.db')}")
    at, died = 0, True
    while died:
        folder = tmp_path / str(at)
        experiment = client.create_experiment(f"{request.node.name} {at}", str(tmp_path / "artifacts"))
        write_run(folder)
        died = False
        try:
            Mirror(folder).sync(DyingClient(client, at, after=after), experiment, None)
        except Killed:
            died = True
        Mirror(folder).sync(client, experiment, None)
        assert_mirrored(client, experiment, folder)
        at += 1
    assert at > 6


@pytest.mark.slow
def test_repeated_epochs_are_not_duplicated(faulty, client, experiment, tmp_path):
    begin(tmp_path), epochs(tmp_path, 1, 2)
    mirror = Mirror(tmp_path)
    mirror.sync(client, experiment, None)
    journal.append(tmp_path, "end", status="KILLED", time=now())
    mirror.sync(client, experiment, None)
    assert client.get_run(journal.run_id(tmp_path)).info.status == "KILLED"
    journal.append(tmp_path, "resume", time=now())
    mirror.sync(client, experiment, None)
    assert client.get_run(journal.run_id(tmp_path)).info.status == "RUNNING"
    epochs(tmp_path, 2, EPOCHS), finish(tmp_path)
    Mirror(tmp_path).sync(client, experiment, None)
    assert_mirrored(client, experiment, tmp_path)


def test_lost_mirror_position_does_not_duplicate_the_run(faulty, client, experiment, tmp_path):
    begin(tmp_path), epochs(tmp_path, 1, 2)
    Mirror(tmp_path, fresh=True).sync(client, experiment, None)
    (tmp_path / layout.MIRRORED).unlink()
    epochs(tmp_path, 3, EPOCHS), finish(tmp_path)
    Mirror(tmp_path).sync(client, experiment, None)
    assert_mirrored(client, experiment, tmp_path)


@pytest.mark.parametrize("value", [None, "x", "", [1], {"a": 1}, True, 10**400, -1])
def test_invalid_journal_values_are_skipped(tmp_path, value):
    noted = {"op": "run", "uid": "a", "name": "n", "tags": {}, "time": 1, "run_id": None}
    odd = [
        {**noted, "run_id": value} if value is not None else {**noted, "name": None},
        {"op": "metrics", "step": 1, "time": value, "values": {"a": 1.0}},
        {"op": "metrics", "step": value, "time": 1, "values": {"a": 1.0}},
        {"op": "metrics", "step": 1, "time": 1, "values": {"a": None if value == -1 else value, "b": 2}},
        {"op": "dataset", "name": "d", "digest": "e", "source": "d", "images": {"train": value}},
        {"op": "dataset", "name": "d", "digest": "e", "source": "d", "images": value},
        {"op": "dataset", "name": "d", "digest": value if value not in ("x", "") else 0, "source": "d", "images": {}},
        {"op": "artifact", "path": "a\0", "inside": None},
        {"op": "artifact", "path": "b", "inside": 5 if value in (None, "x", "") else value},
        {"op": "end", "status": "FINISHED", "time": value},
    ]
    (tmp_path / "record.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in odd))
    news, behind = unsent_of(tmp_path, 0)
    assert news == Unsent(metrics=[("b", 2.0, 1, 1)]) and behind == (tmp_path / "record.jsonl").stat().st_size


def test_damaged_journal_does_not_undo_the_record(client, experiment, tmp_path):
    write_run(tmp_path)
    assert try_sync(Mirror(tmp_path), client, experiment)
    path = tmp_path / "record.jsonl"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    (tmp_path / "mirrored.json").write_text("{")
    end(tmp_path, "KILLED", GONE)
    assert try_sync(Mirror(tmp_path), client, experiment)
    assert_mirrored(client, experiment, tmp_path)
    (run,) = client.search_runs([experiment])
    assert not {"frostline.reason", "mlflow.note.content"} & set(run.data.tags)


def test_new_journal_continues_the_same_mlflow_run(client, experiment, tmp_path):
    begin(tmp_path), epochs(tmp_path)
    assert try_sync(Mirror(tmp_path), client, experiment)
    (tmp_path / "record.jsonl").unlink()
    run_id = journal.run_id(tmp_path)
    with recording(tmp_path, name="run", tags={"new": "1"}, params={}, resume_run_id=run_id) as record:
        record.metrics({"train/loss": 0.25}, step=4)
    assert try_sync(Mirror(tmp_path), client, experiment)
    (run,) = client.search_runs([experiment])
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert run.data.tags["new"] == "1" and run.data.metrics["train/loss"] == 0.25
    assert len(client.get_metric_history(run_id, "train/loss")) == EPOCHS + 1


def test_run_resumed_in_another_folder_is_one_run(faulty, client, experiment, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    begin(old, "dead"), epochs(old, 1, 1)
    Mirror(old).sync(client, experiment, None)
    epochs(old, 2, 2)  # written but not mirrored
    new.mkdir()
    journal.append(new, "run", uid="a1b2", name="run", tags={"first": "1"}, time=now(), run_id=journal.run_id(old))
    epochs(new, 2, EPOCHS), finish(new)
    Mirror(new).sync(client, experiment, None)
    end(old, "KILLED", "gone")
    Mirror(old).sync(client, experiment, None)
    assert_mirrored(client, experiment, new)
    assert journal.run_id(old) == journal.run_id(new)


def test_lost_run_is_recreated_and_deleted_run_stays_deleted(faulty, client, experiment, tmp_path):
    begin(tmp_path), epochs(tmp_path)
    Mirror(tmp_path).sync(client, experiment, None)
    at = journal.position(tmp_path)
    journal.set_position(tmp_path, journal.MirrorPosition("0" * 32, at.offset))
    client.delete_run(at.run_id)
    finish(tmp_path)
    Mirror(tmp_path).sync(client, experiment, None)
    assert_mirrored(client, experiment, tmp_path)
    client.delete_run(journal.run_id(tmp_path))
    journal.append(tmp_path, "tags", values={"more": "x"})
    Mirror(tmp_path).sync(client, experiment, None)
    assert client.search_runs([experiment]) == [] and not Mirror(tmp_path).pending()


def test_changed_param_keeps_its_first_value(faulty, client, experiment, tmp_path):
    begin(tmp_path), epochs(tmp_path)
    Mirror(tmp_path).sync(client, experiment, None)
    journal.append(tmp_path, "params", values={"p1": "other", "more": "x", "bad*name": "y"})
    Mirror(tmp_path).sync(client, experiment, None)
    params = client.get_run(journal.run_id(tmp_path)).data.params
    assert (params["p1"], params["more"], len(params)) == ("1", "x", 131)


def test_only_files_in_the_run_folder_are_uploaded(faulty, client, experiment, tmp_path):
    (tmp_path / "secret").write_text("x")
    (folder := tmp_path / "run").mkdir()
    begin(folder)
    (folder / "link").symlink_to(tmp_path / "secret")
    for path in ("../secret", str(tmp_path / "secret"), "link", "gone", "."):
        journal.append(folder, "artifact", path=path, inside=None)
    finish(folder)
    Mirror(folder).sync(client, experiment, None)
    assert [item.path for item in client.list_artifacts(journal.run_id(folder))] == ["plan.json"]


def test_damaged_sweep_journal_keeps_the_experiment(client, tmp_path, request, served):
    (sweep := tmp_path / "sweep").mkdir()
    (sweep / "record.jsonl").write_text("[]\n")
    facts = {"tracker": {"uri": served[1], "experiment": request.node.name}, "runs": [{"folder": "0"}]}
    (sweep / "sweep.json").write_text(json.dumps(facts))
    write_run(sweep / "0")
    assert sync.complete(SweepMirror(sweep, pending_sweeps.place_of(sweep)))
    assert_mirrored(client, client.get_experiment_by_name(request.node.name).experiment_id, sweep / "0")


@pytest.mark.slow
def test_artifacts_are_hard_links_that_keep_their_content(tmp_path, request):
    uri = f"sqlite:///{stores.put(tmp_path / 'mlflow.db')}"
    experiment = server.experiment(uri, request.node.name)
    begin(folder := tmp_path / "run")
    tensorfile.save(folder / "best.safetensors", {"weight": torch.zeros(3)}, {})
    journal.append(folder, "artifact", path="best.safetensors", inside="weights")
    journal.append_epoch(folder, {"epoch": 1})
    journal.append(folder, "artifact", path="metrics.jsonl", inside=None)
    finish(folder)
    client = server.client_of(uri)
    Mirror(folder).sync(client, experiment, None)
    top = Path(client.get_run(journal.run_id(folder)).info.artifact_uri.removeprefix("file:"))
    assert (top / "weights" / "best.safetensors").samefile(folder / "best.safetensors")
    assert (top / "plan.json").samefile(folder / "plan.json")
    assert (top / "metrics.jsonl").samefile(folder / "metrics.jsonl")
    journal.rewrite_epochs(folder, journal.epochs(folder))  # as at the start of a resumed run
    journal.append_epoch(folder, {"epoch": 2})
    assert (top / "metrics.jsonl").read_text() == '{"epoch": 1}\n'
    tensorfile.save(folder / "best.safetensors", {"weight": torch.ones(3)}, {})
    assert load_file(top / "weights" / "best.safetensors")["weight"].tolist() == [0, 0, 0]


def test_finished_run_needs_four_calls(client, experiment, tmp_path, monkeypatch):
    with recording(tmp_path, name="run", tags={}, params={"lr": 0.1, "seed": "0"}) as record:
        record.dataset(name="digits", source="digits", digest="f" * 64, images={"train": 3, "test": 2})
        for epoch in range(3):
            record.metrics({"val/loss": 1.0}, step=epoch)
            record.tag("epoch", str(epoch))
    calls: list[str] = []
    for name in ("get_run", "search_runs", "create_run", "log_batch", "log_inputs", "update_run", "set_terminated"):
        monkeypatch.setattr(client, name, partial(_note_call, calls, name, getattr(client, name)), raising=True)
    Mirror(tmp_path, fresh=True).sync(client, experiment, None)
    assert calls == ["create_run", "log_batch", "log_inputs", "set_terminated"]
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert (run.data.params, run.data.tags["epoch"]) == ({"lr": "0.1", "seed": "0"}, "2")
    assert run.data.metrics == {"lr": 0.1, "val/loss": 1.0}


def _note_call(calls: list[str], name: str, call: Callable[..., object], *given: object, **options: object) -> object:
    calls.append(name)
    return call(*given, **options)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Return the folder of a sweep that has begun."""
    begin(folder := tmp_path / "sweep", "5ee9")
    return folder


@pytest.fixture
def place(served, request) -> RecordPlace:
    """Return the place of the test's sweeps, in an experiment of the test."""
    return RecordPlace(served[1], request.node.name)


def test_new_run_is_mirrored_later_unless_at_once(sweep, place):
    begin(sweep / "0", "a0"), begin(sweep / "1", "a1")
    journal.append(sweep / "1", "end", status="FINISHED", time=now())
    mirror = SweepMirror(sweep, place)
    mirror.sync(at_once=False)
    assert [journal.run_id(folder) is not None for folder in (sweep, sweep / "0", sweep / "1")] == [True, False, True]
    mirror.sync()
    assert journal.run_id(sweep / "0")


def test_run_of_a_fresh_sweep_has_its_id_at_once(sweep, place, client):
    begin(run := sweep / "0", "a0")
    mirror = SweepMirror(sweep, place, fresh=True)
    for _ in range(2):
        mirror.sync(at_once=False)
        assert client.get_run(journal.run_id(run)).data.params == {} and pending(mirror.folder) == 1
    mirror.sync()
    assert client.get_run(journal.run_id(run)).data.params != {}
    assert len(client.search_runs([mirror.experiment_id])) == 2


def test_finished_run_is_read_again_only_at_once(sweep, place, client):
    begin(run := sweep / "0", "a0"), finish(run)
    mirror = SweepMirror(sweep, place, fresh=True)
    mirror.sync(at_once=False)
    assert client.get_run(journal.run_id(run)).info.status == "FINISHED"
    journal.append(run, "tags", values={"late": "yes"})
    mirror.sync(at_once=False)
    assert "late" not in client.get_run(journal.run_id(run)).data.tags
    mirror.sync()
    assert client.get_run(journal.run_id(run)).data.tags["late"] == "yes"


def test_paused_run_is_scheduled_until_it_resumes(sweep, place, client):
    begin(run := sweep / "0", "a0")
    end(run, "PAUSED", None)
    mirror = SweepMirror(sweep, place, fresh=True)
    mirror.sync(at_once=False)
    paused = client.get_run(journal.run_id(run)).info
    assert (paused.status, paused.end_time) == ("SCHEDULED", None)
    journal.append(run, "resume", time=now())
    mirror.sync()
    assert client.get_run(paused.run_id).info.status == "RUNNING"
    finish(run)
    mirror.sync(at_once=False)
    assert client.get_run(paused.run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_refused_upload_does_not_block_runs(faulty, client, sweep, place):
    finish(sweep)
    for name, size in (("0", 10**6), ("1", 10)):
        begin(sweep / name, f"a{name}"), epochs(sweep / name), finish(sweep / name)
        (sweep / name / "plan.json").write_text("x" * size)
    faulty.largest = 10**5
    mirror = SweepMirror(sweep, place)
    with pytest.raises(server.Unreachable, match="413"):
        mirror.sync()
    runs = client.search_runs([mirror.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert sorted(len(client.list_artifacts(run.info.run_id)) for run in runs) == [0, 1, 1]
    faulty.largest = None
    mirror.sync()
    assert sorted(len(client.list_artifacts(run.info.run_id)) for run in runs) == [1, 1, 1]
    assert {len(client.get_metric_history(run.info.run_id, "train/loss")) for run in runs} == {0, EPOCHS}
    assert pending(sweep) == 0


def pending(sweep):
    return sum(Mirror(folder).pending() for folder in run_folders.with_record(sweep))


def open_sweep(place, folder, messages):
    (folder / "0").mkdir(parents=True)
    return session.open_sweep(place, folder=folder, name="s", tags={}, say=messages.append)


def close_sweep(tracker, messages):
    session.close_sweep(tracker, status="FINISHED", description="done", results=[], say=messages.append)


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run(tracker, steps):
    """Carry out a run with one epoch per step, which is called before its epoch."""
    folder = Path(tracker.folder) / "0"
    with recording(folder, name="run", tags={}, params={"lr": 0.1}) as record:
        for epoch, step in enumerate(steps, start=1):
            step()
            record.metrics({"train/loss": 1 / epoch}, epoch)
        journal.append_epoch(folder, {"epoch": 1})
        record.artifact(folder / "metrics.jsonl")


def assert_sweep_mirrored(client, name, epochs):
    (experiment,) = (e for e in client.search_experiments() if e.name == name)
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"s", "run"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["run"].data.tags["mlflow.parentRunId"] == runs["s"].info.run_id
    history = client.get_metric_history(runs["run"].info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(e, 1 / e) for e in range(1, epochs + 1)]
    assert [item.path for item in client.list_artifacts(runs["run"].info.run_id)] == ["metrics.jsonl"]
    assert runs["s"].data.tags["mlflow.note.content"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize("away", ["start", "middle", "end", "always"])
def test_unreachable_server_loses_nothing(faulty, client, place, tmp_path, capsys, monkeypatch, away):
    messages = []
    faulty.away = away in ("start", "always")
    tracker = open_sweep(place, tmp_path / "sweep", messages)

    def toggle() -> None:
        faulty.away = away in ("middle", "always")

    def back() -> None:
        faulty.away = away in ("end", "always")

    run(tracker, [toggle, lambda: None, back])
    close_sweep(tracker, messages)
    assert len(messages) == {"start": 1, "middle": 0, "end": 1, "always": 2}[away]
    faulty.away = False
    if away in ("end", "always"):
        assert pending_sweeps.remembered(place.uri) == [tmp_path / "sweep"]
        assert sync_command([str(tmp_path / "sweep")]) == 0
        assert "complete" in capsys.readouterr().out
    assert_sweep_mirrored(client, place.experiment, 3)
    assert pending_sweeps.remembered(place.uri) == []


def test_sync_sends_a_complete_sweep_to_another_store(served, client, place, tmp_path, monkeypatch, capsys):
    tracker = open_sweep(place, tmp_path / "sweep", [])
    run(tracker, [lambda: None])
    close_sweep(tracker, [])
    stores.put(tmp_path / "other.db")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    for sent in (", 2 record(s) sent", ""):
        assert sync_command([str(tmp_path / "sweep"), "--uri", other]) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'sweep'}: complete{sent}\n"
        assert_sweep_mirrored(MlflowClient(other), place.experiment, 1)
    assert_sweep_mirrored(client, place.experiment, 1)


def test_next_sweep_completes_pending_ones(faulty, client, place, tmp_path):
    faulty.away = True
    tracker = open_sweep(place, tmp_path / "first", [])
    run(tracker, [lambda: None])
    close_sweep(tracker, [])
    faulty.away = False
    second = open_sweep(replace(place, experiment=f"{place.experiment} 2"), tmp_path / "second", [])
    wait_until(lambda: pending_sweeps.remembered(place.uri) == [tmp_path / "second"])
    assert_sweep_mirrored(client, place.experiment, 1)
    close_sweep(second, [])


@pytest.mark.slow
def test_training_does_not_wait_for_the_server(faulty, client, place, tmp_path, monkeypatch):
    """All epochs and the sweep end before the server has answered once."""
    monkeypatch.setattr(session, "_OPEN", 0.2)
    monkeypatch.setattr(session, "_CLOSE", (0.2, 0.2))
    messages = []
    faulty.held = threading.Event()
    tracker = open_sweep(place, tmp_path / "sweep", messages)
    run(tracker, [lambda: None] * 5)
    close_sweep(tracker, messages)
    assert not faulty.held.is_set() and len(messages) == 2
    faulty.held.set()
    wait_until(lambda: sync.complete(SweepMirror(tmp_path / "sweep", place)))  # the remaining thread has a lock
    assert_sweep_mirrored(client, place.experiment, 5)
