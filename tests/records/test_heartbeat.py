"""A run's folder has one writer, which writes heartbeats; no other process writes to the folder or ends the run."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

import small
import stores
from frostline.core import interrupts
from frostline.core.config_keys import choices, digest
from frostline.records import heartbeat, journal, layout, liveness
from frostline.records.heartbeat import Busy, beating
from frostline.records.layout import BEAT, OWNER
from frostline.records.recording import end_the_dead, now
from frostline.records.result import TEST, VAL, Result, read_result, write_result
from frostline.records.run_folders import going_on, with_record
from frostline.records.sweep_facts import Interrupted, RunFacts, SweepFile
from frostline.sweeps import closing, job, sweep
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.executor import Executor
from frostline.tracking import pending_sweeps

HOLD = """
import sys
from pathlib import Path
from frostline.records import heartbeat
heartbeat._EVERY = 0.05
with heartbeat.beating() as heart:
    heart.claim(Path(sys.argv[1]))
    print("claimed", flush=True)
    input()
"""


@contextmanager
def held(folder):
    """Let another process hold the run in `folder`, like a submitted job."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], **pipes) as process:
        try:
            assert process.stdout.readline() == "claimed\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def run(tmp_path):
    """Return the folder of the only run of a sweep, which has not started."""
    (folder := tmp_path / "sweep" / "0").mkdir(parents=True)
    liveness.write(folder.parent / OWNER)
    SweepFile(folder.parent, None).add([RunFacts("head", {}, "0")])
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in layout.OF_OWNER}


def start():
    raise RuntimeError("it started")


def carry_out(folder):
    return job.SweepJob(folder.parent, 0).carry_out(start)


def test_job_takes_a_run_only_after_its_holder_ended(run):
    journal.append(run, "run", uid="a", tags={})
    with held(run) as process:
        before = content(run)
        left = carry_out(run)
        assert (left.status, left.folder) == ("RUNNING", str(run))
        assert f"process {process.pid}" in left.reason and content(run) == before
        process.kill()
        process.wait()
        assert (run / BEAT).exists(), "the killed process left its heartbeat"
        assert carry_out(run).reason == "RuntimeError: it started"
    assert not (run / BEAT).exists()


@pytest.mark.slow
def test_one_of_many_concurrent_claims_succeeds(tmp_path, monkeypatch):
    living = liveness.living
    monkeypatch.setattr(liveness, "living", lambda path: (living(path), time.sleep(0.05))[0])  # all check at once
    ours, theirs = os.pipe()
    go, end = os.pipe()
    children = []
    for _ in range(8):
        if (pid := os.fork()) == 0:
            try:
                with beating() as heart:
                    try:
                        heart.claim(tmp_path)
                        os.write(theirs, b"1")
                    except Busy:
                        os.write(theirs, b"0")
                    os.read(go, 1)
            finally:
                os._exit(0)
        children.append(pid)
    answers = b"".join(os.read(ours, 1) for _ in children)
    os.write(end, b"x" * len(children))
    for pid in children:
        os.waitpid(pid, 0)
    assert sorted(answers) == sorted(b"0" * 7 + b"1")
    with beating() as heart:
        assert heart.take(tmp_path) is None, "the holder released it"


def write_remote_heartbeat(folder, name=BEAT, age=5.0):
    """Write the heartbeat of a process on another machine, `age` seconds old."""
    owner = dataclasses.replace(liveness.this_process(), host="elsewhere", pid=1)
    (folder / name).write_text(json.dumps(dataclasses.asdict(owner)))
    then = time.time() - age
    os.utime(folder / name, (then, then))
    return owner


def test_remote_holder_is_awaited_until_a_heartbeat_or_timeout(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "_LOOK", 0.01)
    owner, looks = write_remote_heartbeat(tmp_path), []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            os.utime(tmp_path / BEAT)

    monkeypatch.setattr(heartbeat.time, "sleep", sleep)
    with beating() as heart:
        with pytest.raises(Busy, match="elsewhere") as busy:
            heart.claim(tmp_path)
        assert busy.value.owner == owner and len(looks) == 3
        write_remote_heartbeat(tmp_path, age=liveness.SILENT - 0.05)
        monkeypatch.undo()
        monkeypatch.setattr(heartbeat, "_LOOK", 0.01)
        heart.claim(tmp_path)
        assert liveness.read(tmp_path / BEAT) == liveness.this_process()


def test_run_of_a_sweep_is_passed_only_to_its_jobs(run):
    with held(run) as process:
        sweeps = liveness.read(run / BEAT)
        assert carry_out(run).status == "RUNNING"
        (run.parent / OWNER).write_text(json.dumps(dataclasses.asdict(sweeps)))
        assert carry_out(run).reason == "RuntimeError: it started"
        assert not (run / BEAT).exists(), "the living sweep does not recreate it"
        assert process.poll() is None


def test_passed_run_gets_no_heartbeats_of_the_sweep(run):
    with held(run):
        write_remote_heartbeat(run, age=100)
        then = (run / BEAT).stat().st_mtime
        time.sleep(0.3)  # six beats
        assert (run / BEAT).stat().st_mtime == then


