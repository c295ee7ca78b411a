"""The states of cluster jobs, with a fake Slurm of two scripts."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from frostline.core.interrupts import Terminated
from frostline.records import cluster_jobs, layout, liveness
from frostline.records import slurm as engine
from frostline.records.cluster_jobs import Job
from frostline.records.result import Result, write_result
from frostline.records.sweep_facts import RunFacts
from frostline.sweeps import closing, cluster, cluster_work, first_job
from frostline.sweeps.compose import PlannedRun
from small import compose

QUEUE = "7|COMPLETED|None\n8_0|RUNNING|None\n8_1|PENDING|Resources\n8_2|CANCELLED|None\n8_4|TIMEOUT|TimeLimit"
ACCOUNTS = "8_0|PENDING|None\n8_2|CANCELLED by 1000|None\n6|OUT_OF_MEMORY|None"
WORDS = {
    "6": "OUT_OF_MEMORY",  # no longer in the queue
    "8_0": "RUNNING",
    "8_1": "PENDING (Resources)",
    "8_2": "CANCELLED by 1000",
    "8_3": "CANCELLED (before it began)",  # its array has no such member now
    "8_4": "TIMEOUT (TimeLimit)",
    "9": "unknown to the engine",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Return a function that sets the output of a fake Slurm program."""

    def put(name: str, text: str, status: int = 0) -> None:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\nprintf '%s\\n' '{text}'\n{'' if not status else f'exit {status}'}\n")
        program.chmod(0o755)

    monkeypatch.setattr(engine, "_answers", {})
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    put("squeue", QUEUE)
    put("sacct", ACCOUNTS)
    return put


def queued(sweep: Path, *ids: str) -> None:
    cluster_jobs.note(sweep, [Job("slurm", id, (str(number),), "its.log") for number, id in enumerate(ids)])


def test_state_is_from_the_queue_then_from_accounting(tmp_path, slurm):
    queued(tmp_path, *WORDS)
    states = {job.id: str(state) for job, state in cluster_jobs.states(cluster_jobs.of(tmp_path))}
    assert states == WORDS
    assert [job.id for job in cluster_jobs.alive(tmp_path)] == ["8_0", "8_1"]


def test_queued_run_is_held_by_its_job(tmp_path, slurm):
    queued(tmp_path, "8_0", "8_1")
    assert str(liveness.holder(tmp_path / "1")) == "Slurm job 8_1" and not (tmp_path / "1").exists()
    cluster_jobs.end(tmp_path, "8_1")
    assert liveness.holder(tmp_path / "1") is None
    assert str(liveness.holder(tmp_path)) == "Slurm job 8_0"


def test_jobs_count_as_alive_if_slurm_does_not_answer(tmp_path, slurm):
    slurm("squeue", "slurm_load_jobs error: Unable to contact slurm controller", status=1)
    queued(tmp_path, "8_0")
    assert str(liveness.holder(tmp_path / "0")) == "Slurm job 8_0"


def test_results_have_slurms_reasons_and_requeued_runs_continue(tmp_path, slurm):
    ids = ("8_2", "8_1", "8_3", "8_0", "7")
    queued(tmp_path, *ids)
    runs = [RunFacts(f"head seed={number}", {}, str(number)) for number in range(len(ids))]
    for number, status in ((0, "KILLED"), (1, "KILLED"), (4, "FAILED")):
        (own := tmp_path / str(number)).mkdir()
        write_result(own, Result(number, "", str(own), None, status, "SIGTERM", {}, {}))
    found = [(each.status, each.reason) for each in closing.results(tmp_path, runs)]
    assert found == [
        ("KILLED", "Slurm job 8_2: CANCELLED by 1000; its log is its.log"),
        ("RUNNING", "Slurm job 8_1 has it at this moment"),
        ("KILLED", "Slurm job 8_3: CANCELLED (before it began); its log is its.log"),
        ("RUNNING", "Slurm job 8_0 has it at this moment"),
        ("FAILED", "SIGTERM"),
    ]


def test_reason_of_a_failure_is_read_from_the_log(tmp_path, slurm):
    slurm("squeue", "5|FAILED|NonZeroExitCode")
    (log := tmp_path / "log").write_text(
        "epoch 1\nslurmstepd-node1: error: Exceeded job memory limit\nslurmstepd-node1: error: *** STEP 5.0 ***\n"
    )
    cluster_jobs.note(tmp_path, [Job("slurm", "5", ("0",), str(log))])
    ((_, state),) = cluster_jobs.states(cluster_jobs.of(tmp_path))
    assert str(state) == "FAILED (Exceeded job memory limit)"


def test_stopping_job_counts_as_ended(tmp_path, slurm):
    queued(tmp_path, "8_0")
    cluster_jobs.end(tmp_path, "8_0", stopped="SIGTERM")
    ((_, state),) = cluster_jobs.states(cluster_jobs.of(tmp_path))
    assert str(state) == "ended by SIGTERM" and not cluster_jobs.alive(tmp_path)


def test_truncated_line_hides_no_other_job(tmp_path):
    queued(tmp_path, "8_0")
    with (tmp_path / layout.JOBS).open("a") as file:
        file.write('{"engine": "slu')
    assert [job.id for job in cluster_jobs.of(tmp_path)] == ["8_0"]


