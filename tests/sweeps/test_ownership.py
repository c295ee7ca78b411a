"""Ownership of sweep folders and runs: claiming, liveness, `mend`, and what is skipped or resumed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import stores
from frostline.commands import mend
from frostline.core.errors import UserError
from frostline.records import journal, layout, liveness
from frostline.records.layout import OWNER
from frostline.records.recording import Paused, recording
from frostline.records.result import TEST, VAL, Result, write_result
from frostline.records.sweep_facts import Tracker
from frostline.sweeps import past_runs, resume
from frostline.sweeps.ownership import claim


def test_concurrent_claims_of_a_folder_get_different_folders(tmp_path):
    with ThreadPoolExecutor(20) as threads:
        folders = list(threads.map(lambda _: claim(tmp_path / "s", ["d"], again=True, named=False), range(20)))
    assert len(set(folders)) == 20 and tmp_path / "s" in folders
    assert {folder.parent for folder in folders} == {tmp_path}


def folder_of_owner(tmp_path, **changes):
    """Return a claimed folder whose owner is this process with these changes."""
    folder = claim(tmp_path / "sweep", ["d"], again=True, named=True)
    owner = dataclasses.replace(liveness.this_process(), **changes)
    (folder / OWNER).write_text(json.dumps(dataclasses.asdict(owner)))
    return folder


@pytest.fixture
def process():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_folder_in_use_names_its_owner(tmp_path, process):
    import psutil

    started = psutil.Process(process.pid).create_time()
    folder = folder_of_owner(tmp_path, pid=process.pid, started=started, user="ada", host=liveness.this_process().host)
    with pytest.raises(UserError, match=f"in use by ada@.* \\(process {process.pid}, started "):
        claim(folder, ["d"], again=True, named=True)


def test_folder_of_a_dead_owner_is_claimed_by_same_sweep(tmp_path, process):
    folder = folder_of_owner(tmp_path, pid=process.pid, started=1.0)  # the process id was reused
    (folder / "sweep.json").write_text(json.dumps({"tracker": {}, "runs": [{"digest": "d", "folder": "0"}]}))
    with pytest.raises(UserError, match="another sweep's"):
        claim(folder, ["e"], again=True, named=True)
    assert claim(folder, ["d"], again=True, named=True) == folder
    assert liveness.read(folder / OWNER) == liveness.this_process()


def test_owner_on_another_machine_is_gone_after_long_silence():
    owner = dataclasses.replace(liveness.this_process(), host="elsewhere")
    assert not owner.gone() and not owner.gone(time.time() - 60) and owner.gone(time.time() - 3600)
    assert not liveness.this_process().gone()


@pytest.mark.parametrize("sign", ["x", "", None])
def test_damaged_owner_tags_do_not_raise(sign):
    elsewhere = dataclasses.replace(liveness.this_process(), host="elsewhere")
    tags = elsewhere.tags() | {layout.ALIVE_TAG: sign}
    assert liveness.of_run("RUNNING", {key: value for key, value in tags.items() if value is not None})
    assert liveness.of_run("RUNNING", liveness.this_process().tags() | {"frostline.pid": "-1"}) is None
    assert "at no time" in str(liveness.of_tags(elsewhere.tags() | {"frostline.started": "inf"}))


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b"])
def test_unreadable_folder_tag_is_ignored(name, tmp_path):
    far = past_run("RUNNING", **{layout.FOLDER_TAG: name, layout.UID_TAG: "u"})
    assert far.place is None and far.folder is None and far.holder is None
    assert past_run("RUNNING", **{layout.FOLDER_TAG: name}).folder is None


@pytest.mark.skipif(len(liveness.this_process().machine.split()) < 3, reason="this machine has no /etc/machine-id")
def test_owner_from_before_a_reboot_is_gone():
    installed, boot, processes = liveness.this_process().machine.split()
    assert dataclasses.replace(liveness.this_process(), machine=f"{installed} another {processes}").gone(time.time())
    assert not dataclasses.replace(liveness.this_process(), machine=f"another {boot} {processes}").gone(time.time())
    assert not dataclasses.replace(liveness.this_process(), machine=f"{installed} {boot} another").gone(time.time())


@pytest.fixture
def store(tmp_path):
    """Return a store's URI, its client, and the id of the experiment `mended` in it."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{stores.put(tmp_path / 'mlflow.db')}"
    client = MlflowClient(uri)
    return uri, client, client.create_experiment("mended")