def test_two_jobs_do_not_resume_the_same_run(run, tmp_path):
    (before := tmp_path / "before").mkdir()
    facts = RunFacts("head", {}, "0", previous=Interrupted(None, str(before)))
    SweepFile(run.parent, None).add([facts])
    with held(before):
        left = carry_out(run)
        assert (left.status, left.folder) == ("RUNNING", str(before))
        assert read_result(run) == left
    assert carry_out(run).reason == "RuntimeError: it started"


def test_late_job_keeps_a_finished_run(run):
    done = Result(0, "head", str(run), None, "FINISHED", None, {}, {VAL: 1.0, TEST: 1.0})
    write_result(run, done)
    assert carry_out(run) == done
    SweepFile(run.parent, None).add([RunFacts("head", {}, "0")])  # planned again since, as after a change of the code
    assert carry_out(run).reason == "RuntimeError: it started"


def test_unwritable_folder_has_no_holder(tmp_path):
    with beating() as heart:
        assert heart.take(tmp_path / "gone") is None


def test_only_silent_runs_are_ended(tmp_path):
    place = {"host": liveness.this_process().host, "name": "n", "tags": {}, "time": 0}
    for folder in (tmp_path, tmp_path / "0", tmp_path / "1"):
        folder.mkdir(exist_ok=True)
        journal.append(folder, "run", uid=folder.name, **place)
    write_remote_heartbeat(tmp_path, OWNER, age=2 * liveness.SILENT)
    write_remote_heartbeat(tmp_path / "0")
    write_remote_heartbeat(tmp_path / "1", age=2 * liveness.SILENT)
    end_the_dead(with_record(tmp_path))
    assert [journal.ended(folder) for folder in (tmp_path, tmp_path / "0", tmp_path / "1")] == [True, False, True]
    assert going_on(tmp_path) == [tmp_path / "0"]
    facts = RunFacts("head", {}, "0")
    assert closing.result(tmp_path, 0, facts).status == "RUNNING" and not journal.ended(tmp_path / "0")


class _Executor(Executor):
    """Writes results instead of running; if `interrupted`, it submits jobs and raises KeyboardInterrupt."""

    def __init__(self, folder: Path, *, interrupted: bool = False) -> None:
        self.folder, self.interrupted, self.ran = folder, interrupted, list[int]()

    def call(self, function, meanwhile=lambda: None):
        meanwhile()
        return function()

    def run(self, folder, planned, numbers, further):
        assert folder == self.folder
        self.ran += numbers
        if self.interrupted:
            raise KeyboardInterrupt
        for number in numbers:
            (own := self.folder / str(number)).mkdir(exist_ok=True)
            write_result(own, Result(number, str(number), str(own), None, "FINISHED", None, {}, {VAL: 1.0, TEST: 1.0}))
        return {}


@pytest.mark.slow
def test_sweep_leaves_running_jobs_alone_and_reports_them(tmp_path, capsys, monkeypatch):
    """Repeats the command while a job of the first one runs, and again after its end."""
    uri, folder = f"sqlite:///{stores.put(tmp_path / 'mlflow.db')}", tmp_path / "sweep"
    configs = [
        small.compose("precision=fp32", "compile=off", "data.limit=60", f"seed={seed}", f"tracking.uri={uri}")
        for seed in (0, 1)
    ]
    planned = [PlannedRun(one, f"head seed={one.seed}", choices(one), str(i)) for i, one in enumerate(configs)]

    def again(*, interrupted=False):
        executor = _Executor(folder, interrupted=interrupted)
        status = sweep.run_planned(planned, executor=executor, folder=folder, folder_named=True)
        return status, executor.ran, capsys.readouterr().out

    def once_more(results, aside, show=closing.show):
        interrupts._arrived(signal.SIGINT, None)
        return show(results, aside)

    def twice_more(results, aside):
        for _ in range(2):
            interrupts._arrived(signal.SIGINT, None)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(closing, "show", once_more)
        again(interrupted=True)
    assert journal.ended(folder) and (folder / layout.RESULTS).exists(), "one more interrupt keeps the record complete"
    (folder / layout.RESULTS).unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(closing, "show", twice_more)
        again(interrupted=True)
    assert not (folder / layout.RESULTS).exists(), "two more interrupts skip the results"
    run = MlflowClient(uri).get_run(journal.run_id(folder))
    assert journal.ended(folder) and run.info.status == "KILLED", "but keep the record complete"
    assert again(interrupted=True)[:2] == (130, [0, 1])
    (folder / "0").mkdir()
    with held(folder / "0") as process:
        tags = {"frostline.digest": digest(configs[0])}
        journal.append(folder / "0", "run", uid="a0", name="head", tags=tags, time=now())
        before = (folder / "0" / layout.RECORD).read_bytes()
        status, ran, said = again()
        assert (status, ran) == (1, [1])
        assert f"process {process.pid}" in said and f"frostline report {folder}" in said
        assert "running  head seed=0" in said
        assert (folder / "0" / layout.RECORD).read_bytes() == before
        assert pending_sweeps.remembered(uri) == [folder], "what the job will write is still to be sent"
    assert again()[:2] == (0, [0, 1])  # it was killed before it could finish
    assert pending_sweeps.remembered(uri) == []
