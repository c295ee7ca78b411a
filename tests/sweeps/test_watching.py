"""Watching a cluster sweep whose first job ended without queueing all runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from frostline.core.errors import UserError
from frostline.records import cluster_jobs, journal, layout, liveness, recording, sweep_record
from frostline.records.cluster_jobs import Job
from frostline.records.sweep_facts import RunFacts, SweepFile
from frostline.sweeps import watching
from frostline.sweeps.ownership import claim

NAMES = ("head lr=0.01", "head lr=0.001")


def dead_process_id() -> str:
    """Return the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return str(process.pid)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Return the folder of a sweep of two runs whose first job is a process that was killed."""
    monkeypatch.setattr(watching, "_GONE", 0.0)
    monkeypatch.setattr(watching, "_LOOK", 0.01)
    folder = claim(tmp_path / "sweep", ["a", "b"], again=True, named=True)
    facts = [RunFacts(name, {"freeze_mode": "head"}, str(n), "ab"[n]) for n, name in enumerate(NAMES)]
    SweepFile(folder, None).add(facts)
    cluster_jobs.note(folder, [Job("local", dead_process_id(), (), "its.log")])
    return folder


def test_runs_are_killed_if_the_first_job_died(sweep, capsys):
    assert watching.follow(sweep) == 1
    (job,) = cluster_jobs.of(sweep)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]
    why = f"not queued: local job {job.id}, which checks first: ended; its log is its.log"
    assert lines[:2] == [f"killed {name}: {why} ({sweep / str(n)})" for n, name in enumerate(NAMES)]
    assert lines[2:] == [
        "No answer: none of 2 runs finished.",
        f"local job {job.id} queued no run: ended; its log is its.log. The same command continues.",
    ]


def test_record_shows_the_reason_only_after_the_job_ended(sweep, monkeypatch):
    monkeypatch.setattr(liveness.Owner, "gone", lambda *_, **__: True)  # the command that started it has ended
    assert {(each.status, (each.reason or "")[:11]) for each in sweep_record.read(sweep).results} == {
        ("KILLED", "not queued:")
    }
    cluster_jobs.note(sweep, [Job("local", str(os.getpid()), (), "its.log")])
    assert {each.status for each in sweep_record.read(sweep).results} == {"WAITING"}


def test_error_of_the_first_job_ends_the_wait(sweep, capsys, monkeypatch):
    monkeypatch.setattr(watching, "_GONE", 1000.0)
    (job,) = cluster_jobs.of(sweep)
    cluster_jobs.end(sweep, job.id, stopped="MemoryError: no room")
    assert watching.follow(sweep) == 1
    assert f"local job {job.id} queued no run: ended by MemoryError: no room" in capsys.readouterr().out
    cluster_jobs.end(sweep, job.id, refused="lr=x: expected a number")
    with pytest.raises(UserError, match=r"^lr=x: expected a number$"):
        watching.follow(sweep)


def test_refusal_after_some_runs_were_queued_lists_all_runs(sweep, capsys):
    (job,) = cluster_jobs.of(sweep)
    cluster_jobs.note(sweep, [Job("local", dead_process_id(), ("0",), "its.log")])
    cluster_jobs.end(sweep, job.id, refused="cluster=slurm: expected a value that its queue accepts")
    assert watching.follow(sweep) == 1
    printed = capsys.readouterr().out
    assert "head lr=0.001: not queued: cluster=slurm: expected a value that its queue accepts" in printed
    assert "head lr=0.01: local job" in printed


def test_restarted_sweep_is_not_over_by_its_earlier_end(sweep):
    recording.begin(sweep, "sweep", {})
    recording.end(sweep, "FAILED", None)
    shown = watching._Shown(sweep)
    assert journal.ended(sweep) and shown.look()
    cluster_jobs.note(sweep, [Job("local", str(os.getpid()), (), "its.log")])
    assert not shown.look()


def test_folder_of_a_dead_first_job_is_reclaimed(sweep, monkeypatch):
    monkeypatch.setattr(liveness.Owner, "gone", lambda *_, **__: True)
    assert claim(sweep, ["a", "b"], again=True, named=True) == sweep
    with pytest.raises(UserError, match="another sweep's"):
        claim(sweep, ["a", "c"], again=True, named=True)
    (sweep / layout.JOBS).unlink()  # as after a dry run, whose folder any sweep may claim
    assert claim(sweep, ["a", "c"], again=True, named=True) == sweep
