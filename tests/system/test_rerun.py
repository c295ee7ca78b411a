"""Reruns of recorded runs, and their verdict."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import warm
from frostline.commands import rerun as command
from frostline.core.errors import UserError
from frostline.records import journal
from frostline.sweeps import recorded_configs, recorded_runs, rerun
from frostline.sweeps.recorded_runs import Recorded
from frostline.sweeps.rerun import Comparable, Verdict, compare
from whole_sweeps import CHECKOUT, QUICK, environment, places, sweep

# --- the verdict


def comparable(loss: float = 1.0, accuracy: float = 0.9, weights: str = "a" * 64, **around: Any) -> Comparable:
    lines = [{"epoch": 1, "val/loss": 2.0, "cost/x": loss}, {"epoch": 2, "val/loss": loss}]
    metrics = {"best/val_accuracy": accuracy, "test/accuracy": accuracy, "cost/train_seconds": loss}
    return Comparable(
        {"metrics.jsonl": lines}, metrics, weights, {"packages.torch": "2.15.0", "command": [loss], **around}
    )


def test_equal_results_are_identical_despite_costs() -> None:
    report = compare(comparable(), comparable(), {})
    assert report.verdict is Verdict.IDENTICAL
    assert report.lines() == ["verdict: identical"]
    report = compare(comparable(), comparable(**{"packages.torch": "2.16.0"}), {})
    assert report.verdict is Verdict.IDENTICAL
    assert report.lines() == ["  differs now: packages.torch: 2.15.0, now 2.16.0", "verdict: identical"]


def test_difference_in_the_same_environment_is_unexplained() -> None:
    report = compare(comparable(), comparable(loss=1.0 + 2**-52), {})
    assert report.verdict is Verdict.UNEXPLAINED
    assert report.lines()[-1] == (
        "VERDICT: SAME ENVIRONMENT, DIFFERENT RESULT: epoch 2, val/loss was 1.0, is 1.0000000000000002 (metrics.jsonl)"
    )


@pytest.mark.parametrize("change", [{"weights": "b" * 64}, {"accuracy": 0.91}])
def test_weights_and_final_metrics_are_compared(change: dict[str, Any]) -> None:
    assert compare(comparable(), comparable(**change), {}).verdict is Verdict.UNEXPLAINED


@pytest.mark.parametrize(
    "lines",
    [
        [{"epoch": 1, "val/loss": 2.0}],
        [{"epoch": 1, "val/loss": 2.0}, {"epoch": 2}],
        [{"epoch": 1, "val/loss": 2.0}, {"epoch": 2, "val/loss": 1.0}, {"epoch": 2, "val/loss": 1.0}],
        [{"epoch": 1, "val/loss": 2.0}, {"epoch": 2, "val/loss": 1.0, "val/more": 1.0}],
    ],
)
def test_additional_or_missing_metrics_are_a_difference(lines: list[dict[str, Any]]) -> None:
    old = comparable()
    edited = Comparable({"metrics.jsonl": lines}, old.metrics, old.weights, old.environment)
    assert compare(edited, old, {}).verdict is Verdict.UNEXPLAINED


def test_tolerance_is_the_spread_over_seeds() -> None:
    old, new = comparable(), comparable(accuracy=0.88, **{"packages.torch": "2.16.0"})
    seeds = {"best/val_accuracy": [0.9, 0.87], "test/accuracy": [0.9, 0.93]}
    within = compare(old, new, seeds)
    assert within.verdict is Verdict.WITHIN
    assert "spread of 2 seeds" in within.lines()[-1]
    assert compare(old, new, {**seeds, "test/accuracy": [0.9, 0.89]}).verdict is Verdict.OUTSIDE
    outside = compare(old, new, {"test/accuracy": [0.9]})
    assert outside.verdict is Verdict.OUTSIDE
    assert "test/accuracy 2.00% apart, tolerance 1.00%: default without other seeds" in outside.lines()[-1]
    assert compare(old, comparable(accuracy=0.89, cpu="other"), {}).verdict is Verdict.WITHIN


def test_each_verdict_has_its_exit_status() -> None:
    assert [verdict.value for verdict in Verdict] == [0, 3, 4, 5]


# --- through the command line


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Any:
    """A sweep of two cells, with features from the store and several seeds."""
    place = f"store.path={tmp_path_factory.mktemp('store')}"
    return sweep(tmp_path_factory.mktemp("sweeps") / "whole", store, "freeze=head", "seed=0,1", place)


def again(store: Path, target: object, *more: str, expect: int) -> str:
    """Return the output of a rerun, executed in this process to save the start of another."""
    place = places(store.parent / f"again-{time.monotonic_ns()}", store)
    with contextlib.redirect_stdout(said := io.StringIO()):
        assert command.main([str(target), *place, *more]) == expect, said.getvalue()
    return said.getvalue()


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a terminal width that breaks no line."""
    monkeypatch.setenv("COLUMNS", "140")


