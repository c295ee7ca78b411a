"""Trials wait at rungs and go on as the paper on ASHA has it, whatever the process is killed at."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from test_study import noting, put

from frostline.core.config import Config
from frostline.records import layout
from frostline.records.trial_tags import Decision
from frostline.sweeps.rungs import Rungs
from frostline.sweeps.samplers import sampler
from frostline.sweeps.search_budget import Spent
from frostline.sweeps.study import Study
from frostline.sweeps.study_storage import mend, storage_of
from small import compose

SPACE = {"lr": FloatDistribution(0.0, 1.0)}


def asked(*more: str, epochs: int = 9) -> Config:
    return compose("freeze=head", "search=random", "search.prune=hyperband", f"epochs={epochs}", *more)


def opened(config: Config, folder: Path | None) -> Study:
    return Study(storage_of(config.search, folder), "head", config, SPACE)


def curve(lr: float) -> list[float]:
    """Return the values of nine epochs of a trial; some are late, so that ranks change from rung to rung."""
    rand = random.Random(lr)
    steep = rand.random()
    return [1 - steep ** (epoch / 3) * rand.random() for epoch in range(1, 10)]


def next_one(study: Study, trials: int) -> int | None:
    """Return the trial that one worker carries out next of so many in all; None where all are over."""
    under_way = [number for number in study.numbers() if not study.over(number)]
    found = under_way or [number for number, _ in study.rungs.promote(1)]
    if found:
        return found[0]
    if len(study.trials()) < trials:
        return study.ask()[0]
    return next_one(study, trials) if study.rungs.conclude() else None


def step(study: Study, trials: int = 15) -> tuple[int, int] | None:
    """Carry out what is next; return the trial and its epochs, None where all are over."""
    if (number := next_one(study, trials)) is None:
        return None
    values = curve(study.asked(number)["lr"])
    judge = study.judge(number)
    for epoch, value in enumerate(values[:-1], 1):
        if (decision := judge(epoch, value)) is not Decision.CONTINUE:
            break
    else:
        epoch, decision = len(values), Decision.CONTINUE
    spent = Spent(epoch, epoch / 2)
    if decision is Decision.PAUSE:
        study.rungs.pause(number, values[:epoch], spent)
    elif decision is Decision.STOP:
        study.tell(number, None, TrialState.PRUNED, values[:epoch], spent)
    else:
        study.tell(number, [max(values)], TrialState.COMPLETE, values, spent)
    return number, epoch


def jobs(lrs: Sequence[float], *, eta: int = 3, rungs: Sequence[int] = (1, 3, 9)) -> list[tuple[int, int]]:
    """Return the jobs of one worker, in order, as algorithm 2 of arXiv:1810.05934 hands them out: trial and epochs."""
    there: list[dict[int, float]] = [{} for _ in rungs]
    promoted: list[set[int]] = [set() for _ in rungs]
    found: list[tuple[int, int]] = []
    begun = 0

    def job() -> tuple[int, int] | None:
        nonlocal begun
        for rung in reversed(range(len(rungs) - 1)):
            top = sorted(there[rung], key=lambda trial: -there[rung][trial])[: len(there[rung]) // eta]
            for trial in top:
                if trial not in promoted[rung]:
                    promoted[rung].add(trial)
                    return trial, rung + 1
        if begun == len(lrs):
            return None
        begun += 1
        return begun - 1, 0

    while (given := job()) is not None:
        trial, rung = given
        there[rung][trial] = curve(lrs[trial])[rungs[rung] - 1]
        found.append((trial, rungs[rung]))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_trials_are_promoted_in_the_order_of_the_paper(seed: int) -> None:
    study = opened(asked(f"search.seed={seed}"), None)
    done = [*iter(lambda: step(study), None)]
    lrs = [trial.params["lr"] for trial in study.trials()]
    expected = jobs(lrs)
    assert done[: len(expected)] == expected and len(expected) > 20
    rest = done[len(expected) :]  # what waits in the end is stopped where it is, and costs nothing more
    came = dict(expected)
    assert rest == [(trial, epoch) for trial, epoch in sorted(came.items()) if epoch < 9]
    assert study.over() and study.spent() == [Spent(came[n], came[n] / 2) for n in range(15)]
    assert [trial.state for trial in study.trials()].count(TrialState.COMPLETE) == [*came.values()].count(9) > 0


@pytest.mark.slow
def test_all_is_as_if_nothing_had_been_whatever_write_a_process_is_killed_at(tmp_path: Path) -> None:
    def done(folder: Path) -> list[tuple[Mapping[str, float], TrialState, Mapping[int, float]]]:
        study = opened(asked(), folder)
        while step(study, 7):
            pass
        return [(one.params, one.state, one.intermediate_values) for one in study.trials()]

    (whole := tmp_path / "whole").mkdir()
    with noting(whole, layout.STUDY) as states:
        expected = done(whole)
    assert len(states) > 50
    for number, left in enumerate(states[::5]):
        mend(folder := put(left, tmp_path / str(number)))
        assert done(folder) == expected, number


@pytest.mark.parametrize(
    ("epochs", "heights"), [(1, [1]), (2, [2]), (3, [1, 3]), (9, [1, 3, 9]), (10, [1, 3, 10]), (30, [1, 3, 9, 30])]
)
def test_rungs_are_epochs_of_which_three_times_as_many_are_to_come(epochs: int, heights: list[int]) -> None:
    assert Rungs(epochs, 1).heights == heights


def test_where_fewer_than_three_trials_are_the_best_one_is_carried_to_its_end() -> None:
    study = opened(asked(), None)
    for lr, value in ((0.2, 0.3), (0.4, 0.5)):
        number, _ = study.ask()
        assert lr
        study.rungs.pause(number, [value], Spent(1, 1.0))
    assert not study.rungs.may_promote() and study.best() is None
    for height in (3, 9):
        assert study.rungs.conclude() and study.numbers() == [1]
        assert study.judge(1)(2, 0.0) is Decision.CONTINUE
        if height == 3:
            assert study.judge(1)(3, 0.5) is Decision.PAUSE
            study.rungs.pause(1, [0.5] * 3, Spent(3, 3.0))
    study.tell(1, [0.5], TrialState.COMPLETE, [0.5] * 9, Spent(9, 9.0))
    assert study.rungs.conclude() and study.numbers() == [0, 1] and study.judge(0)(1, 0.3) is Decision.STOP
    study.tell(0, None, TrialState.PRUNED, [0.3], Spent(1, 1.0))
    assert not study.rungs.conclude() and study.over() and study.spent() == [Spent(1, 1.0), Spent(9, 9.0)]


def test_less_is_better_where_a_loss_is_selected_by() -> None:
    study = opened(asked("select=val/loss"), None)
    for value in (0.3, 0.1, float("nan")):
        study.rungs.pause(study.ask()[0], [value], Spent(1, 1.0))
    assert [number for number, _ in study.rungs.promote(2)] == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "trials"),
    [
        (("search=tpe",), 30),
        (("search=tpe", "+search.options.constant_liar=true"), 30),
        (("search=cmaes",), 30),
        (("search=gp", "search.options.n_startup_trials=2"), 5),
    ],
)
def test_samplers_learn_from_what_waits_as_from_what_ended_there(typed: Sequence[str], trials: int) -> None:
    config = compose("freeze=head", "search.prune=hyperband", "epochs=9", *typed)
    space = {**SPACE, "optimizer.weight_decay": FloatDistribution(0.0, 1.0)}
    study = Study(storage_of(config.search, None), "head", config, space)
    alone = optuna.create_study(direction="maximize")
    for number in range(trials):
        alone.sampler = sampler(config.search, number)
        expected = alone.ask(space)
        assert study.ask() == (number, expected.params)
        values = curve(expected.params["lr"])
        if number == 3:  # goes on for now
            continue
        if number % 5 == 4:
            study.tell(number, [max(values)], TrialState.COMPLETE, values)
            alone.tell(expected, max(values))
        else:
            study.rungs.pause(number, values[:1], Spent(1, 1.0))
            expected.report(values[0], 1)
            over = [values[0]] if config.search.name == "gp" else None
            alone.tell(expected, over, state=TrialState.COMPLETE if over else TrialState.PRUNED)


def test_what_was_carried_further_before_waits_at_each_rung_for_the_same_trials_to_come() -> None:
    study = opened(asked(), None)
    study.ask()
    for goal in (1, 3):
        assert study.rungs.pauses(0, 9) and not study.rungs.pauses(0, goal - 1)
        study.rungs.pause(0, [0.1 * epoch for epoch in range(9)], Spent(9, 18.0))
        assert study.spent() == [Spent(goal, 2.0 * goal)] and len(study.trials()[0].intermediate_values) == goal
        assert study.rungs.conclude()
    assert not study.rungs.pauses(0, 9)


def test_a_trial_with_the_values_of_another_one_has_no_run_and_no_place_at_a_rung() -> None:
    config = asked()
    space = {"lr": FloatDistribution(0.5, 0.5)}
    study = Study(storage_of(config.search, None), "head", config, space)
    for number in range(3):
        study.ask()
        assert study.rungs.twin_of(number) == (None if number == 0 else 0)
    assert not study.tell_as(1, 0)  # as that is under way
    study.rungs.pause(0, [0.4], Spent(1, 1.0))
    assert study.tell_as(1, 0) and study.trials()[1].state is TrialState.PRUNED
    assert study.trials()[1].intermediate_values == {1: 0.4} and not study.rungs.may_promote()
    study.leave(0, Spent(1, 1.0))
    assert study.tell_as(2, 0) and not study.over(2) and study.over()
