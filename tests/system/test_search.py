"""Whole searches: trials of each cell, confirmation of the best, and continuation after kills."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from PIL import Image

import answers
import stores
import warm
from frostline.records import layout, sweep_record, trial_tags
from frostline.report.contest import contests
from frostline.report.verdict import answer
from whole_sweeps import (
    RANGES,
    TINY_SEARCH,
    CompletedSweep,
    command,
    end_statuses,
    environment,
    final_results,
    kill_workers,
    metrics_by_name,
    places,
    shared_study,
    study_of,
    sweep,
    trial_results,
    wait_until,
)

MODES = ("freeze=head,full", "trials=6")


def trials(folder: Path, name: str) -> list[tuple[Any, ...]]:
    return [(trial.params, trial.state, trial.value) for trial in study_of(folder, name).trials]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, store: Path) -> CompletedSweep:
    return sweep(tmp_path_factory.mktemp("sweeps") / "searched", store, *TINY_SEARCH, *RANGES, *MODES)


def test_each_cell_has_an_optuna_study(searched: CompletedSweep) -> None:
    runs = trial_results(searched.folder)
    for mode, (low, high) in {"head": (1e-5, 1.0), "full": (1e-4, 1e-2)}.items():
        study = study_of(searched.folder, mode)
        mine = {run["choices"]["trial"]: run for run in runs if run["choices"]["study"] == mode}
        assert sorted(mine) == [trial.number for trial in study.trials] == [*range(6)]
        for trial in study.trials:
            assert trial.params == {"lr": mine[trial.number]["choices"]["lr"]} and low <= trial.params["lr"] <= high
            if trial.state is TrialState.COMPLETE:
                assert trial.value == mine[trial.number]["metrics"]["best/val_accuracy"]
        assert study.best_value == max(run["metrics"].get("best/val_accuracy", 0) for run in mine.values())


def test_only_confirmations_of_best_trials_are_compared(searched: CompletedSweep) -> None:
    read = sweep_record.read(searched.folder).results
    (contest,) = contests(read)
    for one in contest.contenders:
        best = study_of(searched.folder, str(one.value)).best_trial
        assert {run.choices["seed"] for run in one.cell.finished} == {1, 2}
        assert {run.choices["lr"] for run in one.cell.finished} == {best.params["lr"]}
        assert one.cell.choices[trial_tags.CONFIRMS] == best.number
        assert one.interval is not None and one.tried == 6
    said = answer(read)
    assert "The budget was 6 trials each (search=tpe); the comparison uses 2 fresh seeds of each best trial" in said
    assert "On validation the best trial of head reached" in said
    assert "search=" not in said.partition("`")[2].partition("`")[0]  # the next command lists the values found


def test_plan_shows_ranges_and_scales(searched: CompletedSweep) -> None:
    assert "search=tpe trials=6: head: lr from 1e-05 to 1 on a log scale" in searched.out
    assert "search=tpe trials=6: full: lr from 0.0001 to 0.01 on a log scale" in searched.out


def test_independent_trials_of_heads_train_in_lockstep(searched: CompletedSweep) -> None:
    assert "in lockstep with 4 other runs" in searched.out  # the random trials at the start


def test_mlflow_tags_have_study_and_trial(searched: CompletedSweep) -> None:
    tags = [run.data.tags for run in searched.runs() if layout.STUDY_TAG in run.data.tags]
    tagged = {(one[layout.STUDY_TAG], one.get(layout.TRIAL_TAG)) for one in tags}
    assert tagged == {(mode, number and str(number)) for mode in ("head", "full") for number in (*"012345", None)}
    states = {"FINISHED": "complete", "FAILED": "failed"}
    for run in searched.runs():
        if (tags := run.data.tags).get(layout.STUDY_TAG):
            assert tags[layout.SEARCH_TAG] == "tpe"
            assert tags.get(layout.STATE_TAG) == (states[run.info.status] if layout.TRIAL_TAG in tags else None)
            assert (layout.CONFIRMS_TAG in tags) != (layout.TRIAL_TAG in tags)


def test_search_in_another_folder_extends_trials(searched: CompletedSweep, store: Path, tmp_path: Path) -> None:
    typed = (*TINY_SEARCH, *RANGES, "freeze=head,full", "resume=true")
    done = sweep(tmp_path / "again", store, *typed, "trials=6")
    diverged = sum(run["status"] == "FAILED" for run in final_results(searched.folder))
    assert done.out.count("skipped, diverged in") == diverged
    assert done.out.count("skipped, finished in") == 2 * (6 + 2) - diverged
    for mode in ("head", "full"):
        assert trials(done.folder, mode) == trials(searched.folder, mode)
    sweep(tmp_path / "again", store, *typed, "trials=7", "search.confirm=0")
    for mode in ("head", "full"):
        assert trials(done.folder, mode)[:6] == trials(searched.folder, mode)
        assert len(trials(done.folder, mode)) == 7


def test_failed_trial_is_repeated_and_completed_in_the_study(tmp_path: Path) -> None:
    mark = tmp_path / "full"
    code = f"""import os
    if os.path.exists({str(mark)!r}):
        return evaluate(part, batch_size)
    open({str(mark)!r}, "w").close()
    raise OSError(28, "No space left on device")"""
    typed = [
        *TINY_SEARCH,
        "search=qmc",
        RANGES[1],
        "freeze=head",
        "trials=3",
        f"store.path={tmp_path}/store",
        "resume=true",
    ]
    typed += ["search.confirm=1"]
    store = tmp_path / "mlflow.db"
    first = sweep(tmp_path / "failed", store, *typed, code=code, expect=1)
    assert "No space left on device" in first.out
    states = [trial.state for trial in study_of(first.folder, "head").trials]
    assert states.count(TrialState.RUNNING) == 1 and states.count(TrialState.COMPLETE) == 2
    again = sweep(tmp_path / "failed", store, *typed)
    assert again.out.count("skipped, finished in") >= 2  # with the fresh seed, unless another trial is the best now
    assert [trial.state for trial in study_of(again.folder, "head").trials] == [TrialState.COMPLETE] * 3
    measured = {run["choices"]["trial"]: run["metrics"] for run in trial_results(again.folder)}
    for trial in study_of(again.folder, "head").trials:
        assert trial.value == measured[trial.number]["best/val_accuracy"]


def test_search_killed_twice_continues_with_the_same_trials(searched: CompletedSweep, tmp_path: Path) -> None:
    store, folder = stores.put(tmp_path / "mlflow.db"), tmp_path / "killed"
    typed = [*TINY_SEARCH, *RANGES, "freeze=full", "trials=6", "resume=true", f"store.path={tmp_path}/store"]
    arguments = command("-m", *typed, *places(folder, store))
    for mark in (folder / "full-2" / layout.METRICS, folder / "full-5" / layout.METRICS):
        with warm.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                wait_until(mark.exists)
            finally:
                process.kill()
        kill_workers(folder)
    sweep(folder, store, *typed)
    assert trials(folder, "full") == trials(searched.folder, "full")
    expected = metrics_by_name(searched.folder).items()
    assert metrics_by_name(folder) == {name: metrics for name, metrics in expected if name.startswith("full")}


def test_concurrent_search_takes_over_a_killed_ones_trial(tmp_path: Path) -> None:
    store, ours, theirs = stores.put(tmp_path / "mlflow.db"), tmp_path / "ours", tmp_path / "theirs"
    file = tmp_path / "studies.log"
    typed = [*TINY_SEARCH, *RANGES[:2], "freeze=head", "trials=8", "resume=true"]
    typed += [f"search.storage={file}", f"store.path={tmp_path}/store"]
    how = {"env": environment(), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    begun = [command("-m", *typed, *places(folder, store)) for folder in (ours, theirs)]
    with warm.Popen(begun[0], **how) as one, warm.Popen(begun[1], **how) as other:
        try:
            wait_until(lambda: all(any(folder.glob(f"head-*/{layout.METRICS}")) for folder in (ours, theirs)))
            other.kill()
            kill_workers(theirs)
            assert one.wait(240) == 0
        finally:
            one.kill()
            other.kill()
    found = shared_study(file).trials
    assert [trial.state.is_finished() for trial in found] == [True] * 8
    runs = {run["choices"]["trial"]: run for run in trial_results(ours)}
    assert [runs[number]["choices"]["lr"] for number in range(8)] == [trial.params["lr"] for trial in found]
    assert sum("confirms" in run["choices"] for run in final_results(ours)) == 2
    for number in range(8):  # exactly one of the two finished each trial
        ends = [status for folder in (ours, theirs) for status in end_statuses(folder / f"head-{number}")]
        assert ends.count("FINISHED") == 1


def test_search_starts_from_past_runs(searched: CompletedSweep, store: Path, tmp_path: Path) -> None:
    how = ("freeze=head", *RANGES[:2], "trials=1", "search.confirm=0", "search.past=true", "resume=true")
    done = sweep(tmp_path / "past", store, *TINY_SEARCH, *how)
    known = [trial for trial in study_of(searched.folder, "head").trials if trial.state is TrialState.COMPLETE]
    assert f"search.past: head begins with {len(known)} runs of {searched.folder}" in done.out
    begun = study_of(done.folder, "head").trials[:-1]  # includes trials of other tests
    observed = [trial for trial in begun if str(searched.folder) in trial.user_attrs["past"]]
    assert sorted((t.params["lr"], t.value) for t in observed) == sorted((t.params["lr"], t.value) for t in known)
    assert len(final_results(done.folder)) == 1 and "The budget was 1 trial in all" in done.out


def test_epochs_of_pruned_trials_go_to_further_trials(store: Path, tmp_path: Path) -> None:
    how = ("search=random", "lr=interval(1e-6,1)", "search.prune=hyperband", "epochs=3", "search.confirm=1")
    done = sweep(tmp_path / "pruned", store, *TINY_SEARCH, *how, "freeze=head", "search.budget=epochs", "trials=3")
    trials = trial_results(done.folder)
    pruned = [run for run in trials if "search/pruned_after" in run["metrics"]]
    states = [trial.state for trial in study_of(done.folder, "head").trials]
    assert 0 < len(pruned) == states.count(TrialState.PRUNED) and len(trials) == len(states) > 3
    used = [run["metrics"]["cost/epochs"] for run in trials]
    assert 9 <= sum(used) < 9 + 3
    for trial, epochs in zip(study_of(done.folder, "head").trials, used, strict=True):
        assert trial.user_attrs["epochs"] == epochs == len(trial.intermediate_values)
    assert len(re.findall(r"^  epoch \d+/3 ", done.out, re.MULTILINE)) == sum(used) + 3  # no epoch is trained twice
    for run in pruned:
        assert run["status"] == "FINISHED" and run["metrics"]["search/pruned_after"] == 1
    tags = [run.data.tags.get(layout.PRUNED_TAG) for run in done.runs()]
    assert sum(tag is not None and tag.endswith("by hyperband") for tag in tags) == len(pruned)
    assert sum(run.data.tags.get(layout.STATE_TAG) == "pruned" for run in done.runs()) == len(pruned)
    assert f"The budget was 9 epochs in all (search=random), {len(pruned)} trials stopped early" in done.out
    assert f"Used: head {len(trials)} trials, {sum(used):.0f} epochs, " in done.out
    assert "search=random search.budget=9 epochs each: head: lr from" in done.out


@pytest.fixture(scope="module")
def two_objectives(tmp_path_factory: pytest.TempPathFactory, store: Path) -> CompletedSweep:
    """Return a search for two objectives over a solved and a trained head."""
    how = ("search=qmc", "trials=3", "search.confirm=1", "search.objective=cost/train_seconds,val/accuracy")
    return sweep(
        tmp_path_factory.mktemp("sweeps") / "weighed", store, *TINY_SEARCH, "freeze=probe,head", "lr=auto", *how
    )


def test_search_with_other_data_is_refused(tmp_path: Path) -> None:
    for number in range(24):
        (place := tmp_path / "images" / f"class {number % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (10 * number, 200 * (number % 2), 90)).save(place / f"{number}.png")
    typed = [*TINY_SEARCH[1:], "data=image_folder", f"data.root='{tmp_path}/images'", "data.limit=null", "freeze=head"]
    typed += ["search=random", "lr=auto", "trials=1", "epochs=1", "search.confirm=0", "resume=true"]
    typed += ["data.val_fraction=0.2", "data.test_fraction=0.2"]
    first = sweep(tmp_path / "search", tmp_path / "mlflow.db", *typed)
    Image.new("RGB", (32, 32), (1, 2, 3)).save(tmp_path / "images" / "class 0" / "0.png")
    refused = sweep(first.folder, first.store, *typed, expect=2)
    assert "another search's (of other settings, data, weights or code)" in refused.err
    assert refused.err.count("\n") == 1 and len(study_of(first.folder, "head").trials) == 1


def test_solved_head_has_one_trial(two_objectives: CompletedSweep) -> None:
    assert [run["choices"]["trial"] for run in trial_results(two_objectives.folder)] == [0, 0, 1, 2]
    assert "The budgets differ" not in two_objectives.out  # a probe has no budget


def test_pareto_front_is_reported_and_its_first_objective_confirmed(
    two_objectives: CompletedSweep,
) -> None:
    assert "front of cost/train_seconds (minimize), val/accuracy (maximize); the best of it by" in two_objectives.out
    runs = [run for run in final_results(two_objectives.folder) if run["choices"]["study"] == "head"]
    costs = {run["choices"].get("trial"): run["metrics"]["cost/train_seconds"] for run in runs}
    (fresh,) = (run["choices"]["confirms"] for run in runs if "confirms" in run["choices"])
    study = study_of(two_objectives.folder, "head")
    assert [trial.values[0] for trial in study.trials] == [costs[number] for number in range(3)]
    assert study.trials[fresh].values[0] == min(trial.values[0] for trial in study.trials)
    assert "of 4 trials are on the Pareto front of training time (s) and validation accuracy" in two_objectives.out


def test_dry_run_plans_one_trial_per_cell_without_study(tmp_path: Path) -> None:
    done = sweep(tmp_path / "dry", tmp_path / "none.db", *TINY_SEARCH, *RANGES, *MODES, "dry_run=true")
    assert (
        not (done.folder / layout.STUDY).exists()
        and "a plan of 2 runs, the first trial of each cell, whose budget is" in done.out
    )


def test_unusable_storage_is_refused_before_runs(tmp_path: Path) -> None:
    how = ("search=tpe", "lr=auto", "search.storage='nowhere://x'")
    done = sweep(tmp_path / "refused", tmp_path / "none.db", *TINY_SEARCH, *how, expect=2)
    assert done.err.startswith("frostline: search.storage=nowhere://x: expected a storage URL") and not done.out
    assert not (tmp_path / "refused").exists()


def test_password_in_the_storage_url_is_refused(tmp_path: Path) -> None:
    how = ("search=tpe", "lr=auto", "search.storage='postgresql+psycopg2://me:hunter2@db/studies'")
    done = sweep(tmp_path / "refused", tmp_path / "none.db", *TINY_SEARCH, *how, expect=2)
    assert done.err.startswith("frostline: search.storage=postgresql+psycopg2://db/studies: expected no credentials")
    assert not (tmp_path / "refused").exists()


BAD: list[tuple[tuple[str, ...], str]] = [
    (("search=tpe", "lr=interval(1,0)"), r"lr=interval(1,0): expected a lower end below the upper one"),
    (("search=tpe", "lr=interval(0,1)"), "lr=interval(0,1): expected a lower end above 0"),
    (("search=tpo", "lr=interval(0.1,1)"), "search=tpo: expected one of cmaes, gp, grid, qmc, random, tpe"),
    (("search=tpe", "lr=interval(1e-3,1)", "trials=0"), "trials=0: expected a whole number of at least 1"),
    (("search=tpe", "freeze=interval(0,1)", "lr=auto"), "freeze=interval(0,1): expected options with commas"),
    (("lr=interval(1e-3,1)",), "lr=interval(1e-3,1): expected values with commas between, since a grid has no ranges"),
    (
        ("lr=auto",),
        "lr=auto: expected numbers with commas between, since a grid has no ranges; search=tpe searches them",
    ),
    (("search=tpe", "lr=1e-3"), "search=tpe: expected at least one range"),
    (
        ("search=tpe", "lr=auto", "search.prune=asha"),
        "search.prune=asha: expected one of none, median, hyperband, wilcoxon; did you mean hyperband?",
    ),
    (("search=tpe", "lr=auto", "search.confirm=-1"), "search.confirm=-1: expected a whole number from 0"),
    (("search=tpe", "lr=interval(1e-3,1)", "seed=0,1"), "seed=several values: expected one value in a search"),
    (("search=cmaes", "lr=interval(1e-3,1)"), "search=cmaes: expected two or more ranges"),
    (("search=tpe", "train.mixup=interval(-1,1)"), "train.mixup=-1.0: expected a finite number from 0"),
    (("trials=5",), "trials=5: expected to be given with search=tpe"),
    (("search=tpe", "lr=auto", "hydra.sweep.subdir=x"), "hydra.sweep.subdir=x: expected nothing in a search"),
    (
        ("search=tpe", "lr=auto", "search.budget=seconds"),
        "search.amount=null: expected the training seconds of each cell",
    ),
    (("search=tpe", "lr=auto", "search.past=true"), "search.past=true: expected false with resume=false"),
]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """Return the output for each mistake, and the folder that its sweep was to use."""
    folders = [tmp_path_factory.mktemp("refused") for _ in BAD]
    how = ("-m", "dry_run=true", *TINY_SEARCH[:-1])
    given = [places(folder / "sweep", folder / "none.db") for folder in folders]
    typed = [command(*how, *said, *place)[2:] for (said, _), place in zip(BAD, given, strict=True)]
    return dict(zip(BAD, zip(answers.run_lines(typed, environment()), folders, strict=True), strict=True))


@pytest.mark.parametrize(("typed", "line"), BAD)
def test_mistake_is_one_line_and_starts_nothing(typed: tuple[str, ...], line: str, refused: dict[Any, Any]) -> None:
    (status, out, err), folder = refused[typed, line]
    (said,) = err.splitlines()
    assert (status, out) == (2, "") and said.startswith(f"frostline: {line}")
    assert not list(folder.iterdir())
