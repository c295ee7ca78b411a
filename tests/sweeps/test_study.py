"""A study makes the suggestions of plain Optuna, also when shared or killed at any write."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from frostline.core.config import Config
from frostline.core.errors import UserError
from frostline.records import layout, liveness
from frostline.records.trial_tags import Decision
from frostline.sweeps.samplers import sampler
from frostline.sweeps.search_budget import Spent
from frostline.sweeps.study import Study, judge_of
from frostline.sweeps.study_sharing import Taken
from frostline.sweeps.study_storage import refusing_damage, storage_of
from killed_studies import restore, states_at_writes
from small import compose

SPACE = {"lr": FloatDistribution(1e-5, 1.0, log=True), "epochs": IntDistribution(1, 8)}
SAMPLERS = ("random", "qmc", "tpe", "gp", "cmaes")


def search_config(name: str, *more: str) -> Config:
    return compose("freeze=head", f"search={name}", *more)


def open_study(config: Config, folder: Path | None) -> Study:
    return Study(storage_of(config.search, folder), "head", config, SPACE)


def score(values: dict[str, Any]) -> float:
    return -(math.log10(values["lr"] / 1e-2) ** 2) - 0.1 * abs(values["epochs"] - 4)


def run_trials(study: Study, trials: int) -> None:
    """Carry out trials as a search does, until there are `trials`."""
    for number in range(trials):
        if number >= len(study.trials()):
            study.ask()
        values = study.asked(number)
        study.tell(number, [score(values)], TrialState.COMPLETE)


def results(study: Study) -> list[tuple[dict[str, Any], float | None]]:
    return [(trial.params, trial.value) for trial in study.trials()]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_suggestions_equal_those_of_optuna(name: str, tmp_path: Path) -> None:
    config = search_config(name, "search.seed=3")
    trials = 7 if name == "gp" else 12
    run_trials(open_study(config, tmp_path), trials)
    alone = optuna.create_study(direction="maximize")
    for number in range(trials):
        alone.sampler = sampler(config.search, number)
        trial = alone.ask(SPACE)
        alone.tell(trial, score(trial.params))
    backend = JournalFileBackend(str(tmp_path / layout.STUDY))
    read = optuna.load_study(study_name="head", storage=optuna.storages.JournalStorage(backend))
    assert [(trial.params, trial.value) for trial in read.trials] == [(t.params, t.value) for t in alone.trials]
    assert read.best_trial.number == alone.best_trial.number


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "random"])
def test_killed_study_continues_with_the_same_trials(name: str, tmp_path: Path) -> None:
    """With tpe at every write, with other samplers only in the last trial, when they have learned from others."""
    config, trials = search_config(name), 6 if name == "gp" else 7
    (whole := tmp_path / "whole").mkdir()
    with states_at_writes(whole, layout.STUDY) as states:
        run_trials(open_study(config, whole), trials)
    expected = results(open_study(config, whole))
    for number, state in enumerate(states if name == "tpe" else states[-5:]):
        folder = restore(state, tmp_path / str(number))
        run_trials(open_study(config, folder), trials)
        assert results(open_study(config, folder)) == expected, number


def run_shared_trials(config: Config, folder: Path, trials: int) -> Study:
    """Carry out trials as a search in a shared study does, until there are `trials`."""
    study, begun = Study(storage_of(config.search, None), "head", config, SPACE, folder), set[int]()
    while len(study.trials()) < trials or not study.over():
        known = [number for number in study.numbers() if number not in begun] or [study.ask()[0]]
        for number in known:
            study.sharing.take(number)
            study.tell(number, [score(study.asked(number))], TrialState.COMPLETE)
        begun.update(known)
    return study


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_killed_shared_study_equals_an_own_study(name: str, tmp_path: Path) -> None:
    trials = {"random": 4, "qmc": 4, "gp": 6}.get(name, 7)
    (whole := tmp_path / "whole").mkdir()
    with states_at_writes(whole, layout.STUDY) as states:
        config = search_config(name, f"search.storage={whole}/{layout.STUDY}")
        expected = results(run_shared_trials(config, tmp_path / "killed", trials))
    own = open_study(search_config(name), None)
    run_trials(own, trials)
    assert results(own) == expected
    for number, state in enumerate(states if name == "tpe" else states[-8:]):
        config = search_config(name, f"search.storage={restore(state, tmp_path / str(number))}/{layout.STUDY}")
        assert results(run_shared_trials(config, tmp_path / "next", trials)) == expected, number


def test_more_trials_continue_a_finished_study(tmp_path: Path) -> None:
    config = search_config("tpe")
    run_trials(open_study(config, tmp_path), 6)
    run_trials(open_study(config, tmp_path), 9)
    straight = open_study(config, None)
    run_trials(straight, 9)
    assert results(open_study(config, tmp_path)) == results(straight)


def test_smaller_budget_leaves_further_trials_out(tmp_path: Path) -> None:
    config = search_config("random")
    killed = open_study(config, tmp_path)
    for _ in range(4):
        killed.ask()
    for number in range(3):
        killed.tell(number, [float(number)], TrialState.COMPLETE)
    study = Study(storage_of(config.search, tmp_path), "head", config, SPACE, tmp_path, most=2)
    assert study.numbers() == [0, 1] and len(study.spent()) == 2
    assert study.over() and not killed.over()
    best = study.best()
    assert best is not None and best.number == 1


def test_pruner_stops_worse_trials_and_keeps_their_values(tmp_path: Path) -> None:
    config = search_config("random", "search.prune=median", "epochs=4")
    study = open_study(config, tmp_path)
    for number in range(6):
        study.ask()
        judge = study.judge(number)
        decisions = {judge(epoch, 0.5 + number * 0.01) for epoch in (1, 2, 3)}
        assert decisions == {Decision.CONTINUE}  # each trial is better than the earlier ones
        study.tell(number, [0.5 + number * 0.01], TrialState.COMPLETE)
    study.ask()
    assert [study.judge(6)(epoch, 0.1) for epoch in (1, 2)] == [Decision.CONTINUE, Decision.STOP]
    study.tell(6, None, TrialState.PRUNED, epochs=[0.1, 0.1])
    last = open_study(config, tmp_path).trials()[6]
    assert last.state is TrialState.PRUNED and last.intermediate_values == {1: 0.1, 2: 0.1}
    best = study.best()
    assert best is not None and best.number == 5


def test_process_opens_a_study_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = search_config("random", "search.prune=median", "epochs=9")
    study = open_study(config, tmp_path)
    study.ask()
    assert judge_of(config, tmp_path, "head", 0)(1, 0.5) is Decision.CONTINUE
    monkeypatch.setattr("frostline.sweeps.study.storage_of", None)
    number, _ = study.ask()
    assert judge_of(config, tmp_path, "head", number)(1, 0.5) is Decision.CONTINUE
    assert [trial.intermediate_values for trial in study.trials()] == [{1: 0.5}] * 2


def test_judge_waits_for_a_lost_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = search_config("random", "search.prune=median", "epochs=9", f"search.storage='sqlite:///{tmp_path}/all.db'")
    waited = list[object]()
    storage = replace(storage_of(config.search, None), ready=waited.append)
    study = Study(storage, "head", config, SPACE)
    study.ask()
    real, lost = storage.backend.get_all_trials, [True]

    def trials(*given: Any, **how: Any) -> Any:
        if lost:
            raise StorageInternalError(f"connection refused ({lost.pop()})")
        return real(*given, **how)

    monkeypatch.setattr(storage.backend, "get_all_trials", trials)
    judge = study.judge(0)
    lost.append(True)
    assert judge(1, 0.5) is Decision.CONTINUE and len(waited) == 2
    assert study.trials()[0].intermediate_values == {1: 0.5}


def test_process_waits_for_a_shared_storage_before_it_opens_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, awaited = f"sqlite:///{tmp_path}/all.db", list[str]()
    config = search_config("random", "search.prune=median", "epochs=9", f"search.storage='{url}'")
    Study(storage_of(config.search, None), "head", config, SPACE).ask()
    monkeypatch.setattr("frostline.sweeps.study.wait_for", lambda url, say: awaited.append(url))
    assert [judge_of(config, tmp_path, "head", 0)(epoch, 0.5) for epoch in (1, 2)] == [Decision.CONTINUE] * 2
    assert awaited == [url]


@pytest.mark.parametrize("prune", ["median", "wilcoxon"])
def test_every_pruner_judges(prune: str) -> None:
    study = open_study(search_config("random", f"search.prune={prune}", "epochs=9"), None)
    study.ask()
    assert study.judge(0)(1, 0.5) is Decision.CONTINUE


def test_stop_decision_is_repeated_after_a_kill(tmp_path: Path) -> None:
    config = search_config("random", "search.prune=median", "epochs=9")
    study = open_study(config, tmp_path)
    for number in range(12):
        study.ask()
        judge = study.judge(number)
        values = ((epoch, 0.5 - 0.01 * number) for epoch in range(1, 9))
        stopped = next((epoch for epoch, value in values if judge(epoch, value) is Decision.STOP), None)
        if stopped:
            assert open_study(config, tmp_path).judge(number)(stopped, 0.5 - 0.01 * number) is Decision.STOP
        study.tell(number, None if stopped else [0.5], TrialState.PRUNED if stopped else TrialState.COMPLETE)
    states = [trial.state for trial in study.trials()]
    assert states[0] is TrialState.COMPLETE and states.count(TrialState.PRUNED) > 3


def test_invalid_sampler_options_or_storage_are_refused() -> None:
    with pytest.raises(UserError, match=r"^search\.options\.startups=3: expected an option of search=tpe \(.*startup"):
        sampler(search_config("tpe", "+search.options.startups=3").search, 0)
    with pytest.raises(UserError, match=r"^search\.storage=nowhere://x: expected a storage URL"):
        storage_of(search_config("tpe", "search.storage='nowhere://x'").search, None)


@pytest.fixture
def ours_and_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Study, Study]:
    """Return a study as this search sees it, and as another live process, the parent of this one, sees it."""
    config = search_config("tpe", f"search.storage={tmp_path}/studies.log")
    storage = [storage_of(config.search, None) for _ in range(2)]
    ours = Study(storage[0], "head", config, SPACE, tmp_path / "ours")
    parent = psutil.Process(os.getppid())
    them = replace(liveness.this_process(), pid=parent.pid, started=parent.create_time())
    monkeypatch.setattr(liveness, "this_process", lambda: them)
    theirs = Study(storage[1], "head", config, SPACE, tmp_path / "theirs")
    monkeypatch.undo()
    return ours, theirs


def test_shared_study_divides_trials_and_shows_all_results(
    ours_and_theirs: tuple[Study, Study],
) -> None:
    ours, theirs = ours_and_theirs
    (mine, values), (other, others) = ours.ask(), theirs.ask()
    assert (mine, other) == (0, 1) and values != others
    assert ours.numbers() == [0] and ours.is_waited_for()
    with pytest.raises(Taken):
        ours.sharing.take(1)
    theirs.tell(1, [0.5], TrialState.COMPLETE, spent=Spent(3, 1.5))
    assert ours.numbers() == [0, 1] and not ours.is_waited_for()
    assert ours.sharing.take(1) == Path(theirs.sharing.me["sweep"])  # the folder with its result
    assert ours.spent() == theirs.spent() == [None, Spent(3, 1.5)]


def test_trial_of_a_dead_process_is_taken_over(ours_and_theirs: tuple[Study, Study]) -> None:
    ours, theirs = ours_and_theirs
    theirs.sharing.me["pid"] = 2**22 + 1  # larger than any process id
    values = theirs.ask()[1]
    assert ours.numbers() == [0]
    assert ours.sharing.take(0) == Path(theirs.sharing.me["sweep"]) and ours.asked(0) == values
    assert ours.sharing.take(0) is None  # it already belongs to this search
    assert ours.trials()[0].user_attrs["holder"]["sweep"] == ours.sharing.me["sweep"]


def test_trial_that_a_user_ended_without_values_counts_but_is_not_run(tmp_path: Path) -> None:
    config = search_config("tpe", f"search.storage={tmp_path}/studies.log")
    optuna.create_study(storage=storage_of(config.search, None).backend, study_name="head").add_trial(
        optuna.trial.create_trial(state=TrialState.FAIL)
    )
    study = open_study(config, None)
    assert study.ask()[0] == 1 and study.numbers() == [1] and study.spent() == [Spent(0, 0), None]


def test_failed_trial_is_left_and_its_cost_counts(
    ours_and_theirs: tuple[Study, Study],
) -> None:
    ours, theirs = ours_and_theirs
    values = theirs.ask()[1]
    assert ours.numbers() == [] and not ours.over()
    theirs.leave(0, Spent(2, 1.5))
    assert ours.numbers() == [0] and not ours.is_waited_for()
    assert ours.over() and not ours.has_result(0) and ours.spent() == [Spent(2, 1.5)]
    assert ours.sharing.take(0) == Path(theirs.sharing.me["sweep"]) and ours.asked(0) == values
    assert theirs.spent() == [None]
    ours.tell(0, [0.5], TrialState.COMPLETE, spent=Spent(3, 2.0))
    theirs.leave(0, Spent(0, 0))  # too late
    assert ours.spent() == theirs.spent() == [Spent(3, 2.0)]


def test_silent_process_on_another_machine_is_gone(
    ours_and_theirs: tuple[Study, Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ours_and_theirs
    theirs.sharing.me |= {"host": "elsewhere", "machine": "another"}
    theirs.ask()
    theirs.sharing.alive()
    assert ours.numbers() == []
    later = time.time() + liveness.SILENT + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert ours.numbers() == [0]
    theirs.sharing.alive()
    assert ours.numbers() == []


def test_one_of_several_searches_confirms(ours_and_theirs: tuple[Study, Study]) -> None:
    ours, theirs = ours_and_theirs
    assert theirs.sharing.confirm(3) is None
    with pytest.raises(Taken):
        ours.sharing.confirm(3)
    ours.sharing.confirmed(3)  # without effect: the other search confirms it
    with pytest.raises(Taken):
        ours.sharing.confirm(3)
    theirs.sharing.confirmed(3)
    assert ours.sharing.confirm(3) == Path(theirs.sharing.me["sweep"]) and theirs.sharing.confirm(3) is None
    assert ours.sharing.confirm(4) is None  # a better trial found later


EARLIER = [({"lr": 10**-n, "epochs": n}, [1 - 0.01 * n], f"run {n}") for n in (1, 2, 3)]


def test_kill_while_earlier_runs_are_observed_loses_and_repeats_none(tmp_path: Path) -> None:
    (whole := tmp_path / "whole").mkdir()
    with states_at_writes(whole, layout.STUDY) as states:
        open_study(search_config("tpe"), whole).observe(EARLIER)
    for number, state in enumerate(states):
        study = open_study(search_config("tpe"), restore(state, tmp_path / str(number)))
        study.observe(EARLIER)
        assert study.observed() == ["run 1", "run 2", "run 3"], number


def test_quasi_random_sequence_is_the_same_after_earlier_runs(tmp_path: Path) -> None:
    study, alone = open_study(search_config("qmc"), tmp_path), open_study(search_config("qmc"), None)
    study.observe(EARLIER)
    assert [study.ask()[1] for _ in range(3)] == [alone.ask()[1] for _ in range(3)]


def test_earlier_runs_are_observed_only_by_a_new_study(tmp_path: Path) -> None:
    study = open_study(search_config("tpe"), tmp_path)
    study.observe(EARLIER)
    study.observe([({"lr": 0.5, "epochs": 8}, [0.9], "too late")])
    assert study.observed() == ["run 1", "run 2", "run 3"] and study.numbers() == [] and study.spent() == []
    assert study.best() is None and study.over()
    number, _ = study.ask()
    study.tell(number, [0.1], TrialState.COMPLETE)
    assert study.numbers() == [3] and study.best() == study.trials()[3]
    assert open_study(search_config("tpe"), tmp_path).observed() == study.observed()
    begun = open_study(search_config("tpe"), None)
    begun.ask()
    begun.observe(EARLIER)
    assert begun.observed() == []


def test_study_in_another_optuna_storage(tmp_path: Path) -> None:
    config = search_config("tpe", f"search.storage='sqlite:///{tmp_path}/studies.db'")
    run_trials(open_study(config, None), 3)
    read = optuna.load_study(study_name="head", storage=f"sqlite:///{tmp_path}/studies.db")
    assert [trial.params for trial in read.trials] == [values for values, _ in results(open_study(config, None))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "qmc", "tpe", "gp"])
def test_multi_objective_suggestions_equal_those_of_optuna(name: str, tmp_path: Path) -> None:
    config = search_config(name, "search.objective=[cost/train_seconds,val/accuracy]")
    study, alone = open_study(config, tmp_path), optuna.create_study(directions=["minimize", "maximize"])
    for number in range(7):
        number, values = study.ask()
        alone.sampler = sampler(config.search, number)
        trial = alone.ask(SPACE)
        both = [float(values["epochs"]), score(values)]
        study.tell(number, both if number != 3 else None, TrialState.COMPLETE if number != 3 else TrialState.PRUNED)
        alone.tell(trial, both if number != 3 else None, TrialState.COMPLETE if number != 3 else TrialState.PRUNED)
        assert trial.params == values
    best = study.best()
    assert best is not None and best.values[0] == min(trial.values[0] for trial in alone.best_trials)
    assert best.number in {trial.number for trial in alone.best_trials}


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [b"hello", *lines],
        lambda lines: [b"[]", *lines],
        lambda lines: [b"5", *lines],
        lambda lines: [*lines, b'{"op_code": 99, "worker_id": ""}'],
        lambda lines: [b"\xff\xfe", *lines],
        lambda lines: [*lines[:2], lines[2][:9], *lines[3:]],
        lambda lines: [line for line in lines if b'"param_name":"lr"' not in line],
        lambda lines: [line.replace(b'"lr"', b'"lx"') for line in lines],
    ],
)
def test_damaged_study_is_a_user_error(damage: Callable[[list[bytes]], list[bytes]], tmp_path: Path) -> None:
    config = search_config("random")
    run_trials(open_study(config, tmp_path), 2)
    file = tmp_path / layout.STUDY
    file.write_bytes(b"\n".join([*damage(file.read_bytes().splitlines()), b""]))
    with (
        pytest.raises(UserError, match=r"study\.jsonl: expected .* file is damaged .* delete it"),
        refusing_damage(tmp_path),
    ):
        open_study(config, tmp_path)
    file.unlink()
    assert open_study(config, tmp_path).numbers() == []
