"""The same command again: what finished is left out, what was interrupted goes on, and what fails costs one run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from test_sweep import QUICK, Done, command, environment, sweep, where

import stores
import warm
from frostline.records import layout, liveness

EPOCHS = ("epochs=40", "seed=0,1")


def again(folder, store, *overrides, expect=0):
    return sweep(folder, store, *overrides, "resume=true", expect=expect)


@contextlib.contextmanager
def started(folder, store, *overrides):
    """Start a sweep, and yield its process when its first run has finished three epochs."""
    arguments = command("-m", *QUICK, *overrides, *where(folder, stores.put(store)))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with warm.Popen(arguments, env=environment(), **pipes) as process:
        try:
            until(lambda: len(lines(folder / "0")) >= 3)
            yield process
        finally:
            process.kill()


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lines(run):
    path = run / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def worker_of(run):
    return liveness.read(run / layout.BEAT).pid


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The sweep that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return sweep(folder / "sweep", folder / "mlflow.db", *EPOCHS)


def same(done, undisturbed, folders):
    """Check that every run is recorded once, with the metrics that the undisturbed one has."""
    assert [r["status"] for r in done.results()] == ["FINISHED"] * 2, done.out
    for number, result in enumerate(done.results()):
        other = undisturbed.results()[number]
        assert lines(Path(result["folder"])) == lines(Path(other["folder"]))
        for key in ("best/val_accuracy", "best/epoch", "test/accuracy", "test/loss"):
            assert result["metrics"][key] == other["metrics"][key]
        history = done.client().get_metric_history(result["run_id"], "val/loss")
        assert [metric.step for metric in history] == list(range(1, 41))
    runs = [run for run in done.client().search_runs(["1"], "") if "frostline.digest" in run.data.tags]
    assert sorted(run.data.tags["frostline.digest"] for run in runs) == sorted(
        {run.data.tags["frostline.digest"] for run in runs}
    )
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(folders) == len(set(folders))


def test_what_finished_is_skipped_and_an_extended_sweep_runs_only_what_is_new(store, tmp_path):
    first = again(tmp_path / "first", store, "lr=1e-2,1e-3")
    second = again(tmp_path / "second", store, "lr=1e-2,1e-3,1e-4")
    old, new = first.results(), second.results()
    assert [r["run_id"] for r in new[:2]] == [r["run_id"] for r in old]
    assert [r["metrics"] for r in new[:2]] == [r["metrics"] for r in old]
    assert f"head lr=0.01 seed=0: skipped, finished in {first.folder}/0 as run {old[0]['run_id']}" in second.out
    assert not (second.folder / "0" / "metrics.jsonl").exists() and (second.folder / "2" / "metrics.jsonl").exists()
    assert [r["choices"]["lr"] for r in new] == [0.01, 0.001, 0.0001]
    recorded = json.loads((second.folder / "results.json").read_text())
    assert [r["run_id"] for r in recorded] == [r["run_id"] for r in new]
    third = sweep(tmp_path / "third", store, "lr=1e-2", "resume=false")
    assert third.results()[0]["run_id"] not in {r["run_id"] for r in new} and "skipped, " not in third.out


def test_what_finished_on_another_machine_is_skipped_and_ends_with_the_same_answer(tmp_path):
    first = again(tmp_path / "first", tmp_path / "mlflow.db", "lr=1e-2,1e-3", "epochs=2")
    shutil.rmtree(first.folder)
    second = again(tmp_path / "second", tmp_path / "mlflow.db", "lr=1e-2,1e-3", "epochs=2")
    assert second.out.count("skipped, finished in") == 2
    assert answer(second) == answer(first)
    assert "epochs=2" in answer(second) and "paired bootstrap" in answer(second)
    assert not list(second.folder.glob("*/best.safetensors"))


def test_a_sweep_that_is_moved_while_it_runs_says_so_and_goes_on_where_it_lies(tmp_path, undisturbed):
    store, folder = tmp_path / "mlflow.db", tmp_path / "before"
    with started(folder, store, *EPOCHS) as process:
        folder.rename(tmp_path / "after")
        out = process.stdout.read().decode()
        process.wait(120)
    assert process.returncode == 1 and "Traceback" not in out
    assert f"frostline: {folder}: moved or removed while the sweep ran; " in out
    done = again(tmp_path / "after", store, *EPOCHS)
    assert f"resumed, interrupted in {tmp_path / 'after'}/0" in done.out
    same(done, undisturbed, [folder, done.folder])


def answer(done):
    """Return what a sweep says at its end, between its table and its report."""
    return done.out.rpartition("─")[2].partition("Report:")[0].replace(str(done.folder), "")


def test_a_killed_sweep_leaves_no_process_and_the_next_one_finishes_it_bit_for_bit(tmp_path, undisturbed):
    store, folder = tmp_path / "mlflow.db", tmp_path / "killed"
    with started(folder, store, *EPOCHS) as process:
        worker = worker_of(folder / "0")
        assert worker != process.pid
        process.kill()
        until(lambda: not psutil.pid_exists(worker), 10)
    done = again(tmp_path / "next", store, *EPOCHS)
    assert f"resumed, interrupted in {folder}/0" in done.out
    same(done, undisturbed, [folder, done.folder])
    assert not [*folder.glob("*/checkpoint"), *done.folder.glob("*/checkpoint")]


def test_a_killed_worker_costs_nothing_but_its_work_since_the_last_checkpoint(tmp_path, undisturbed):
    store, folder = tmp_path / "mlflow.db", tmp_path / "sweep"
    with started(folder, store, *EPOCHS) as process:
        os.kill(worker_of(folder / "0"), signal.SIGKILL)
        out = process.stdout.read().decode()
        process.wait(120)
    assert process.returncode == 0, out
    assert "its worker was killed by signal 9 (out of memory?); it is restarted" in out
    same(Done(0, out, "", folder, store), undisturbed, [folder])


def test_the_very_same_command_goes_on_in_its_own_folder(tmp_path, undisturbed):
    store, folder = tmp_path / "mlflow.db", tmp_path / "sweep"
    with started(folder, store, *EPOCHS) as process:
        worker = worker_of(folder / "0")
        os.kill(worker, signal.SIGSTOP)  # so that it is not done before it is looked at
        refused = again(folder, store, *EPOCHS, expect=2)
        os.kill(worker, signal.SIGCONT)
        assert f"process {process.pid}, started" in refused.err and refused.err.count("\n") == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    other = again(folder, store, "epochs=3", expect=2)
    assert "another sweep's" in other.err
    done = again(folder, store, *EPOCHS)
    same(done, undisturbed, [folder])


MANY = """
from frostline.cli import main
from frostline.sweeps import already_finished, skip_or_resume, sweep
already_finished.NAMED = skip_or_resume.NAMED = sweep.NAMED = 4
main()
"""
"""A command to which five runs are many."""


def test_many_finished_runs_are_answered_from_where_they_are_unless_somebody_deleted_one(tmp_path):
    few = ("data.limit=40", "data.test_fraction=0.05", "data.val_fraction=0.05")
    store, typed = tmp_path / "mlflow.db", ("freeze=knn", "seed=range(5)", *few, "resume=true")

    def run(arguments, **how):
        return warm.run([arguments[0], "-c", MANY, *arguments[2:]], **how)

    first = sweep(tmp_path / "first", store, *typed, run=run)
    written = (first.folder / "record.jsonl").read_bytes()
    second = sweep(tmp_path / "first", store, *typed, run=run)
    assert f"\n5 runs: skipped, finished in {first.folder}\n\n" in second.out and second.out.count("skipped") == 1
    assert answer(second) == answer(first)
    assert (first.folder / "record.jsonl").read_bytes() == written
    first.client().delete_run(first.results()[3]["run_id"])
    sweep(tmp_path / "first", store, *typed, run=run)  # is looked into
    assert (first.folder / "record.jsonl").read_bytes() != written


def test_a_run_that_another_sweep_has_before_it_is_left_to_it_and_taken_in_when_done(tmp_path, store):
    how = ("epochs=40", "seed=5,6")
    with started(tmp_path / "first", store, *how) as process:
        worker = worker_of(tmp_path / "first" / "0")
        os.kill(worker, signal.SIGSTOP)  # the second run is not begun meanwhile
        early = again(tmp_path / "second", store, *how, expect=1)
        os.kill(worker, signal.SIGCONT)
        assert early.out.count("left to") == 2 and not lines(tmp_path / "second" / "1")
        assert process.wait(120) == 0
    late = again(tmp_path / "second", store, *how)
    assert [result["folder"] for result in late.results()] == [str(tmp_path / "first" / str(n)) for n in (0, 1)]