@pytest.mark.slow
def test_mend_ends_only_runs_of_dead_processes(store, tmp_path, capsys):
    uri, client, experiment = store
    dead = dataclasses.replace(liveness.this_process(), started=1.0)
    elsewhere = dataclasses.replace(liveness.this_process(), host="elsewhere")
    silent = {**elsewhere.tags(), layout.ALIVE_TAG: f"{time.time() - 2 * liveness.SILENT:.0f}"}
    (tmp_path / layout.BEAT).write_text(json.dumps(dataclasses.asdict(elsewhere)))
    tags = {"dead": dead.tags(), "alive": liveness.this_process().tags(), "foreign": {}, "silent": silent}
    tags["beating"] = {**silent, layout.FOLDER_TAG: str(tmp_path)}
    runs = {name: client.create_run(experiment, tags=tags[name], run_name=name).info.run_id for name in tags}
    with pytest.raises(UserError, match=r"^experiments=mendd: expected the name of an .*; did you mean mended\?$"):
        mend.main(["mendd", "--uri", uri])
    assert mend.main(["--uri", uri]) == 0  # all experiments
    assert {name: client.get_run(run).info.status for name, run in runs.items()} == {
        "dead": "KILLED",
        "alive": "RUNNING",
        "foreign": "RUNNING",
        "silent": "KILLED",
        "beating": "RUNNING",
    }
    assert f"process {os.getpid()} on" in client.get_run(runs["dead"]).data.tags["frostline.reason"]
    assert "2 runs mended" in capsys.readouterr().out


@pytest.mark.slow
def test_mend_host_ends_silent_runs_of_that_host(store, tmp_path, capsys):
    uri, client, experiment = store
    lost = dataclasses.replace(liveness.this_process(), host="lost")
    tags = {name: dict(lost.tags()) for name in ("quiet", "here", "other", "new")}
    for name in ("quiet", "here", "other"):
        tags[name][layout.ALIVE_TAG] = f"{time.time() - 1.5 * liveness.SILENT_WHEN_TOLD:.0f}"
    tags["other"] |= dataclasses.replace(lost, host="other").tags()
    tags["other"][layout.ALIVE_TAG] = tags["quiet"][layout.ALIVE_TAG]
    tags["here"][layout.FOLDER_TAG] = str(tmp_path)
    (beat := tmp_path / layout.BEAT).write_text(json.dumps(dataclasses.asdict(lost)))
    runs = {name: client.create_run(experiment, tags=tags[name], run_name=name).info.run_id for name in tags}

    def running() -> set[str]:
        return {name for name, run in runs.items() if client.get_run(run).info.status == "RUNNING"}

    assert mend.main(["mended", "--uri", uri]) == 0
    assert running() == set(runs)
    assert mend.main(["mended", "--uri", uri, "--host", "lost"]) == 0
    assert running() == {"here", "other", "new"}
    assert "new: left alone, since it gave a sign of life in the last 150 seconds" in capsys.readouterr().out
    long_ago = time.time() - 1.5 * liveness.SILENT_WHEN_TOLD
    os.utime(beat, (long_ago, long_ago))
    assert mend.main(["mended", "--uri", uri, "--host", "lost"]) == 0
    assert running() == {"other", "new"}
    assert not beat.exists()


def past_run(status="FINISHED", source="s", owner=None, **tags):
    return past_runs.PastRun("r", status, {"frostline.source": source, **(owner.tags() if owner else {}), **tags})


def finished_run(fingerprint, status="FINISHED", source="s", **more):
    return past_run(status, source, **{"frostline.fingerprint": fingerprint}, **more)


def test_diverged_trial_is_not_repeated():
    diverged = finished_run("f", "FAILED", **{"frostline.reason": "Diverged: the training loss is nan in epoch 2"})
    assert resume.match_of([diverged], "s", "f", trial=True).finished is diverged
    assert resume.match_of([diverged], "s", "f") == resume.Match()
    assert resume.match_of([finished_run("f", "FAILED")], "s", "f", trial=True) == resume.Match()


