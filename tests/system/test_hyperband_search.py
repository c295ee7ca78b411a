"""Searches with Hyperband: trials that pause at rungs are continued from their checkpoint, also after kills."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import stores
import warm
from frostline.records import journal, layout
from whole_sweeps import (
    KILLED_IN_CALL,
    TINY_SEARCH,
    CompletedSweep,
    end_statuses,
    environment,
    final_results,
    metrics_by_name,
    places,
    shared_study,
    study_of,
    sweep,
    trial_results,
    without_costs,
)

HYPERBAND = ("search=tpe", "lr=interval(1e-5,1)", "freeze=head", "search.prune=hyperband", "search.confirm=1")
TYPED = (*TINY_SEARCH, *HYPERBAND, "epochs=9", "trials=6")


def epochs_printed(out: str) -> int:
    """Return the number of trained epochs in a sweep's output."""
    return len(re.findall(r"^  epoch \d+/9 ", out, re.MULTILINE))


def trial_values(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [(one.params, one.state, one.value, one.intermediate_values) for one in study.trials]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, store: Path) -> CompletedSweep:
    return sweep(tmp_path_factory.mktemp("sweeps") / "searched", store, *TYPED)


def test_best_third_continues_from_checkpoints_and_others_end(
    searched: CompletedSweep,
) -> None:
    found = study_of(searched.folder, "head").trials
    lengths = [len(trial.intermediate_values) for trial in found]
    assert sorted(lengths, reverse=True)[:2] == [9, 3] and set(lengths) == {1, 3, 9}
    runs = trial_results(searched.folder)
    assert [run["choices"]["trial"] for run in runs] == [*range(6)]
    for trial, run in zip(found, runs, strict=True):
        came, folder = len(trial.intermediate_values), Path(run["folder"])
        assert [line["epoch"] for line in journal.epochs(folder)] == [*range(1, came + 1)]
        assert run["status"] == "FINISHED" and run["metrics"]["cost/epochs"] == trial.user_attrs["epochs"] == came
        assert run["metrics"].get("search/pruned_after") == (None if came == 9 else came)
        assert trial.state is (TrialState.COMPLETE if came == 9 else TrialState.PRUNED)
        assert end_statuses(folder) == ["PAUSED"] * {1: 1, 3: 2, 9: 2}[came] + ["FINISHED"]
        assert not (folder / layout.CHECKPOINT).exists()
    assert epochs_printed(searched.out) == sum(lengths) + 9  # none trained twice; 9 of the fresh seed
    assert {run.info.status for run in searched.runs()} == {"FINISHED"}
    assert f"{lengths.count(1) + lengths.count(3)} of them stopped early" in searched.out


def test_paused_run_equals_an_uninterrupted_one(searched: CompletedSweep, store: Path, tmp_path: Path) -> None:
    (best,) = (run for run in trial_results(searched.folder) if run["metrics"].get("cost/epochs") == 9)
    alone = sweep(
        tmp_path / "alone", store, *TINY_SEARCH[:-1], "freeze=head", "epochs=9", f"lr={best['choices']['lr']!r}"
    )
    (other,) = final_results(alone.folder)
    assert without_costs(best["metrics"]) == without_costs(other["metrics"])
    weights = [(Path(run["folder"]) / layout.BEST).read_bytes() for run in (best, other)]
    assert weights[0] == weights[1]


def test_search_in_another_folder_takes_over_all_trials(searched: CompletedSweep, store: Path, tmp_path: Path) -> None:
    again = sweep(tmp_path / "again", store, *TYPED, "resume=true")
    assert trial_values(study_of(again.folder, "head")) == trial_values(study_of(searched.folder, "head"))
    assert metrics_by_name(again.folder) == metrics_by_name(searched.folder)
    assert not [*again.folder.glob(f"*/{layout.RECORD}")]  # no run started


def metrics_of_trials(done: CompletedSweep) -> dict[str, dict[str, float]]:
    """Return `metrics_by_name` without the fresh seed."""
    return {run["name"]: without_costs(run["metrics"]) for run in trial_results(done.folder)}


