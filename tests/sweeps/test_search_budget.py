"""Search budgets in trials, epochs or seconds."""

from __future__ import annotations

import math

import pytest

from frostline.core.errors import UserError
from frostline.sweeps.search_budget import Budget, Spent
from small import compose


def budget(*typed: str, searched: bool = True) -> Budget:
    return Budget.of(compose("search=tpe", "epochs=5", *typed), searched=searched)


def started(one: Budget, epochs: list[float], at_once: int = 1) -> int:
    """Return how many trials begin if they take these `epochs`, and twice as many seconds, `at_once` in parallel."""
    over: list[Spent | None] = []
    while room := min(one.room(over), at_once):
        over += [Spent(taken, 2 * taken) for taken in epochs[len(over) :][: int(room)]]
    return len(over)


def test_trial_budget_ignores_their_length() -> None:
    assert started(budget("trials=4"), [5.0] * 9) == started(budget("trials=4"), [1.0] * 9, at_once=3) == 4
    assert budget("trials=4", searched=False).room([]) == 1


def test_epoch_budget_allows_more_trials_if_some_end_early() -> None:
    epochs = budget("trials=4", "search.budget=epochs")
    assert str(epochs) == "20 epochs" and started(epochs, [5.0] * 9) == 4
    assert started(epochs, [5.0, 1.0, 1.0, 5.0, 5.0, 2.0, 1.0, 1.0]) == 7
    assert started(epochs, [5.0, 1.0, 1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 5.0], at_once=2) == 8


def test_seconds_budget_gives_cheaper_cells_more_trials() -> None:
    seconds = budget("search.budget=seconds", "search.amount=60")
    assert started(seconds, [5.0] * 99) == 6 and started(seconds, [1.0] * 99) == 30
    assert seconds.room([]) == math.inf  # the time of a trial is not known yet
    assert seconds.room([Spent(5, 10), None, None]) == 3


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (("search.budget=seconds",), "search.amount=null: expected the training seconds of each cell"),
        (("search.amount=9",), "search.amount=9.0: expected null with search.budget=trials"),
        (("search.budget=epochs", "search.amount=0"), "search.amount=0.0: expected a number above 0"),
        (("search.budget=hours",), "search.budget=hours: expected one of trials, epochs, seconds"),
    ],
)
def test_invalid_budget_is_refused(typed: tuple[str, ...], line: str) -> None:
    with pytest.raises(UserError) as refused:
        budget(*typed)
    assert str(refused.value).startswith(line)