def test_only_runs_of_same_source_and_data_are_skipped():
    assert resume.match_of([finished_run("f")], "s", "f").finished
    changed = resume.match_of([finished_run("f")], "s", "g")
    assert changed.finished is None and "other data" in (changed.note or "")
    other = resume.match_of([finished_run("f")], "another", "f")
    assert other.finished is None and "source changed" in (other.note or "")
    assert resume.match_of([finished_run("f", "KILLED")], "s", "g").interrupted is None
    assert resume.match_of([finished_run("f", "FAILED")], "s", "g") == resume.Match()


def test_finished_run_is_skipped_despite_later_runs():
    first, since = finished_run("f"), finished_run("g")
    assert resume.match_of([since, first], "s", "f").finished is first
    assert resume.match_of([finished_run("g", "KILLED"), first], "s", "f").finished is first
    assert resume.match_of([finished_run("f", source="another"), first], "s", "f").finished is first


def test_run_of_a_live_process_is_busy(tmp_path):
    working = past_run("RUNNING", owner=liveness.this_process())
    assert resume.match_of([working], "s", "f") == resume.Match(busy=working)
    ended = past_run("KILLED", **{layout.FOLDER_TAG: str(tmp_path)})  # marked as killed by mistake
    assert resume.match_of([ended], "s", "f") == resume.Match(interrupted=ended)
    liveness.write(tmp_path / layout.BEAT)
    assert resume.match_of([ended], "s", "f") == resume.Match(busy=ended)


def test_reused_folder_does_not_belong_to_the_earlier_run(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    journal.append(tmp_path, "run", uid="new", tags={})
    place = {layout.FOLDER_TAG: str(tmp_path)}
    assert past_run(**place, **{layout.UID_TAG: "new"}).folder == tmp_path
    assert past_run(**place, **{layout.UID_TAG: "old"}).folder is None


def ended_sweep(tmp_path, process, *, tracker=(), runs=1):
    """Return the folder of a sweep with this many finished runs, whose process is gone."""
    folder = folder_of_owner(tmp_path, pid=process.pid, started=1.0)
    for number in range(runs):
        (folder / str(number)).mkdir()
        (folder / str(number) / "result.json").write_text(json.dumps({"status": "FINISHED"}))
    (folder / "sweep.json").write_text(
        json.dumps({"tracker": tracker, "runs": [{"digest": "d", "folder": str(i)} for i in range(runs)]})
    )
    return folder


def test_killed_sweep_resumes_in_its_folder(tmp_path, process):
    folder = ended_sweep(tmp_path, process)
    assert claim(folder, ["d"], again=True, named=True) == folder
    early = folder_of_owner(tmp_path / "early", pid=process.pid, started=1.0)
    assert claim(early, ["d"], again=True, named=True) == early


def test_sweep_without_resume_does_not_overwrite_a_folder(tmp_path, process):
    with pytest.raises(UserError, match="a new folder; this one contains the sweep of"):
        claim(ended_sweep(tmp_path, process), ["d"], again=False, named=True)


@pytest.mark.parametrize("digests", [["d"], ["e"]])
def test_dry_run_folder_can_be_claimed(tmp_path, process, digests):
    folder = ended_sweep(tmp_path, process, tracker=None, runs=2)
    (folder / "thesis.tex").write_text("x")
    assert claim(folder, digests, again=False, named=True) == folder
    assert sorted(path.name for path in folder.iterdir()) == [layout.OWNER_LOCK, layout.OWNER, "thesis.tex"]


def test_folder_with_a_recorded_run_is_no_dry_run(tmp_path, process):
    folder = ended_sweep(tmp_path, process, tracker=None)
    journal.append(folder / "0", "run", tags={"frostline.digest": "d"})
    with pytest.raises(UserError, match="another sweep's"):
        claim(folder, ["e"], again=True, named=True)


def test_foreign_folder_is_refused_and_empty_one_claimed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="another sweep's, of an unknown process"):
        claim(tmp_path / "mine", ["d"], again=True, named=True)
    (tmp_path / "empty").mkdir()
    assert claim(tmp_path / "empty", ["d"], again=True, named=True) == tmp_path / "empty"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "mine"]


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_damaged_sweep_file_is_identified_by_its_runs(content, tmp_path, process):
    folder = ended_sweep(tmp_path, process)
    (folder / "sweep.json").write_text(content)
    journal.append(folder / "0", "run", tags={"frostline.digest": "d"})
    with pytest.raises(UserError, match="another sweep's"):
        claim(folder, ["e"], again=True, named=True)
    assert claim(folder, ["d"], again=True, named=True) == folder