def test_rerun_is_a_key_of_the_command_line(swept: Any, store: Path) -> None:
    place = places(store.parent / "typed", store)
    arguments = [sys.executable, str(CHECKOUT / "train.py"), f"rerun={swept.folder / '1'}", *place]
    done = warm.run(arguments, env=environment())
    assert done.returncode == 0 and "verdict: identical" in done.stdout, done.stdout + done.stderr
    assert "nothing to compare it with" in done.stdout and "Try:" not in done.stdout, "no command repeats a rerun"


def test_rerun_by_id_is_identical_and_linked(swept: Any, store: Path) -> None:
    first = swept.results()[0]
    said = again(store, first["run_id"], "store.enabled=false", expect=0)
    assert "verdict: identical" in said
    client = MlflowClient(f"sqlite:///{store}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (linked,) = client.search_runs(experiments, f"tags.frostline.rerun_of = '{first['run_id']}'")
    assert linked.data.tags["frostline.verdict"] == "identical"
    assert linked.info.run_id != first["run_id"]
    assert linked.data.metrics["test/accuracy"] == first["metrics"]["test/accuracy"]


def test_sweep_reruns_by_its_folder(swept: Any, store: Path) -> None:
    said = again(store, swept.folder, expect=0)
    assert said.count("verdict: identical") == 2


def test_sweep_with_skipped_runs_reruns_all(swept: Any, store: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp()
    place = f"store.path={root / 'another-store'}"
    more = sweep(tmp_path_factory.mktemp("sweeps") / "more", store, "freeze=head", "seed=0,1,2", "resume=true", place)
    assert "seed=0: skipped" in more.out
    assert not (more.folder / "0" / "config.yaml").exists()
    uri = f"sqlite:///{store}"
    parent = journal.run_id(more.folder)
    for target in (str(more.folder), parent):
        found = recorded_runs.find(target, uri=uri, folder=tmp_path_factory.mktemp("fetched"))
        assert [run.identity for run in found] == [result["run_id"] for result in more.results()]
        assert [len(run.comparable.epochs["metrics.jsonl"]) for run in found] == [2] * 3
        assert {len(run.seeds["test/accuracy"]) for run in found} == {3}
    (own,) = recorded_runs.find(str(more.folder / "0"), uri=uri, folder=root)
    assert own.identity == more.results()[0]["run_id"]


def test_metrics_without_epoch_numbers_are_refused(swept: Any, tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(swept.folder / "0", folder)
    for line in ('{"val/loss": 1.0}', '{"epoch": "x"}', '{"epoch": null}', '{"epoch": [1]}'):
        (folder / "metrics.jsonl").write_text(f"{line}\n")
        with pytest.raises(UserError, match="expected the number of its epoch in every line"):
            recorded_runs.find(str(folder), uri="sqlite:///none", folder=tmp_path)


def test_environment_variables_must_be_given_again(swept: Any) -> None:
    values = dict(recorded_runs.find(str(swept.folder / "0"), uri="sqlite:///none", folder=swept.folder)[0].config)
    values["tracking"] = {**values["tracking"], "uri": "${oc.env:SERVER}"}
    recorded_configs.configs_of([values], [])[0]
    values["data"] = {**values["data"], "root": "${oc.env:IMAGES}/birds"}
    with pytest.raises(UserError, match=r"plain values, and data.root is none \(\${oc.env:IMAGES}/birds\)"):
        recorded_configs.configs_of([values], [])[0]
    assert recorded_configs.configs_of([values], ["data.root=/images/birds"])[0].data.root == "/images/birds"


def test_rerun_sweep_is_named_by_short_choices() -> None:
    from small import compose

    configs = [
        compose(f"freeze={mode}", f"optimizer.weight_decay={decay}") for mode in ("head", "full") for decay in (0, 1)
    ]
    runs: Any = [Recorded(str(number), "", {}, comparable(), {}) for number in range(4)]
    planned = command._planned(runs, configs)
    assert [set(run.choices) - set(planned[0].choices) for run in planned] == [set()] * 4
    assert {key for key in planned[0].choices if "." in key} == {"optimizer.weight_decay"}


@pytest.mark.parametrize("edit", ["metrics.jsonl", "result.json", "best.safetensors", "provenance.json"])
def test_edited_record_is_detected(edit: str, swept: Any, store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(swept.folder / "0", folder)
    path = folder / edit
    if edit == "metrics.jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[1]["val/accuracy"] += 0.01
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif edit == "result.json":
        result = json.loads(path.read_text())
        result["metrics"]["test/accuracy"] += 0.01
        path.write_text(json.dumps(result))
    elif edit == "best.safetensors":
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
    else:
        facts = json.loads(path.read_text())
        facts["weights"]["final"] = "0" * 64
        path.write_text(json.dumps(facts))
    (found,) = recorded_runs.find(str(folder), uri="sqlite:///none", folder=tmp_path)
    original = recorded_runs.find(str(swept.folder / "0"), uri="sqlite:///none", folder=tmp_path)[0].comparable
    report = rerun.compare(found.comparable, original, {})
    assert report.verdict is Verdict.UNEXPLAINED
    if edit == "metrics.jsonl":
        said = again(store, folder, expect=5)
        assert "VERDICT: SAME ENVIRONMENT, DIFFERENT RESULT: epoch 2, val/accuracy was" in said


def test_environment_differences_are_listed_with_the_tolerance(swept: Any, store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(swept.folder / "0", folder)
    packages = json.loads((folder / "packages.json").read_text())
    (folder / "packages.json").write_text(json.dumps({**packages, "torch": "2.9.0"}))
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text.replace('"val/loss": ', '"val/loss": 1'))
    said = again(store, folder, expect=3)
    assert "differs now: packages.torch: 2.9.0, now" in said
    assert "verdict: environment differs, within tolerance (" in said


def test_rerun_accepts_only_places_and_finished_runs(
    swept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")  # instead of the project's database
    with pytest.raises(UserError, match=r"lr=0\.5: expected nothing but"):
        command.main([str(swept.folder / "0"), "lr=0.5"])
    with pytest.raises(UserError, match="expected a folder, or a tracking store"):
        command.main(["nothing"])
    folder = tmp_path / "failed"
    shutil.copytree(swept.folder / "0", folder)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "status": "FAILED"}))
    with pytest.raises(UserError, match="expected a run that is FINISHED"):
        recorded_runs.find(str(folder), uri="sqlite:///none", folder=tmp_path)


def test_rerun_uses_the_recorded_config(swept: Any) -> None:
    from frostline.core.config_keys import digest
    from small import compose

    (first, second) = recorded_runs.find(str(swept.folder), uri="sqlite:///none", folder=swept.folder)
    for run, seed in ((first, 0), (second, 1)):
        config = recorded_configs.configs_of([run.config], [])[0]
        settled = ("precision=fp32", "compile=off")  # what auto resolved to
        expected = compose("freeze=head", f"seed={seed}", *settled, *QUICK, *places(swept.folder, "none")[1:])
        assert digest(config) == digest(expected)
        assert config.tracking.uri is None  # a rerun uses its own tracking URI
        assert not config.resume
