"""A search whose trials wait at rungs: what goes on does so where it was, whatever is killed, and whoever has it."""

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
from test_search import TINY, measured, results, study_of
from test_shared_search import DYING
from test_sweep import Done, environment, sweep, where

import stores
import warm
from frostline.records import journal, layout
from frostline.sweeps.study_storage import storage_of
from small import compose

HYPERBAND = ("search=tpe", "lr=interval(1e-5,1)", "freeze=head", "search.prune=hyperband", "search.confirm=1")
TYPED = (*TINY, *HYPERBAND, "epochs=9", "trials=6")


def trained(out: str) -> int:
    """Return how many epochs a sweep trained that printed this."""
    return len(re.findall(r"^  epoch \d+/9 ", out, re.MULTILINE))


def told(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [(one.params, one.state, one.value, one.intermediate_values) for one in study.trials]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Done:
    return sweep(tmp_path_factory.mktemp("sweeps") / "searched", store, *TYPED)


def test_who_is_among_the_best_third_goes_on_from_its_checkpoint_and_the_others_end_where_they_waited(
    searched: Done,
) -> None:
    found = study_of(searched.folder, "head").trials
    lengths = [len(trial.intermediate_values) for trial in found]
    assert sorted(lengths, reverse=True)[:2] == [9, 3] and set(lengths) == {1, 3, 9}
    runs = [run for run in results(searched.folder) if "trial" in run["choices"]]
    assert [run["choices"]["trial"] for run in runs] == [*range(6)]
    for trial, run in zip(found, runs, strict=True):
        came, folder = len(trial.intermediate_values), Path(run["folder"])
        assert [line["epoch"] for line in journal.epochs(folder)] == [*range(1, came + 1)]
        assert run["status"] == "FINISHED" and run["metrics"]["cost/epochs"] == trial.user_attrs["epochs"] == came
        assert run["metrics"].get("search/pruned_after") == (None if came == 9 else came)
        assert trial.state is (TrialState.COMPLETE if came == 9 else TrialState.PRUNED)
        ends = [note["status"] for note, _ in journal.entries(folder) if note["op"] == "end"]
        assert ends == ["PAUSED"] * {1: 1, 3: 2, 9: 2}[came] + ["FINISHED"]
        assert not (folder / layout.CHECKPOINT).exists()
    assert trained(searched.out) == sum(lengths) + 9  # none twice; those of the fresh seed, too
    assert {run.info.status for run in searched.runs()} == {"FINISHED"}
    assert f"{lengths.count(1) + lengths.count(3)} of them stopped early" in searched.out


def test_a_run_that_waited_is_what_it_had_been_in_one_go(searched: Done, store: Path, tmp_path: Path) -> None:
    (best,) = (
        run for run in results(searched.folder) if run["metrics"].get("cost/epochs") == 9 and "trial" in run["choices"]
    )
    alone = sweep(tmp_path / "alone", store, *TINY[:-1], "freeze=head", "epochs=9", f"lr={best['choices']['lr']!r}")
    (other,) = results(alone.folder)
    same = [
        {key: run["metrics"][key] for key in run["metrics"] if not key.startswith("cost/")} for run in (best, other)
    ]
    assert same[0] == same[1]
    weights = [(Path(run["folder"]) / layout.BEST).read_bytes() for run in (best, other)]
    assert weights[0] == weights[1]


def test_in_another_folder_the_same_command_takes_over_all_trials(searched: Done, store: Path, tmp_path: Path) -> None:
    again = sweep(tmp_path / "again", store, *TYPED, "resume=true")
    assert told(study_of(again.folder, "head")) == told(study_of(searched.folder, "head"))
    assert measured(again.folder) == measured(searched.folder)
    assert not [*again.folder.glob(f"*/{layout.RECORD}")]  # nothing was run


def of_trials(done: Done) -> dict[str, dict[str, float]]:
    """Return what `measured` does, without the fresh seed."""
    names = {run["name"] for run in results(done.folder) if "trial" in run["choices"]}
    return {name: metrics for name, metrics in measured(done.folder).items() if name in names}


def killed(folder: Path, store: Path, place: str, number: int, *typed: str) -> str:
    """Search, and be killed when a place in the code is come to so often; return what was printed."""
    arguments = ["-m", *TYPED, "resume=true", *where(folder, store), *typed, "hydra/launcher=basic"]
    done = warm.run([sys.executable, "-c", DYING.format(place=place, number=number), *arguments], env=environment())
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    return done.stdout


def test_what_is_killed_goes_on_with_the_same_trials_and_those_that_waited_wait(searched: Done, tmp_path: Path) -> None:
    store, folder = stores.put(tmp_path / "mlflow.db"), tmp_path / "killed"
    before = killed(folder, store, "StudyRungs.pause", 7, "search.confirm=0")
    statuses = {path.parent.name: json.loads(path.read_text())["status"] for path in folder.glob("*/result.json")}
    assert set(statuses.values()) == {"PAUSED"}
    done = sweep(folder, store, *TYPED, "search.confirm=0", "resume=true")
    assert "resumed, having waited in " in done.out and "interrupted" not in done.out
    assert trained(before) + trained(done.out) == trained(searched.out) - 9
    assert told(study_of(folder, "head")) == told(study_of(searched.folder, "head"))
    assert measured(folder) == of_trials(searched)


def test_of_two_that_share_a_study_one_carries_on_what_waited_in_the_folder_of_the_other(
    searched: Done, tmp_path: Path
) -> None:
    store, file = stores.put(tmp_path / "mlflow.db"), tmp_path / "studies.log"
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    shared = (f"search.storage={file}", f"store.path={tmp_path}/store", "search.confirm=0")
    before = killed(theirs, store, "StudyRungs.promote", 4, *shared)
    done = sweep(ours, store, *TYPED, *shared, "resume=true")
    backend = storage_of(compose("search=tpe", f"search.storage={file}").search, None).backend
    (study,) = optuna.get_all_study_summaries(backend)
    found = optuna.load_study(study_name=study.study_name, storage=backend)
    assert told(found) == told(study_of(searched.folder, "head"))
    assert measured(ours) == of_trials(searched)
    assert trained(before) + trained(done.out) == trained(searched.out) - 9
    assert f"resumed, having waited in {theirs}" in done.out


def test_values_that_are_drawn_twice_are_run_once(store: Path, tmp_path: Path) -> None:
    few = ("search=random", "lr=choice(1e-3,1e-2)", "freeze=head", "search.prune=hyperband", "search.confirm=0")
    done = sweep(tmp_path / "few", store, *TINY, *few, "epochs=3", "trials=6", "resume=true")
    assert len(results(done.folder)) == 2
    found = study_of(done.folder, "head").trials
    assert len(found) == 6 and all(trial.state.is_finished() for trial in found)


MEANWHILE = """
from frostline.cli import main
from frostline.sweeps.search_rounds import Search
def noted(self, folder, result, real=Search.meanwhile):
    found = real(self, folder, result)
    print("meanwhile:", folder, "then", *(run.folder for run in found))
    return found
Search.meanwhile = noted
main()
"""


def test_a_worker_that_is_free_goes_on_while_others_are_at_work(tmp_path: Path) -> None:
    store, folder = stores.put(tmp_path / "mlflow.db"), tmp_path / "two"
    few = ("epochs=3", "search.confirm=0", f"store.path={tmp_path}/store")
    typed = ["-m", *TYPED, *few, *where(folder, store), "hydra.launcher.workers=2"]
    done = warm.run([sys.executable, "-c", MEANWHILE, *typed], env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    asked = re.findall(r"^meanwhile: (\S+) then (\S+)$", done.stdout, re.MULTILINE)
    assert asked  # when a run of two ended, what was next began
    found = study_of(folder, "head").trials
    lengths = [len(trial.intermediate_values) for trial in found]
    assert len(found) == 6 and all(trial.state.is_finished() for trial in found) and max(lengths) == 3
    assert len(re.findall(r"  epoch \d+/3 ", done.stdout)) == sum(lengths)
