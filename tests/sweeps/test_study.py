"""A study is Optuna's own: the suggestions that Optuna makes alone, whatever is killed between lines of its file."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
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
from frostline.sweeps.study_storage import mend, storage_of
from small import compose

SPACE = {"lr": FloatDistribution(1e-5, 1.0, log=True), "epochs": IntDistribution(1, 8)}
SAMPLERS = ("random", "qmc", "tpe", "gp", "cmaes")


def asked(name: str, *more: str) -> Config:
    return compose("freeze=head", f"search={name}", *more)


def opened(config: Config, folder: Path | None) -> Study:
    return Study(storage_of(config.search, folder), "head", config, SPACE)


def score(values: dict[str, Any]) -> float:
    return -(math.log10(values["lr"] / 1e-2) ** 2) - 0.1 * abs(values["epochs"] - 4)


def go_on(study: Study, trials: int) -> None:
    """Do what a search does, until there are so many trials."""
    for number in range(trials):
        if number >= len(study.trials()):
            study.ask()
        values = study.asked(number)
        study.tell(number, [score(values)], TrialState.COMPLETE)


def told(study: Study) -> list[tuple[dict[str, Any], float | None]]:
    return [(trial.params, trial.value) for trial in study.trials()]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_suggestions_are_those_of_optuna_with_the_same_sampler_and_the_study_is_one_of_optunas(
    name: str, tmp_path: Path
) -> None:
    config = asked(name, "search.seed=3")
    trials = 7 if name == "gp" else 12
    go_on(opened(config, tmp_path), trials)
    alone = optuna.create_study(direction="maximize")
    for number in range(trials):
        alone.sampler = sampler(config.search, number)
        trial = alone.ask(SPACE)
        alone.tell(trial, score(trial.params))
    backend = JournalFileBackend(str(tmp_path / layout.STUDY))
    read = optuna.load_study(study_name="head", storage=optuna.storages.JournalStorage(backend))
    assert [(trial.params, trial.value) for trial in read.trials] == [(t.params, t.value) for t in alone.trials]
    assert read.best_trial.number == alone.best_trial.number


@contextmanager
def noting(folder: Path, study: str) -> Iterator[list[dict[str, bytes]]]:
    """Yield what a process leaves in `folder` that is killed at each of its writes: before it, or in the middle."""
    left: list[dict[str, bytes]] = []
    real = JournalFileBackend.append_logs

    def append_logs(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        left.append({file.name: file.read_bytes() for file in folder.iterdir()})
        if len(left) % 2 and study in left[-1]:
            left[-1][study] += json.dumps(logs[0])[:9].encode()
        real(self, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", append_logs)
        yield left


def put(left: dict[str, bytes], folder: Path) -> Path:
    """Put into a new folder what a process left, and return it."""
    folder.mkdir()
    for name, content in left.items():
        (folder / name).write_bytes(content)
    return folder


# With one sampler at every write, with the others in the last trial alone, for which they know something.


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "random"])
def test_a_study_that_is_killed_at_any_write_goes_on_with_the_same_trials(name: str, tmp_path: Path) -> None:
    config, trials = asked(name), 6 if name == "gp" else 7
    (whole := tmp_path / "whole").mkdir()
    with noting(whole, layout.STUDY) as states:
        go_on(opened(config, whole), trials)
    expected = told(opened(config, whole))
    for number, left in enumerate(states if name == "tpe" else states[-5:]):
        mend(folder := put(left, tmp_path / str(number)))
        go_on(opened(config, folder), trials)
        assert told(opened(config, folder)) == expected, number


def share(config: Config, folder: Path, trials: int) -> Study:
    """Do what a search does that is not alone, until there are so many trials."""
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
def test_a_shared_study_has_the_trials_of_an_own_one_whatever_write_a_process_is_killed_at(
    name: str, tmp_path: Path
) -> None:
    trials = {"random": 4, "qmc": 4, "gp": 6}.get(name, 7)
    (whole := tmp_path / "whole").mkdir()
    with noting(whole, layout.STUDY) as states:
        expected = told(share(asked(name, f"search.storage={whole}/{layout.STUDY}"), tmp_path / "killed", trials))
    own = opened(asked(name), None)
    go_on(own, trials)
    assert told(own) == expected
    for number, left in enumerate(states if name == "tpe" else states[-8:]):
        config = asked(name, f"search.storage={put(left, tmp_path / str(number))}/{layout.STUDY}")
        assert told(share(config, tmp_path / "next", trials)) == expected, number


def test_more_trials_go_on_where_fewer_ended(tmp_path: Path) -> None:
    config = asked("tpe")
    go_on(opened(config, tmp_path), 6)
    go_on(opened(config, tmp_path), 9)
    straight = opened(config, None)
    go_on(straight, 9)
    assert told(opened(config, tmp_path)) == told(straight)


def test_a_pruner_stops_what_does_worse_and_what_it_was_told_is_kept(tmp_path: Path) -> None:
    config = asked("random", "search.prune=median", "epochs=4")
    study = opened(config, tmp_path)
    for number in range(6):
        study.ask()
        judge = study.judge(number)
        said = {judge(epoch, 0.5 + number * 0.01) for epoch in (1, 2, 3)}
        assert said == {Decision.CONTINUE}  # each is better than those before
        study.tell(number, [0.5 + number * 0.01], TrialState.COMPLETE)
    study.ask()
    assert [study.judge(6)(epoch, 0.1) for epoch in (1, 2)] == [Decision.CONTINUE, Decision.STOP]
    study.tell(6, None, TrialState.PRUNED, epochs=[0.1, 0.1])
    last = opened(config, tmp_path).trials()[6]
    assert last.state is TrialState.PRUNED and last.intermediate_values == {1: 0.1, 2: 0.1}
    best = study.best()
    assert best is not None and best.number == 5


def test_a_process_opens_a_study_once_for_all_trials_that_it_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = asked("random", "search.prune=median", "epochs=9")
    study = opened(config, tmp_path)
    study.ask()
    assert judge_of(config, tmp_path, "head", 0)(1, 0.5) is Decision.CONTINUE
    monkeypatch.setattr("frostline.sweeps.study.storage_of", None)
    number, _ = study.ask()
    assert judge_of(config, tmp_path, "head", number)(1, 0.5) is Decision.CONTINUE
    assert [trial.intermediate_values for trial in study.trials()] == [{1: 0.5}] * 2


@pytest.mark.parametrize("prune", ["median", "wilcoxon"])
def test_every_pruner_judges(prune: str) -> None:
    study = opened(asked("random", f"search.prune={prune}", "epochs=9"), None)
    study.ask()
    assert study.judge(0)(1, 0.5) is Decision.CONTINUE


def test_what_was_to_stop_and_was_killed_before_it_could_stops_there_when_it_goes_on(tmp_path: Path) -> None:
    config = asked("random", "search.prune=median", "epochs=9")
    study = opened(config, tmp_path)
    for number in range(12):
        study.ask()
        judge = study.judge(number)
        values = ((epoch, 0.5 - 0.01 * number) for epoch in range(1, 9))
        stopped = next((epoch for epoch, value in values if judge(epoch, value) is Decision.STOP), None)
        if stopped:
            assert opened(config, tmp_path).judge(number)(stopped, 0.5 - 0.01 * number) is Decision.STOP
        study.tell(number, None if stopped else [0.5], TrialState.PRUNED if stopped else TrialState.COMPLETE)
    states = [trial.state for trial in study.trials()]
    assert states[0] is TrialState.COMPLETE and states.count(TrialState.PRUNED) > 3


def test_what_the_sampler_or_the_storage_cannot_be_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^search\.options=.*keyword arguments of Optuna's TPESampler .*startups"):
        sampler(asked("tpe", "+search.options.startups=3").search, 0)
    with pytest.raises(UserError, match=r"^search\.storage=nowhere://x: expected a storage URL"):
        storage_of(asked("tpe", "search.storage='nowhere://x'").search, None)


@pytest.fixture
def ours_and_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Study, Study]:
    """Return a study as this search has it, and as another process has it, which lives: the one that began this one."""
    config = asked("tpe", f"search.storage={tmp_path}/studies.log")
    storage = [storage_of(config.search, None) for _ in range(2)]
    ours = Study(storage[0], "head", config, SPACE, tmp_path / "ours")
    parent = psutil.Process(os.getppid())
    them = replace(liveness.this_process(), pid=parent.pid, started=parent.create_time())
    monkeypatch.setattr(liveness, "this_process", lambda: them)
    theirs = Study(storage[1], "head", config, SPACE, tmp_path / "theirs")
    monkeypatch.undo()
    return ours, theirs


def test_two_that_share_a_study_see_all_results_and_have_no_trial_in_common(
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
    assert ours.sharing.take(1) == Path(theirs.sharing.me["sweep"])  # where what it came to is
    assert ours.spent() == theirs.spent() == [None, Spent(3, 1.5)]


def test_what_a_process_had_that_is_gone_goes_to_the_next(ours_and_theirs: tuple[Study, Study]) -> None:
    ours, theirs = ours_and_theirs
    theirs.sharing.me["pid"] = 2**22 + 1  # larger than any process id
    values = theirs.ask()[1]
    assert ours.numbers() == [0]
    assert ours.sharing.take(0) == Path(theirs.sharing.me["sweep"]) and ours.asked(0) == values
    assert ours.sharing.take(0) is None  # it is this search's now
    assert ours.trials()[0].user_attrs["holder"]["sweep"] == ours.sharing.me["sweep"]


def test_what_failed_is_left_to_whoever_takes_it_next_and_counts_with_what_it_took(
    ours_and_theirs: tuple[Study, Study],
) -> None:
    ours, theirs = ours_and_theirs
    values = theirs.ask()[1]
    assert ours.numbers() == [] and not ours.over()
    theirs.leave(0, Spent(2, 1.5))
    assert ours.numbers() == [0] and not ours.is_waited_for()
    assert ours.over() and not ours.over(0) and ours.spent() == [Spent(2, 1.5)]
    assert ours.sharing.take(0) == Path(theirs.sharing.me["sweep"]) and ours.asked(0) == values
    assert theirs.spent() == [None]
    ours.tell(0, [0.5], TrialState.COMPLETE, spent=Spent(3, 2.0))
    theirs.leave(0, Spent(0, 0))  # too late
    assert ours.spent() == theirs.spent() == [Spent(3, 2.0)]


def test_a_process_on_another_machine_is_gone_when_it_is_silent(
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


def test_one_of_several_confirms(ours_and_theirs: tuple[Study, Study]) -> None:
    ours, theirs = ours_and_theirs
    assert theirs.sharing.confirm(3) is None
    with pytest.raises(Taken):
        ours.sharing.confirm(3)
    ours.sharing.confirmed(3)  # what it has no part in
    with pytest.raises(Taken):
        ours.sharing.confirm(3)
    theirs.sharing.confirmed(3)
    assert ours.sharing.confirm(3) == Path(theirs.sharing.me["sweep"]) and theirs.sharing.confirm(3) is None
    assert ours.sharing.confirm(4) is None  # a better one since


def test_runs_of_earlier_sweeps_are_observed_by_a_new_study_alone_and_are_no_trials_of_it(tmp_path: Path) -> None:
    study = opened(asked("tpe"), tmp_path)
    known = [({"lr": 10**-n, "epochs": n}, [1 - 0.01 * n], f"run {n}") for n in (1, 2, 3)]
    study.observe(known)
    study.observe([({"lr": 0.5, "epochs": 8}, [0.9], "too late")])
    assert study.observed() == ["run 1", "run 2", "run 3"] and study.numbers() == [] and study.spent() == []
    assert study.best() is None and study.over()
    number, _ = study.ask()
    study.tell(number, [0.1], TrialState.COMPLETE)
    assert study.numbers() == [3] and study.best() == study.trials()[3]
    assert opened(asked("tpe"), tmp_path).observed() == study.observed()


def test_any_storage_of_optuna_will_do(tmp_path: Path) -> None:
    config = asked("tpe", f"search.storage='sqlite:///{tmp_path}/studies.db'")
    go_on(opened(config, None), 3)
    read = optuna.load_study(study_name="head", storage=f"sqlite:///{tmp_path}/studies.db")
    assert [trial.params for trial in read.trials] == [values for values, _ in told(opened(config, None))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "qmc", "tpe", "gp"])
def test_with_several_objectives_suggestions_are_optunas_and_the_best_is_on_the_front(
    name: str, tmp_path: Path
) -> None:
    config = asked(name, "search.objective=[cost/train_seconds,val/accuracy]")
    study, alone = opened(config, tmp_path), optuna.create_study(directions=["minimize", "maximize"])
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
