"""The sentences of the verdict on a search say what was tried, what chance did, and how flat the optimum is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

from frostline.core.metrics import LOSS
from frostline.records import trial_tags
from frostline.records.result import EPOCHS, PRUNED, SECONDS, TEST, VAL, VAL_MARGIN, Result
from frostline.report.contest import contests
from frostline.report.search_words import sentences

LR = FloatDistribution(1e-5, 1.0, log=True)
GOOD = "For {} any lr from {} is as good, within a standard error on validation."


def runs(
    mode: str,
    vals: Sequence[float | None],
    fresh: Sequence[float] = (),
    *,
    budget: str = "3 trials",
    lrs: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1),
    space: dict[str, Any] | None = None,
    **more: Any,
) -> list[Result]:
    """Return the trials of a mode with these accuracies, None for one still to come, and the best one's fresh seeds."""
    found, space = [], {"lr": LR} if space is None else space
    best = max(range(len(vals)), key=lambda number: vals[number] or 0)
    for number, value in enumerate((*vals, *fresh)):
        trial = number if number < len(vals) else best
        marks = {"trial": number} if number < len(vals) else {"confirms": best}
        choices = {"freeze_mode": mode, "seed": max(0, number - len(vals) + 1), "study": mode, "search": "tpe"}
        choices |= {"lr": lrs[trial], **{key: of[trial] for key, of in more.items()}}
        choices |= {"budget": budget, "space": {key: distribution_to_json(one) for key, one in space.items()}, **marks}
        metrics = {VAL: value, TEST: value, EPOCHS: 2.0, SECONDS: 30.0} if value is not None else {}
        status = "FINISHED" if value is not None else "WAITING"
        images = {"val": 400, "test": 400}
        found.append(Result(len(found), f"{mode} {number}", "", None, status, None, choices, metrics, images))
    return found


def said(*groups: Sequence[Result]) -> list[str]:
    (contest,) = contests([*chain(*groups)])
    return sentences(contest, 1)


def edge(mode: str, side: str, end: str | None = None) -> str:
    more = f", though the range goes on to {end}: more trials" if end else ": a wider range"
    return f"No {side} lr of {mode} was tried{more} may do better."


def test_budget_optimism_and_optimum_of_two_confirmed_cells() -> None:
    full, head = runs("full", [0.5, 0.9, 0.89], [0.88, 0.87]), runs("head", [0.8, 0.6, 0.7], [0.81, 0.82])
    full[0].metrics[PRUNED] = 1.0
    third = runs("norm", [0.4, 0.5, 0.6], [0.5, 0.5])
    assert said(third, head, full) == [
        "The budget was 3 trials each (search=tpe), 1 of them stopped early; the comparison uses 2 fresh seeds of each "
        "best trial by validation.",
        "Used: full 3 trials, 6 epochs, 1m30s of training; head 3 trials, 6 epochs, 1m30s of training; norm 3 trials, "
        "6 epochs, 1m30s of training.",
        "On validation the best trial of full reached 90.0%, its fresh seeds 87.5%: chance made it look 2.5 points "
        "better.",
        "On validation the best trial of head reached 80.0%, its fresh seeds 81.5%.",
        GOOD.format("full", "0.001 to 0.01"),
        edge("full", "larger", "1"),
        edge("head", "smaller"),
    ]


def test_result_of_a_single_cell_is_that_of_its_fresh_seed() -> None:
    confirmed = runs("full", [0.5, 0.9], [0.9], budget="2 trials")
    assert said(confirmed) == [
        "The budget was 2 trials in all (search=tpe); the result is that of 1 fresh seed of the best trial by "
        "validation.",
        "Used: full 2 trials, 4 epochs, 1m00s of training.",
        "On validation the best trial of full reached 90.0%, its fresh seed 90.0%.",
    ]


ALONE = "; without fresh seeds, the best of several trials looks better than it is."
FRESH = "; the comparison uses 1 fresh seed of each best trial by validation."


@pytest.mark.parametrize(
    ("full", "head", "expected"),
    [
        ([0.5, 0.9], [0.7, 0.8], f"The budget was 2 trials each (search=tpe){ALONE}"),
        ([0.5, 0.9], [0.7, None], f"The budgets differ, in trials (search=tpe): full 2, head 1{ALONE}"),
    ],
)
@pytest.mark.parametrize("fresh", [(), (0.6,)])
def test_unequal_budgets_and_missing_confirmations_are_told(
    full: list[float | None], head: list[float | None], expected: str, fresh: Sequence[float]
) -> None:
    confirmed = runs("full", full, [0.9])
    assert said(confirmed, runs("head", head, fresh))[0] == (expected.replace(ALONE, FRESH) if fresh else expected)


