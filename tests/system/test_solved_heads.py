"""Solved heads (probe, knn, centroid) in a sweep: no lr, one run each, equal results after a kill."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import stores
import warm
from frostline.commands import predict
from frostline.core.errors import UserError
from whole_sweeps import QUICK, command, environment, epoch_lines, places, sweep, wait_until, without_costs

GRID = ("freeze=head,probe,knn,centroid", "lr=1e-2,1e-3", "freeze_mode.l2=[0.1,0.003]")
RUNS = ["head lr=0.01 seed=0", "head lr=0.001 seed=0"]
SOLVED = ["probe seed=0", "knn seed=0", "centroid seed=0"]


@pytest.fixture(scope="module")
def solved(tmp_path_factory, store):
    return sweep(tmp_path_factory.mktemp("sweeps") / "solved", store, *GRID)


def result_of(done, name):
    return next(result for result in done.results() if result["name"] == name)


def folder(done, name):
    return Path(result_of(done, name)["folder"])


def run_facts(done):
    """Return status, metrics without costs, and epochs of each run by its name."""
    return {
        result["name"]: (
            result["status"],
            without_costs(result["metrics"]),
            epoch_lines(Path(result["folder"])),
        )
        for result in done.results()
    }


def test_ignored_keys_do_not_multiply_solved_heads(solved):
    assert sorted(run_facts(solved)) == sorted([*RUNS, *SOLVED])
    assert {status for status, _, _ in run_facts(solved).values()} == {"FINISHED"}
    assert "could not be written" not in solved.out
    for name in SOLVED:
        mode = name.split()[0]
        assert f"{name}: one run, not 2, since {mode} ignores lr\n" in solved.out
        assert not {"lr", "optimizer"} & result_of(solved, name)["choices"].keys()
        assert len(epoch_lines(folder(solved, name))) == 1
    row = next(line for line in solved.out.splitlines() if line.split()[:2] == ["probe", "-"])
    assert row.split()[2].endswith("%")
    assert not [line for line in solved.out.splitlines() if "None" in line]


def test_mlflow_params_omit_ignored_keys(solved):
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
    assert result_of(solved, "probe seed=0")["metrics"]["probe/l2"] == of_probe.data.metrics["probe/l2"]
    assert result_of(solved, "knn seed=0")["metrics"]["knn/k"] in (10, 20, 100, 200)


def test_probe_is_no_worse_than_a_trained_head(solved, capsys):
    best = max(result_of(solved, name)["metrics"]["best/val_accuracy"] for name in RUNS)
    assert result_of(solved, "probe seed=0")["metrics"]["best/val_accuracy"] >= best
    trained = load_file(folder(solved, RUNS[0]) / "best.safetensors")
    for name in ("probe seed=0", "centroid seed=0"):
        weights = load_file(folder(solved, name) / "best.safetensors")
        moved = [key for key, tensor in weights.items() if not torch.equal(tensor, trained[key])]
        assert moved == ["fc.bias", "fc.weight"]
    image = Path(__file__).parents[2] / "docs" / "mlflow.png"
    assert predict.main([str(folder(solved, "probe seed=0")), str(image), "--top", "1"]) == 0
    assert "mlflow.png" in capsys.readouterr().out


def test_knn_has_no_weights_and_predict_refuses_it(solved):
    own = folder(solved, "knn seed=0")
    assert not (own / "best.safetensors").exists() and (own / "test_predictions.safetensors").exists()
    message = "expected a run whose head has weights, and knn seed=0 has none: take freeze=probe or freeze=centroid"
    with pytest.raises(UserError, match=message):
        predict.main([str(own), str(own / "mistakes.jpg")])


def test_finished_heads_are_skipped_despite_ignored_keys(solved, store, tmp_path):
    more = ("freeze=probe,knn", GRID[2], "lr=0.6", "lr=0.5", "epochs=9", "batch_size=7", "train.mixup=0.3")
    again = sweep(tmp_path / "again", store, *more, "resume=true")
    assert again.out.count(": skipped, finished in") == 2
    assert "lr=0.6 has no effect: lr=0.5 comes after it; values to compare have commas between them\n" in again.out
    assert "lr=0.5 has no effect: it needs a freeze mode that trains in steps, not knn and probe" in again.out


@pytest.mark.slow
def test_killed_sweep_gives_the_same_results_when_repeated(solved, tmp_path):
    place, record, few = tmp_path / "killed", tmp_path / "mlflow.db", ("freeze=probe,knn", GRID[2])
    arguments = command("-m", *QUICK, *few, *places(place, stores.put(record)))
    with warm.Popen(arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        wait_until(lambda: (place / "0" / "plan.json").exists() or process.poll() is not None)
        process.kill()
        process.stdout.read()
    again = run_facts(sweep(place, record, *few, "resume=true"))
    assert again == {name: run_facts(solved)[name] for name in SOLVED[:2]}