def test_unrecorded_jobs_are_found_by_submitits_files(tmp_path, slurm):
    queued(tmp_path, "7")
    (kept := tmp_path / ".jobs").mkdir()
    (kept / "7_submitted.pkl").touch()
    cluster_jobs.announce(tmp_path, "slurm", [("0", "1"), ("2",), ("3",)], kept, "typed")
    assert [job.id for job in cluster_jobs.of(tmp_path)] == ["7"]
    for member in (10, 0, 9):  # neither ordered by name nor by time
        (kept / f"8_{member}_submitted.pkl").touch()
    found = cluster_jobs.of(tmp_path)
    assert [(job.id, job.runs) for job in found[1:]] == [("8_0", ("0", "1")), ("8_9", ("2",)), ("8_10", ("3",))]
    assert found[1].log == str(kept / "8_0_0_log.out") and found[1].asked == "typed"
    cluster_jobs.end(tmp_path, "8_9")  # as the job itself records
    assert {job.id for job in cluster_jobs.of(tmp_path) if job.ended} == {"8_9"}


def test_unqueued_run_belongs_to_the_latest_first_job(tmp_path, slurm):
    first, again = Job("slurm", "6", (), "its.log"), Job("slurm", "8_3", (), "its.log")
    cluster_jobs.note(tmp_path, [first, Job("slurm", "8_0", ("0",), "its.log")])
    reasons = {run: cluster_jobs.why(*found) for run, found in cluster_jobs.in_charge(tmp_path, ["0", "1"]).items()}
    assert reasons["0"] == "Slurm job 8_0: RUNNING; its log is its.log"
    assert reasons["1"] == "not queued: Slurm job 6, which checks first: OUT_OF_MEMORY; its log is its.log"
    cluster_jobs.note(tmp_path, [again])
    assert {job.id for job, _ in cluster_jobs.in_charge(tmp_path, ["0", "1"]).values()} == {"8_3"}
    cluster_jobs.end(tmp_path, "8_3", refused="lr=x: expected a number")
    assert cluster_jobs.why(*cluster_jobs.in_charge(tmp_path, ["1"])["1"]) == "not queued: lr=x: expected a number"


def test_own_reason_is_used_if_slurm_has_none(tmp_path, slurm):
    slurm("squeue", "9|FAILED|NonZeroExitCode")
    queued(tmp_path, "9")
    cluster_jobs.end(tmp_path, "9", stopped="RuntimeError: CUDA error")
    ((_, state),) = cluster_jobs.states(cluster_jobs.of(tmp_path))
    assert str(state) == "FAILED (RuntimeError: CUDA error)"


def test_job_requeued_by_slurm_is_not_queued_again(slurm, monkeypatch):
    job, preempted = Job("slurm", "7", ("0",), "its.log"), Terminated("SIGTERM")
    slurm("scontrol", "JobId=7 JobName=frostline\n   Requeue=1 Restarts=2 BatchFlag=1")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(SystemExit):
        cluster_work._ended_by(preempted, job, lambda: pytest.fail("queued twice"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert cluster_work._ended_by(preempted, job, lambda: pytest.fail("was cancelled")) == "SIGTERM"


def test_sweep_in_progress_tells_that_its_jobs_keep_their_resources(tmp_path, monkeypatch, capsys):
    planned = PlannedRun(compose(), "head", {}, "0")
    executor = SimpleNamespace(how=SimpleNamespace(detach=True))
    monkeypatch.setattr(first_job, "_in_progress", lambda folder, asked: tmp_path)
    assert first_job.send([planned], executor, tmp_path / "new", named=False, run=pytest.fail) == 0
    assert "nothing is queued twice, and its jobs keep the resources" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("Invalid generic resource (gres) specification", "cluster.gpus=1: expected a value that its queue accepts ("),
        ("invalid partition specified: gpu sbatch: error: Batch job submission failed", "cluster.partition=gpu: "),
        ("Memory specification can not be satisfied", "cluster.memory_gb=None: "),
        ("Requested node configuration is not available", "cluster=slurm: "),
    ],
)
def test_slurms_refusal_names_the_config_key(error, message):
    how = replace(compose().cluster, name="slurm", partition="gpu")
    assert str(cluster._refusal(RuntimeError(f"sbatch: error: {error}"), how)).startswith(message)


@pytest.mark.parametrize(("engine", "expected"), [("slurm", ["--cpus-per-task=6"]), ("local", None)])
def test_srun_gets_the_cores_of_its_job(engine, expected, tmp_path, monkeypatch):
    given: dict[str, object] = {}
    executor = SimpleNamespace(update_parameters=given.update, map_array=lambda call, calls: [])
    fake = SimpleNamespace(helpers=SimpleNamespace(clean_env=nullcontext), AutoExecutor=lambda *_, **__: executor)
    monkeypatch.setitem(sys.modules, "submitit", fake)
    params = {"submitit_folder": tmp_path / ".jobs", "cpus_per_task": 6}
    launcher = SimpleNamespace(params=params, _EXECUTOR=engine)
    cluster.Cluster(launcher, OmegaConf.create({"hydra": {"sweep": {"dir": "x"}}}), detached=True).submit(
        [], [], tmp_path
    )
    assert given.get("slurm_srun_args") == expected and given["cpus_per_task"] == 6