def killed_search(folder: Path, store: Path, place: str, number: int, *typed: str) -> str:
    """Run a search that is killed in the call `number` of the function `place`; return its output."""
    arguments = ["-m", *TYPED, "resume=true", *places(folder, store), *typed, "hydra/launcher=basic"]
    done = warm.run(
        [sys.executable, "-c", KILLED_IN_CALL.format(place=place, number=number), *arguments], env=environment()
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    return done.stdout


def test_killed_search_continues_with_the_same_trials(searched: CompletedSweep, tmp_path: Path) -> None:
    store, folder = stores.put(tmp_path / "mlflow.db"), tmp_path / "killed"
    before = killed_search(folder, store, "StudyRungs.pause", 7, "search.confirm=0")
    statuses = {path.parent.name: json.loads(path.read_text())["status"] for path in folder.glob("*/result.json")}
    assert set(statuses.values()) == {"PAUSED"}
    done = sweep(folder, store, *TYPED, "search.confirm=0", "resume=true")
    assert "resumed, having waited in " in done.out and "interrupted" not in done.out
    assert epochs_printed(before) + epochs_printed(done.out) == epochs_printed(searched.out) - 9
    assert trial_values(study_of(folder, "head")) == trial_values(study_of(searched.folder, "head"))
    assert metrics_by_name(folder) == metrics_of_trials(searched)


def test_shared_study_continues_paused_runs_of_another_folder(searched: CompletedSweep, tmp_path: Path) -> None:
    store, file = stores.put(tmp_path / "mlflow.db"), tmp_path / "studies.log"
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    shared = (f"search.storage={file}", f"store.path={tmp_path}/store", "search.confirm=0")
    before = killed_search(theirs, store, "StudyRungs.promote", 4, *shared)
    done = sweep(ours, store, *TYPED, *shared, "resume=true")
    assert trial_values(shared_study(file)) == trial_values(study_of(searched.folder, "head"))
    assert metrics_by_name(ours) == metrics_of_trials(searched)
    assert epochs_printed(before) + epochs_printed(done.out) == epochs_printed(searched.out) - 9
    assert f"resumed, having waited in {theirs}" in done.out


def test_equal_trials_run_once(store: Path, tmp_path: Path) -> None:
    few = ("search=random", "lr=choice(1e-3,1e-2)", "freeze=head", "search.prune=hyperband", "search.confirm=0")
    done = sweep(tmp_path / "few", store, *TINY_SEARCH, *few, "epochs=3", "trials=6", "resume=true")
    assert len(final_results(done.folder)) == 2
    found = study_of(done.folder, "head").trials
    assert len(found) == 6 and all(trial.state.is_finished() for trial in found)


MEANWHILE = """
from frostline.cli import main
from frostline.sweeps.search_rounds import Search
def logged(self, folder, result, real=Search.meanwhile):
    found = real(self, folder, result)
    print("meanwhile:", folder, "then", *(run.folder for run in found))
    return found
Search.meanwhile = logged
main()
"""


def test_free_worker_starts_the_next_trial(tmp_path: Path) -> None:
    store, folder = stores.put(tmp_path / "mlflow.db"), tmp_path / "two"
    few = ("epochs=3", "search.confirm=0", f"store.path={tmp_path}/store")
    typed = ["-m", *TYPED, *few, *places(folder, store), "hydra.launcher.workers=2"]
    done = warm.run([sys.executable, "-c", MEANWHILE, *typed], env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    logged = re.findall(r"^meanwhile: (\S+) then (\S+)$", done.stdout, re.MULTILINE)
    assert logged  # the next run started when one of two had ended
    found = study_of(folder, "head").trials
    lengths = [len(trial.intermediate_values) for trial in found]
    assert len(found) == 6 and all(trial.state.is_finished() for trial in found) and max(lengths) == 3
    assert len(re.findall(r"  epoch \d+/3 ", done.stdout)) == sum(lengths)