def test_fresh_seeds_are_told_if_some_failed_or_a_rival_was_not_searched() -> None:
    full, head = runs("full", [0.5, 0.9], [0.9, 0.8]), runs("head", [0.5, 0.8], [0.7])
    assert said(full, head)[0].endswith("; the comparison uses 1 to 2 fresh seeds of each best trial by validation.")
    grid = runs("full", [0.95])
    for mark in trial_tags.MARKS:
        grid[0].choices.pop(mark, None)
    first, used, *_ = said(grid, head)
    expected = "The budgets differ, in trials (search=tpe): full 0, head 2; the comparison uses 1 fresh seed of the "
    assert first == expected + "best trial by validation."
    assert used.startswith("Used: head 2 trials")


@pytest.mark.parametrize(
    ("budget", "begins"),
    [
        ("4 epochs", "The budget was 4 epochs each (search=tpe), 1 trials stopped early; "),
        ("5 epochs", "The budgets differ, in epochs (search=tpe): full 6, head 4, 1 trials stopped early; "),
        ("61 seconds", "The budgets differ, in seconds (search=tpe): full 90, head 60, 1 trials stopped early; "),
    ],
)
def test_cells_that_used_their_budget_have_the_same(budget: str, begins: str) -> None:
    full, head = runs("full", [0.5, 0.9, 0.8], budget=budget), runs("head", [0.5, 0.8], budget=budget)
    head[0].metrics[PRUNED] = 1.0
    assert said(full, head)[0].startswith(begins)


def test_solved_head_has_no_budget() -> None:
    solved = runs("probe", [0.7], budget="1 trials", space={})
    del solved[0].choices["lr"]
    first, used, *_ = said(runs("full", [0.5, 0.9]), solved)
    assert first.startswith("The budget was 2 trials in all (search=tpe); ")
    assert used == "Used: full 2 trials, 4 epochs, 1m00s of training."
    assert said(solved)[0].startswith("The budget was 1 trial in all")
    assert said(solved, runs("full", [0.5, 0.9], budget="4 epochs"))[0].startswith("The budget was 4 epochs in all")


def test_optimism_about_a_loss_is_a_larger_loss() -> None:
    found = runs("full", [0.5, 0.9, 0.895], [0.7, 0.69])
    for run in found:
        run.choices["select"] = "val/loss"
        run.metrics.update({LOSS.val: 1 - run.metrics[VAL], LOSS.test: 0.5, VAL_MARGIN: 0.014})
    found = [replace(run, choices=run.choices | {"seed": run.job}) for run in found]
    assert said(found)[2:4] == [
        "On validation in loss the best trial of full reached 0.100, its fresh seeds 0.305: chance made it look 0.205 "
        "better.",
        GOOD.format("full", "0.001 to 0.01"),
    ]


def test_values_of_several_keys_that_are_as_good_are_listed() -> None:
    space = {"lr": LR, "train.flip": CategoricalDistribution([True, False])}
    flips = {"train.flip": [True, False, True]}
    assert said(runs("full", [0.5, 0.9, 0.89], space=space, **flips))[2:] == [
        "Trials of full within a standard error of the best on validation have lr 0.001 to 0.01, train.flip True or "
        "False."
    ]
    assert said(runs("full", [0.5, 0.9, 0.6], space=space, **flips))[2:] == []
    only = {"augment.scale": CategoricalDistribution(["[0.5,1]", 0.123456, "null"])}
    scales = {"augment.scale": [None, [0.5, 1.0], 0.123456]}
    assert said(runs("full", [0.5, 0.9, 0.89], space=only, **scales))[2:] == [
        "Trials of full within a standard error of the best on validation have augment.scale [0.5,1] or 0.123."
    ]


@pytest.mark.parametrize(
    ("high", "end"),
    [(0.5, "0.5"), (0.39, None)],
)
def test_room_beyond_the_tried_values_is_linear_on_a_linear_scale(high: float, end: str | None) -> None:
    space = {"lr": FloatDistribution(0.0, high)}  # four trials have room for one more if a quarter is left above 0.3
    found = said(runs("full", [0.5, 0.6, 0.7, 0.9], lrs=(0.05, 0.1, 0.2, 0.3), space=space))
    assert found[2:] == [edge("full", "larger", end)]
    on_log_scale = said(runs("full", [0.5, 0.6, 0.7, 0.9]))  # up to 0.1, with a fifth of the range above it
    assert on_log_scale[2:] == [edge("full", "larger")]


def test_ends_of_the_pareto_front_are_told() -> None:
    full, head = runs("full", [0.5, 0.9, 0.8]), runs("head", [0.4, 0.5, 0.6])
    for run in (*full, *head):
        run.choices["objective"] = ["val/accuracy", "cost/train_seconds"]
    on = "trials are on the Pareto front of validation accuracy and training time (s)"
    assert said(full, head)[2] == f"1 of 6 {on} (full 1): 90.00% at 30; hypervolume full 1.00, head 0.45."
    full[2].metrics[SECONDS], head[2].metrics[SECONDS] = 20.0, 10.0
    assert said(full, head)[2] == (
        f"3 of 6 {on} (full 2, head 1): 60.00% at 10 to 90.00% at 30; hypervolume full 0.46, head 0.45."
    )
