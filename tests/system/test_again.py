"""Repeated commands: finished runs are skipped, interrupted ones are resumed, and a failure affects one run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

import stores
import warm
from frostline.records import layout, liveness
from whole_sweeps import QUICK, CompletedSweep, command, environment, epoch_lines, places, sweep, wait_until

EPOCHS = ("epochs=40", "seed=0,1")


def sweep_again(folder, store, *overrides, expect=0):
    return sweep(folder, store, *overrides, "resume=true", expect=expect)


@contextlib.contextmanager
def running_sweep(folder, store, *overrides):
    """Start a sweep, and yield its process after three epochs of its first run."""
    arguments = command("-m", *QUICK, *overrides, *places(folder, stores.put(store)))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with warm.Popen(arguments, env=environment(), **pipes) as process:
        try:
            wait_until(lambda: len(epoch_lines(folder / "0")) >= 3)
            yield process
        finally:
            process.kill()


def worker_of(run):
    return liveness.read(run / layout.BEAT).pid


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A sweep without interruption."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return sweep(folder / "sweep", folder / "mlflow.db", *EPOCHS)


def assert_same_results(done, uninterrupted, folders):
    """Check that every run is recorded once, with the metrics of the uninterrupted sweep."""
    assert [r["status"] for r in done.results()] == ["FINISHED"] * 2, done.out
    for number, result in enumerate(done.results()):
        other = uninterrupted.results()[number]
        assert epoch_lines(Path(result["folder"])) == epoch_lines(Path(other["folder"]))
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


def test_extended_sweep_runs_only_new_runs(store, tmp_path):
    first = sweep_again(tmp_path / "first", store, "lr=1e-2,1e-3")
    second = sweep_again(tmp_path / "second", store, "lr=1e-2,1e-3,1e-4")
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


def test_runs_known_only_to_mlflow_are_skipped(tmp_path):
    first = sweep_again(tmp_path / "first", tmp_path / "mlflow.db", "lr=1e-2,1e-3", "epochs=2")
    shutil.rmtree(first.folder)
    second = sweep_again(tmp_path / "second", tmp_path / "mlflow.db", "lr=1e-2,1e-3", "epochs=2")
    assert second.out.count("skipped, finished in") == 2
    assert printed_verdict(second) == printed_verdict(first)
    assert "epochs=2" in printed_verdict(second) and "paired bootstrap" in printed_verdict(second)
    assert not list(second.folder.glob("*/best.safetensors"))


def test_moved_sweep_stops_and_resumes_in_its_new_folder(tmp_path, uninterrupted):
    store, folder = tmp_path / "mlflow.db", tmp_path / "before"
    with running_sweep(folder, store, *EPOCHS) as process:
        folder.rename(tmp_path / "after")
        out = process.stdout.read().decode()
        process.wait(120)
    assert process.returncode == 1 and "Traceback" not in out
    assert f"frostline: {folder}: moved or removed while the sweep ran; " in out
    done = sweep_again(tmp_path / "after", store, *EPOCHS)
    assert f"resumed, interrupted in {tmp_path / 'after'}/0" in done.out
    assert_same_results(done, uninterrupted, [folder, done.folder])


def printed_verdict(done):
    """Return the verdict that a sweep prints between its table and its report."""
    return done.out.rpartition("─")[2].partition("Report:")[0].replace(str(done.folder), "")


def test_killed_sweep_is_finished_bit_for_bit(tmp_path, uninterrupted):
    store, folder = tmp_path / "mlflow.db", tmp_path / "killed"
    with running_sweep(folder, store, *EPOCHS) as process:
        worker = worker_of(folder / "0")
        assert worker != process.pid
        process.kill()
        wait_until(lambda: not psutil.pid_exists(worker), 10)
    done = sweep_again(tmp_path / "next", store, *EPOCHS)
    assert f"resumed, interrupted in {folder}/0" in done.out
    assert_same_results(done, uninterrupted, [folder, done.folder])
    assert not [*folder.glob("*/checkpoint"), *done.folder.glob("*/checkpoint")]


def test_killed_worker_is_replaced_and_its_run_resumed(tmp_path, uninterrupted):
    store, folder = tmp_path / "mlflow.db", tmp_path / "sweep"
    with running_sweep(folder, store, *EPOCHS) as process:
        os.kill(worker_of(folder / "0"), signal.SIGKILL)
        out = process.stdout.read().decode()
        process.wait(120)
    assert process.returncode == 0, out
    assert "its worker was killed by signal 9 (out of memory?); it is restarted" in out
    assert_same_results(CompletedSweep(folder, store, out=out), uninterrupted, [folder])


def test_same_command_resumes_in_the_same_folder(tmp_path, uninterrupted):
    store, folder = tmp_path / "mlflow.db", tmp_path / "sweep"
    with running_sweep(folder, store, *EPOCHS) as process:
        worker = worker_of(folder / "0")
        os.kill(worker, signal.SIGSTOP)  # keep it running during the check
        refused = sweep_again(folder, store, *EPOCHS, expect=2)
        os.kill(worker, signal.SIGCONT)
        assert f"process {process.pid}, started" in refused.err and refused.err.count("\n") == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    other = sweep_again(folder, store, "epochs=3", expect=2)
    assert "another sweep's" in other.err
    done = sweep_again(folder, store, *EPOCHS)
    assert_same_results(done, uninterrupted, [folder])


MANY = """
from frostline.cli import main
from frostline.sweeps import already_finished, skip_or_resume
already_finished._FEW_RUNS = skip_or_resume._NAMED = 4
main()
"""
"""A command for which five runs count as many."""


def test_many_finished_runs_are_skipped_together(tmp_path):
    few = ("data.limit=40", "data.test_fraction=0.05", "data.val_fraction=0.05")
    store, typed = tmp_path / "mlflow.db", ("freeze=knn", "seed=range(5)", *few, "resume=true")

    def run(arguments, **how):
        return warm.run([arguments[0], "-c", MANY, *arguments[2:]], **how)

    first = sweep(tmp_path / "first", store, *typed, run=run)
    written = (first.folder / "record.jsonl").read_bytes()
    second = sweep(tmp_path / "first", store, *typed, run=run)
    assert f"\n5 runs: skipped, finished in {first.folder}\n\n" in second.out and second.out.count("skipped") == 1
    few_runs = sweep(tmp_path / "first", store, *typed)
    assert few_runs.out.count(f": skipped, finished in {first.folder}/") == 5
    assert printed_verdict(second) == printed_verdict(few_runs) == printed_verdict(first)
    assert (first.folder / "record.jsonl").read_bytes() == written
    first.client().delete_run(first.results()[3]["run_id"])
    sweep(tmp_path / "first", store, *typed, run=run)  # checks every run
    assert (first.folder / "record.jsonl").read_bytes() != written


def test_runs_of_another_running_sweep_are_left_to_it(tmp_path, store):
    how = ("epochs=40", "seed=5,6")
    with running_sweep(tmp_path / "first", store, *how) as process:
        worker = worker_of(tmp_path / "first" / "0")
        os.kill(worker, signal.SIGSTOP)  # keeps the second run from starting
        early = sweep_again(tmp_path / "second", store, *how, expect=1)
        os.kill(worker, signal.SIGCONT)
        assert early.out.count("left to") == 2 and not epoch_lines(tmp_path / "second" / "1")
        assert process.wait(120) == 0
    late = sweep_again(tmp_path / "second", store, *how)
    assert [result["folder"] for result in late.results()] == [str(tmp_path / "first" / str(n)) for n in (0, 1)]