def test_runs_of_another_experiment_are_not_found(tmp_path, monkeypatch):
    for name in ("mine", "other"):
        run = tmp_path / name / "0"
        run.mkdir(parents=True)
        journal.append(run.parent, "run", uid=name, tags={}, uri="", experiment=name)
        journal.append(run, "run", uid=f"{name}0", tags={"frostline.digest": name, "frostline.source": "s"})
    monkeypatch.setattr(resume.pending_sweeps, "remembered", lambda uri: [tmp_path / "mine", tmp_path / "other"])
    tracker = Tracker("", "mine", str(tmp_path / "new"), None, None)
    found = resume.earlier_runs(tracker, ["mine", "other"])
    assert found["mine"] and not found["other"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        {"metrics": "x"},
        {"status": "KILLED"},
        {"metrics": {VAL: 0.5, TEST: 57.9}},
        {"metrics": {VAL: 0.5}},
        {"images": {"test": None}},
    ],
)
def test_finished_run_with_damaged_result_is_not_used(tmp_path, content):
    journal.append(tmp_path, "run", uid="a", tags={"frostline.digest": "d"})
    journal.append(tmp_path, "end", status="FINISHED", time=1)
    metrics, images = {VAL: 0.5, TEST: 1.0}, {"test": 3}
    write_result(tmp_path, Result(0, "head", str(tmp_path), None, "FINISHED", None, {}, metrics, images))
    found = past_runs.of_folder(tmp_path)
    assert found is not None and found.metrics == metrics and found.images == images
    whole = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(content if isinstance(content, str) else json.dumps({**whole, **content}))
    assert past_runs.of_folder(tmp_path) is None


@pytest.mark.parametrize("odd", [{"started": 10**400}, {"started": "x"}, {"pid": None}])
def test_damaged_owner_file_is_ignored(tmp_path, odd):
    (tmp_path / OWNER).write_text(json.dumps({**dataclasses.asdict(liveness.this_process()), **odd}))
    assert liveness.read(tmp_path / OWNER) is None


@pytest.mark.parametrize("in_folder", [True, False])
def test_accuracy_missing_in_mlflow_is_read_from_the_folder(tmp_path, monkeypatch, in_folder):
    tags = {"frostline.digest": "d", "frostline.source": "s", layout.FOLDER_TAG: str(tmp_path)}
    if in_folder:
        (tmp_path / layout.CONFIG).touch()
        journal.append(tmp_path, "run", uid="a", tags=tags)
        journal.append(tmp_path, "end", status="FINISHED", time=1)
        write_result(tmp_path, Result(0, "head", "", None, "FINISHED", None, {}, {VAL: 0.5, TEST: 0.25}))
    monkeypatch.setattr(resume.pending_sweeps, "remembered", lambda uri: [])
    known = {"run_id": "a" * 32, "status": "FINISHED", "tags": tags, "metrics": {VAL: 0.5}}
    monkeypatch.setattr(resume.query, "runs", lambda *arguments: [known])
    (found,) = resume.earlier_runs(Tracker("", "e", str(tmp_path / "new"), "1", None), ["d"])["d"]
    judged = resume.match_of([found], "s", None)
    assert (judged.finished is found and found.metrics[TEST] == 0.25) if in_folder else judged.interrupted is found


def test_paused_trial_belongs_to_its_live_search(tmp_path, process):
    import psutil

    folder = folder_of_owner(tmp_path, pid=process.pid, started=psutil.Process(process.pid).create_time())
    (folder / "sweep.json").write_text(json.dumps({"tracker": {}, "runs": [{"digest": "d", "folder": "head-0"}]}))
    (trial := folder / "head-0").mkdir()
    with pytest.raises(Paused), recording(trial, name="head", tags={}, params={}):
        raise Paused(1, 0.5)
    paused = past_runs.of_folder(trial)
    assert paused is not None and paused.status == "PAUSED" and str(process.pid) in str(paused.holder)
    assert resume.match_of([paused], paused.source, None).busy is paused
    (folder / OWNER).write_text(json.dumps(dataclasses.asdict(liveness.this_process())))
    assert paused.holder is None and resume.match_of([paused], paused.source, None).interrupted is paused
