"""Whole searches: each cell has its trials, the best are confirmed, and what is killed ends as if it had not been."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from PIL import Image
from test_again import until
from test_sweep import Done, command, environment, sweep, where

import answers
import stores
import warm
from frostline.records import journal, layout, sweep_record, trial_tags
from frostline.report.contest import contests
from frostline.report.verdict import answer

TINY = (
    *("data.limit=40", "batch_size=20", "model.image_size=32", "data.test_fraction=0.05", "data.val_fraction=0.05"),
    *("threads=1", "epochs=2", "search.confirm=2"),
)
RANGES = ("search=tpe", "lr=interval(1e-5,1)", "search.space.full.lr=interval(1e-4,1e-2)")
MODES = ("freeze=head,full", "trials=6")


def study_of(folder: Path, name: str) -> optuna.Study:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / layout.STUDY)))
    return optuna.load_study(study_name=name, storage=storage)


def trials(folder: Path, name: str) -> list[tuple[Any, ...]]:
    return [(trial.params, trial.state, trial.value) for trial in study_of(folder, name).trials]


def results(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return found


def measured(folder: Path) -> dict[str, dict[str, float]]:
    """Return the metrics of every run by its name, but for what it cost."""
    return {
        run["name"]: {key: value for key, value in run["metrics"].items() if not key.startswith("cost/")}
        for run in results(folder)
    }


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Done:
    return sweep(tmp_path_factory.mktemp("sweeps") / "searched", store, *TINY, *RANGES, *MODES)


def test_each_cell_has_its_trials_in_a_study_that_optuna_opens(searched: Done) -> None:
    runs = results(searched.folder)
    for mode, (low, high) in {"head": (1e-5, 1.0), "full": (1e-4, 1e-2)}.items():
        study = study_of(searched.folder, mode)
        own = [run for run in runs if run["choices"]["study"] == mode and "trial" in run["choices"]]
        mine = {run["choices"]["trial"]: run for run in own}
        assert sorted(mine) == [trial.number for trial in study.trials] == [*range(6)]
        for trial in study.trials:
            assert trial.params == {"lr": mine[trial.number]["choices"]["lr"]} and low <= trial.params["lr"] <= high
            if trial.state is TrialState.COMPLETE:
                assert trial.value == mine[trial.number]["metrics"]["best/val_accuracy"]
        assert study.best_value == max(run["metrics"].get("best/val_accuracy", 0) for run in mine.values())


def test_the_best_trial_is_run_with_fresh_seeds_and_they_alone_are_compared(searched: Done) -> None:
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
    assert "search=" not in said.partition("`")[2].partition("`")[0]  # what is found is listed in the next command


def test_the_plan_says_what_is_searched_and_on_which_scale(searched: Done) -> None:
    assert "search=tpe trials=6: head: lr from 1e-05 to 1 on a log scale" in searched.out
    assert "search=tpe trials=6: full: lr from 0.0001 to 0.01 on a log scale" in searched.out


def test_heads_that_do_not_wait_for_each_other_are_trained_in_lockstep(searched: Done) -> None:
    assert "in lockstep with 4 other runs" in searched.out  # the random ones at the beginning


def test_the_record_names_study_and_trial(searched: Done) -> None:
    tags = [run.data.tags for run in searched.runs() if layout.STUDY_TAG in run.data.tags]
    told = {(one[layout.STUDY_TAG], one.get(layout.TRIAL_TAG)) for one in tags}
    assert told == {(mode, number and str(number)) for mode in ("head", "full") for number in (*"012345", None)}
    states = {"FINISHED": "complete", "FAILED": "failed"}
    for run in searched.runs():
        if (tags := run.data.tags).get(layout.STUDY_TAG):
            assert tags[layout.SEARCH_TAG] == "tpe"
            assert tags.get(layout.STATE_TAG) == (states[run.info.status] if layout.TRIAL_TAG in tags else None)
            assert (layout.CONFIRMS_TAG in tags) != (layout.TRIAL_TAG in tags)


def test_in_another_folder_the_same_command_takes_over_all_trials_and_with_more_it_goes_on(
    searched: Done, store: Path, tmp_path: Path
) -> None:
    typed = (*TINY, *RANGES, "freeze=head,full", "resume=true")
    done = sweep(tmp_path / "again", store, *typed, "trials=6")
    diverged = sum(run["status"] == "FAILED" for run in results(searched.folder))
    assert done.out.count("skipped, diverged in") == diverged
    assert done.out.count("skipped, finished in") == 2 * (6 + 2) - diverged
    for mode in ("head", "full"):
        assert trials(done.folder, mode) == trials(searched.folder, mode)
    sweep(tmp_path / "again", store, *typed, "trials=7", "search.confirm=0")
    for mode in ("head", "full"):
        assert trials(done.folder, mode)[:6] == trials(searched.folder, mode)
        assert len(trials(done.folder, mode)) == 7


def test_what_failed_is_run_again_when_it_is_typed_again_and_the_study_learns_of_it(tmp_path: Path) -> None:
    mark = tmp_path / "full"
    code = f"""import os
    if os.path.exists({str(mark)!r}):
        return evaluate(module, data, **options)
    open({str(mark)!r}, "w").close()
    raise OSError(28, "No space left on device")"""
    typed = [*TINY, "search=qmc", RANGES[1], "freeze=head", "trials=3", f"store.path={tmp_path}/store", "resume=true"]
    typed += ["search.confirm=1"]
    store = tmp_path / "mlflow.db"
    first = sweep(tmp_path / "failed", store, *typed, code=code, expect=1)
    assert "No space left on device" in first.out
    states = [trial.state for trial in study_of(first.folder, "head").trials]
    assert states.count(TrialState.RUNNING) == 1 and states.count(TrialState.COMPLETE) == 2
    again = sweep(tmp_path / "failed", store, *typed)
    assert again.out.count("skipped, finished in") >= 2  # the fresh seed, too, unless another one is the best now
    assert [trial.state for trial in study_of(again.folder, "head").trials] == [TrialState.COMPLETE] * 3
    told = {run["choices"]["trial"]: run["metrics"] for run in results(again.folder) if "trial" in run["choices"]}
    for trial in study_of(again.folder, "head").trials:
        assert trial.value == told[trial.number]["best/val_accuracy"]


def test_what_is_killed_twice_goes_on_with_the_same_trials(searched: Done, tmp_path: Path) -> None:
    store, folder = stores.put(tmp_path / "mlflow.db"), tmp_path / "killed"
    typed = [*TINY, *RANGES, "freeze=full", "trials=6", "resume=true", f"store.path={tmp_path}/store"]
    arguments = command("-m", *typed, *where(folder, store))
    for mark in (folder / "full-2" / layout.METRICS, folder / "full-5" / layout.METRICS):
        with warm.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                until(mark.exists)
            finally:
                process.kill()
        for beat in folder.glob(f"*/{layout.BEAT}"):
            with suppress(ProcessLookupError):  # a worker ends when its sweep is gone
                os.kill(json.loads(beat.read_text())["pid"], signal.SIGKILL)
    sweep(folder, store, *typed)
    assert trials(folder, "full") == trials(searched.folder, "full")
    undisturbed = measured(searched.folder).items()
    assert measured(folder) == {name: metrics for name, metrics in undisturbed if name.startswith("full")}


def test_two_at_once_share_a_study_and_one_takes_over_what_the_other_was_killed_at(tmp_path: Path) -> None:
    store, ours, theirs = stores.put(tmp_path / "mlflow.db"), tmp_path / "ours", tmp_path / "theirs"
    file = tmp_path / "studies.log"
    typed = [
        "freeze=head",
        *RANGES[:2],
        "trials=8",
        "epochs=9",
        f"search.storage={file}",
        f"store.path={tmp_path}/store",
    ]
    how = {"env": environment(), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    typed += [*TINY, "resume=true", f"store.path={tmp_path}/store"]
    begun = [command("-m", *typed, *where(folder, store)) for folder in (ours, theirs)]
    with warm.Popen(begun[0], **how) as one, warm.Popen(begun[1], **how) as other:
        try:
            until(lambda: all(any(folder.glob(f"head-*/{layout.METRICS}")) for folder in (ours, theirs)))
            other.kill()
            for beat in theirs.glob(f"*/{layout.BEAT}"):
                os.kill(json.loads(beat.read_text())["pid"], signal.SIGKILL)
            assert one.wait(240) == 0
        finally:
            one.kill()
            other.kill()
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
    (study,) = optuna.get_all_study_summaries(storage)
    found = optuna.load_study(study_name=study.study_name, storage=storage).trials
    assert [trial.state.is_finished() for trial in found] == [True] * 8
    runs = {run["choices"]["trial"]: run for run in results(ours) if "trial" in run["choices"]}
    assert [runs[number]["choices"]["lr"] for number in range(8)] == [trial.params["lr"] for trial in found]
    assert sum("confirms" in run["choices"] for run in results(ours)) == 2
    for number in range(8):  # each was carried out to its end by one of the two
        notes = [note for folder in (ours, theirs) for note, _ in journal.entries(folder / f"head-{number}")]
        assert [note["status"] for note in notes if note["op"] == "end"].count("FINISHED") == 1


def test_a_search_begins_with_what_is_known_where_that_is_asked_for(
    searched: Done, store: Path, tmp_path: Path
) -> None:
    how = ("freeze=head", *RANGES[:2], "trials=1", "search.confirm=0", "search.past=true", "resume=true")
    done = sweep(tmp_path / "past", store, *TINY, *how)
    known = [trial for trial in study_of(searched.folder, "head").trials if trial.state is TrialState.COMPLETE]
    assert f"search.past: head begins with {len(known)} runs of {searched.folder}" in done.out
    begun = study_of(done.folder, "head").trials[:-1]  # with those of other tests
    observed = [trial for trial in begun if str(searched.folder) in trial.user_attrs["past"]]
    assert sorted((t.params["lr"], t.value) for t in observed) == sorted((t.params["lr"], t.value) for t in known)
    assert len(results(done.folder)) == 1 and "The budget was 1 trial in all" in done.out


def test_what_does_worse_is_stopped_at_a_rung_and_its_epochs_go_to_further_trials(store: Path, tmp_path: Path) -> None:
    how = ("search=random", "lr=interval(1e-6,1)", "search.prune=hyperband", "epochs=3", "search.confirm=1")
    done = sweep(tmp_path / "pruned", store, *TINY, *how, "freeze=head", "search.budget=epochs", "trials=3")
    trials = [run for run in results(done.folder) if "trial" in run["choices"]]
    pruned = [run for run in trials if "search/pruned_after" in run["metrics"]]
    states = [trial.state for trial in study_of(done.folder, "head").trials]
    assert 0 < len(pruned) == states.count(TrialState.PRUNED) and len(trials) == len(states) > 3
    used = [run["metrics"]["cost/epochs"] for run in trials]
    assert 9 <= sum(used) < 9 + 3
    for trial, epochs in zip(study_of(done.folder, "head").trials, used, strict=True):
        assert trial.user_attrs["epochs"] == epochs == len(trial.intermediate_values)
    assert len(re.findall(r"^  epoch \d+/3 ", done.out, re.MULTILINE)) == sum(used) + 3  # none is trained twice
    for run in pruned:
        assert run["status"] == "FINISHED" and run["metrics"]["search/pruned_after"] == 1
    tags = [run.data.tags.get(layout.PRUNED_TAG) for run in done.runs()]
    assert sum(tag is not None and tag.endswith("by hyperband") for tag in tags) == len(pruned)
    assert sum(run.data.tags.get(layout.STATE_TAG) == "pruned" for run in done.runs()) == len(pruned)
    assert f"The budget was 9 epochs in all (search=random), {len(pruned)} trials stopped early" in done.out
    assert f"Used: head {len(trials)} trials, {sum(used):.0f} epochs, " in done.out
    assert "search=random search.budget=9 epochs each: head: lr from" in done.out


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Done:
    """Return a search of a head that is solved and one that is trained, for two objectives."""
    how = ("search=qmc", "trials=3", "search.confirm=1", "search.objective=cost/train_seconds,val/accuracy")
    return sweep(tmp_path_factory.mktemp("sweeps") / "weighed", store, *TINY, "freeze=probe,head", "lr=auto", *how)


def test_a_search_of_other_data_is_another_one(tmp_path: Path) -> None:
    for number in range(24):
        (place := tmp_path / "images" / f"class {number % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (10 * number, 200 * (number % 2), 90)).save(place / f"{number}.png")
    typed = [*TINY[1:], "data=image_folder", f"data.root='{tmp_path}/images'", "data.limit=null", "freeze=head"]
    typed += ["search=random", "lr=auto", "trials=1", "epochs=1", "search.confirm=0", "resume=true"]
    typed += ["data.val_fraction=0.2", "data.test_fraction=0.2"]
    first = sweep(tmp_path / "search", tmp_path / "mlflow.db", *typed)
    Image.new("RGB", (32, 32), (1, 2, 3)).save(tmp_path / "images" / "class 0" / "0.png")
    refused = sweep(first.folder, first.store, *typed, expect=2)
    assert "another search's (of other settings, data, weights or code)" in refused.err
    assert refused.err.count("\n") == 1 and len(study_of(first.folder, "head").trials) == 1


def test_a_head_that_is_solved_has_nothing_to_search_and_one_run(weighed: Done) -> None:
    assert [run["choices"]["trial"] for run in results(weighed.folder) if "trial" in run["choices"]] == [0, 0, 1, 2]
    assert "The budgets differ" not in weighed.out  # nothing of a probe is drawn


def test_of_several_objectives_the_front_is_the_answer_and_its_best_by_the_first_is_confirmed(weighed: Done) -> None:
    assert "front of cost/train_seconds (minimize), val/accuracy (maximize); the best of it by" in weighed.out
    runs = [run for run in results(weighed.folder) if run["choices"]["study"] == "head"]
    costs = {run["choices"].get("trial"): run["metrics"]["cost/train_seconds"] for run in runs}
    (fresh,) = (run["choices"]["confirms"] for run in runs if "confirms" in run["choices"])
    study = study_of(weighed.folder, "head")
    assert [trial.values[0] for trial in study.trials] == [costs[number] for number in range(3)]
    assert study.trials[fresh].values[0] == min(trial.values[0] for trial in study.trials)
    assert "of 4 trials are on the Pareto front of training time (s) and validation accuracy" in weighed.out


def test_a_dry_run_plans_one_trial_of_each_cell_and_leaves_no_study(tmp_path: Path) -> None:
    done = sweep(tmp_path / "dry", tmp_path / "none.db", *TINY, *RANGES, *MODES, "dry_run=true")
    assert not (done.folder / layout.STUDY).exists() and "a plan of 2 runs" in done.out


def test_a_storage_that_cannot_be_opened_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    how = ("search=tpe", "lr=auto", "search.storage='nowhere://x'")
    done = sweep(tmp_path / "refused", tmp_path / "none.db", *TINY, *how, expect=2)
    assert done.err.startswith("frostline: search.storage=nowhere://x: expected a storage URL") and not done.out
    assert not (tmp_path / "refused").exists()


def test_a_password_of_a_storage_stays_in_the_environment(tmp_path: Path) -> None:
    how = ("search=tpe", "lr=auto", "search.storage='postgresql+psycopg2://me:hunter2@db/studies'")
    done = sweep(tmp_path / "refused", tmp_path / "none.db", *TINY, *how, expect=2)
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
    """Return what is answered to each of the mistakes, and the folder where its sweep was to lie."""
    folders = [tmp_path_factory.mktemp("refused") for _ in BAD]
    how = ("-m", "dry_run=true", *TINY[:-1])
    places = [where(folder / "sweep", folder / "none.db") for folder in folders]
    typed = [command(*how, *said, *place)[2:] for (said, _), place in zip(BAD, places, strict=True)]
    return dict(zip(BAD, zip(answers.run_lines(typed, environment()), folders, strict=True), strict=True))


@pytest.mark.parametrize(("typed", "line"), BAD)
def test_a_mistake_is_answered_in_one_line_before_anything_starts(
    typed: tuple[str, ...], line: str, refused: dict[Any, Any]
) -> None:
    (status, out, err), folder = refused[typed, line]
    (said,) = err.splitlines()
    assert (status, out) == (2, "") and said.startswith(f"frostline: {line}")
    assert not list(folder.iterdir())
