"""Heads that are solved stand in a sweep like any other: with no lr, once each, the same after whatever ends it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_again import lines, until
from test_sweep import QUICK, command, environment, sweep, where

import stores
import warm
from frostline.commands import predict
from frostline.core.errors import UserError

GRID = ("freeze=head,probe,knn,centroid", "lr=1e-2,1e-3", "freeze_mode.l2=[0.1,0.003]")
RUNS = ["head lr=0.01 seed=0", "head lr=0.001 seed=0"]
SOLVED = ["probe seed=0", "knn seed=0", "centroid seed=0"]


@pytest.fixture(scope="module")
def solved(tmp_path_factory, store):
    return sweep(tmp_path_factory.mktemp("sweeps") / "solved", store, *GRID)


def of(done, name):
    return next(result for result in done.results() if result["name"] == name)


def folder(done, name):
    return Path(of(done, name)["folder"])


def told(done):
    """Return what a sweep says of its runs, times and their own folders left out."""
    return {
        result["name"]: (
            result["status"],
            {key: value for key, value in result["metrics"].items() if not key.startswith("cost/")},
            lines(Path(result["folder"])),
        )
        for result in done.results()
    }


def test_each_is_one_run_whatever_is_varied_that_it_does_not_read(solved):
    assert sorted(told(solved)) == sorted([*RUNS, *SOLVED])
    assert {status for status, _, _ in told(solved).values()} == {"FINISHED"}
    assert "could not be written" not in solved.out
    for name in SOLVED:
        mode = name.split()[0]
        assert f"{name}: one run, not 2, since {mode} ignores lr\n" in solved.out
        assert not {"lr", "optimizer"} & of(solved, name)["choices"].keys()
        assert len(lines(folder(solved, name))) == 1
    row = next(line for line in solved.out.splitlines() if line.split()[:2] == ["probe", "-"])
    assert row.split()[2].endswith("%")
    assert not [line for line in solved.out.splitlines() if "None" in line]


def test_the_record_has_them_as_it_has_other_modes_but_for_what_they_do_not_read(solved):
    for run in solved.runs():
        if run.data.params.get("freeze_mode") not in ("probe", "knn", "centroid"):
            continue
        assert not {"lr", "epochs", "batch_size", "optimizer.name", "train.mixup"} & run.data.params.keys()
        assert run.data.tags["frostline.frozen"].endswith("tensors unchanged, bit for bit")
        assert {"best/val_accuracy", "test/accuracy", "cost/train_seconds", "val/loss"} <= run.data.metrics.keys()
        history = solved.client().get_metric_history(run.info.run_id, "val/accuracy")
        assert [point.step for point in history] == [1]
    of_probe = next(run for run in solved.runs() if run.data.params.get("freeze_mode") == "probe")
    assert of_probe.data.metrics["probe/l2"] in json.loads(of_probe.data.params["freeze_mode.l2"])


def test_a_probe_is_an_ordinary_head_and_no_worse_on_validation_than_one_that_is_trained(solved, capsys):
    best = max(of(solved, name)["metrics"]["best/val_accuracy"] for name in RUNS)
    assert of(solved, "probe seed=0")["metrics"]["best/val_accuracy"] >= best
    trained = load_file(folder(solved, RUNS[0]) / "best.safetensors")
    for name in ("probe seed=0", "centroid seed=0"):
        weights = load_file(folder(solved, name) / "best.safetensors")
        moved = [key for key, tensor in weights.items() if not torch.equal(tensor, trained[key])]
        assert moved == ["fc.bias", "fc.weight"]
    image = Path(__file__).parents[2] / "docs" / "mlflow.png"
    assert predict.main([str(folder(solved, "probe seed=0")), str(image), "--top", "1"]) == 0
    assert "mlflow.png" in capsys.readouterr().out


def test_neighbours_leave_no_weights_and_whoever_asks_for_them_is_told_what_to_take(solved):
    own = folder(solved, "knn seed=0")
    assert not (own / "best.safetensors").exists() and (own / "test_predictions.safetensors").exists()
    told = "expected a run whose head has weights, and knn seed=0 has none: take freeze=probe or freeze=centroid"
    with pytest.raises(UserError, match=told):
        predict.main([str(own), str(own / "mistakes.jpg")])


def test_the_same_command_skips_what_is_done_whatever_it_says_that_they_do_not_read(solved, store, tmp_path):
    more = ("freeze=probe,knn", GRID[2], "lr=0.5", "epochs=9", "batch_size=7", "train.mixup=0.3", "resume=true")
    again = sweep(tmp_path / "again", store, *more)
    assert again.out.count(": skipped, finished in") == 2
    assert "lr=0.5 has no effect: it needs a freeze mode that trains in steps, not knn and probe" in again.out


@pytest.mark.slow
def test_killed_and_typed_again_it_ends_the_same(solved, tmp_path):
    place, record, few = tmp_path / "killed", tmp_path / "mlflow.db", ("freeze=probe,knn", GRID[2])
    arguments = command("-m", *QUICK, *few, *where(place, stores.put(record)))
    with warm.Popen(arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        until(lambda: (place / "0" / "plan.json").exists() or process.poll() is not None)
        process.kill()
        process.stdout.read()
    again = told(sweep(place, record, *few, "resume=true"))
    assert again == {name: told(solved)[name] for name in SOLVED[:2]}
