"""Rungs promote trials as ASHA (arXiv:1810.05934) does, also after a kill at any write."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from frostline.core.config import Config
from frostline.records import layout
from frostline.records.trial_tags import Decision
from frostline.sweeps.rungs import Rungs
from frostline.sweeps.samplers import sampler
from frostline.sweeps.search_budget import Spent
from frostline.sweeps.study import Study
from frostline.sweeps.study_storage import storage_of
from killed_studies import restore, states_at_writes
from small import compose

SPACE = {"lr": FloatDistribution(0.0, 1.0)}


def search_config(*more: str, epochs: int = 9) -> Config:
    return compose("freeze=head", "search=random", "search.prune=hyperband", f"epochs={epochs}", *more)


def open_study(config: Config, folder: Path | None, most: int | None = None) -> Study:
    return Study(storage_of(config.search, folder), "head", config, SPACE, most=most)


def curve(lr: float) -> list[float]:
    """Return the values of nine epochs of a trial. Some rise late, so that ranks change from rung to rung."""
    rand = random.Random(lr)
    steep = rand.random()
    return [1 - steep ** (epoch / 3) * rand.random() for epoch in range(1, 10)]


def next_trial(study: Study, trials: int) -> int | None:
    """Return the trial that a single worker carries out next, None if all `trials` are over."""
    under_way = [number for number in study.numbers() if not study.has_result(number)]
    found = under_way or [number for number, _ in study.rungs.promote(1)]
    if found:
        return found[0]
    if len(study.trials()) < trials:
        return study.ask()[0]
    return next_trial(study, trials) if study.rungs.conclude() else None


def step(study: Study, trials: int = 15) -> tuple[int, int] | None:
    """Carry out the next trial and return its number and epochs, None if all are over."""
    if (number := next_trial(study, trials)) is None:
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
    """Return the trial and epochs of each job of one worker by algorithm 2 of arXiv:1810.05934."""
    values: list[dict[int, float]] = [{} for _ in rungs]
    promoted: list[set[int]] = [set() for _ in rungs]
    found: list[tuple[int, int]] = []
    started = 0

    def job() -> tuple[int, int] | None:
        nonlocal started
        for rung in reversed(range(len(rungs) - 1)):
            top = sorted(values[rung], key=lambda trial: -values[rung][trial])[: len(values[rung]) // eta]
            for trial in top:
                if trial not in promoted[rung]:
                    promoted[rung].add(trial)
                    return trial, rung + 1
        if started == len(lrs):
            return None
        started += 1
        return started - 1, 0

    while (next_job := job()) is not None:
        trial, rung = next_job
        values[rung][trial] = curve(lrs[trial])[rungs[rung] - 1]
        found.append((trial, rungs[rung]))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_trials_are_promoted_in_the_order_of_the_paper(seed: int) -> None:
    study = open_study(search_config(f"search.seed={seed}"), None)
    steps = [*iter(lambda: step(study), None)]
    lrs = [trial.params["lr"] for trial in study.trials()]
    expected = jobs(lrs)
    assert steps[: len(expected)] == expected and len(expected) > 20
    rest = steps[len(expected) :]  # trials still paused at the end are stopped at no further cost
    epochs_of = dict(expected)
    assert rest == [(trial, epoch) for trial, epoch in sorted(epochs_of.items()) if epoch < 9]
    assert study.over() and study.spent() == [Spent(epochs_of[n], epochs_of[n] / 2) for n in range(15)]
    assert [trial.state for trial in study.trials()].count(TrialState.COMPLETE) == [*epochs_of.values()].count(9) > 0


@pytest.mark.slow
def test_kill_at_any_write_changes_no_trial(tmp_path: Path) -> None:
    def run_trials(folder: Path) -> list[tuple[Mapping[str, float], TrialState, Mapping[int, float]]]:
        study = open_study(search_config(), folder)
        while step(study, 7):
            pass
        return [(one.params, one.state, one.intermediate_values) for one in study.trials()]

    (undisturbed := tmp_path / "whole").mkdir()
    with states_at_writes(undisturbed, layout.STUDY) as states:
        expected = run_trials(undisturbed)
    assert len(states) > 50
    for number, state in enumerate(states[::5]):
        folder = restore(state, tmp_path / str(number))
        assert run_trials(folder) == expected, number


def test_smaller_budget_ends_without_further_trials(tmp_path: Path) -> None:
    config = search_config()
    killed = open_study(config, tmp_path)
    assert [step(killed), step(killed)] == [(0, 1), (1, 1)]
    killed.ask()
    study = open_study(config, tmp_path, most=2)
    while step(study, 2):
        pass
    assert study.over() and study.best() is not None and study.trials()[2].state is TrialState.RUNNING


@pytest.mark.parametrize(
    ("epochs", "heights"), [(1, [1]), (2, [2]), (3, [1, 3]), (9, [1, 3, 9]), (10, [1, 3, 10]), (30, [1, 3, 9, 30])]
)
def test_rungs_are_powers_of_three_and_the_last_epoch(epochs: int, heights: list[int]) -> None:
    assert Rungs(epochs, 1, waiting=True).heights == heights


def test_best_of_two_trials_is_trained_to_the_end() -> None:
    study = open_study(search_config(), None)
    for value in (0.3, 0.5):
        study.rungs.pause(study.ask()[0], [value], Spent(1, 1.0))
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


def test_stopped_trial_is_not_promoted_by_worse_ones_that_come_later() -> None:
    study = open_study(search_config(epochs=3), None)
    for value in (0.3, 0.5, 0.1, 0.4, 0.2, 0.0):
        study.rungs.pause(study.ask()[0], [value], Spent(1, 1.0))
    assert study.rungs.twin_of(5) is None
    for best in (1, 3):
        assert study.rungs.promote(1) == [(best, None)]
        study.tell(best, [0.5], TrialState.COMPLETE, [0.5] * 3, Spent(3, 3.0))
    assert study.rungs.promote(1) == [] and study.rungs.conclude()
    for number in (0, 2, 4, 5):
        study.tell(number, None, TrialState.PRUNED, [0.3], Spent(1, 1.0))
    for _ in range(3):
        study.rungs.pause(study.ask()[0], [0.0], Spent(1, 1.0))
    assert not study.rungs.may_promote()


def test_lower_loss_is_promoted() -> None:
    study = open_study(search_config("select=val/loss"), None)
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
def test_samplers_treat_paused_trials_as_ended(typed: Sequence[str], trials: int) -> None:
    config = compose("freeze=head", "search.prune=hyperband", "epochs=9", *typed)
    space = {**SPACE, "optimizer.weight_decay": FloatDistribution(0.0, 1.0)}
    study = Study(storage_of(config.search, None), "head", config, space)
    alone = optuna.create_study(direction="maximize")
    for number in range(trials):
        alone.sampler = sampler(config.search, number)
        expected = alone.ask(space)
        assert study.ask() == (number, expected.params)
        values = curve(expected.params["lr"])
        if number == 3:  # still running
            continue
        if number % 5 == 4:
            study.tell(number, [max(values)], TrialState.COMPLETE, values)
            alone.tell(expected, max(values))
        else:
            study.rungs.pause(number, values[:1], Spent(1, 1.0))
            expected.report(values[0], 1)
            over = [values[0]] if config.search.name == "gp" else None
            alone.tell(expected, over, state=TrialState.COMPLETE if over else TrialState.PRUNED)


def test_trial_with_known_later_epochs_pauses_at_each_rung() -> None:
    study = open_study(search_config(), None)
    study.ask()
    for goal in (1, 3):
        assert study.rungs.pauses(0, 9) and study.rungs.pauses(0, goal) and not study.rungs.pauses(0, goal - 1)
        study.rungs.pause(0, [0.1 * epoch for epoch in range(9)], Spent(9, 18.0))
        assert study.spent() == [Spent(goal, 2.0 * goal)] and len(study.trials()[0].intermediate_values) == goal
        assert study.rungs.conclude()
    assert not study.rungs.pauses(0, 9)


def test_duplicate_trial_copies_its_twins_result() -> None:
    config = search_config()
    space = {"lr": FloatDistribution(0.5, 0.5)}
    study = Study(storage_of(config.search, None), "head", config, space)
    for number in range(3):
        study.ask()
        assert study.rungs.twin_of(number) == (None if number == 0 else 0)
    assert not study.tell_as(1, 0)  # trial 0 is still running
    study.rungs.pause(0, [0.4], Spent(1, 1.0))
    assert study.tell_as(1, 0) and study.trials()[1].state is TrialState.PRUNED
    assert study.trials()[1].intermediate_values == {1: 0.4} and not study.rungs.may_promote()
    study.leave(0, Spent(1, 1.0))
    assert study.tell_as(2, 0) and not study.has_result(2) and study.over()
    study.tell(0, [0.7], TrialState.COMPLETE, [0.7] * 9, Spent(9, 9.0))
    assert study.tell_as(2, 0) and study.trials()[2].values == [0.7] and study.spent()[2] == Spent(9, 9.0)
    assert study.best() == study.trials()[0]  # the earlier one of equals
