"""User attributes of trials in a study: the search that holds a trial, its cost, its rung, whether its run failed."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

from frostline.sweeps.search_budget import Spent

OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
PAST = "past"
"""Attribute of an observation, which is no trial of the study: the name of the run of an earlier sweep."""
HOLDER = "holder"
"""Attribute of a trial: the search that runs it."""
LEFT = "left"
"""Attribute of a trial whose run failed for reasons other than its values: any search may take it."""
STOPPED = "stopped"
"""Attribute of a trial: the rung at which it stops, since it waits there and no further trial will come."""
GOAL = "goal"
"""Attribute of a trial: the epoch up to which it may train; the first rung if missing."""
WAITS = "waits"
"""Attribute of a trial: the epoch of the rung at which it waits, unless its goal is higher by now."""


def waits(trial: FrozenTrial) -> bool:
    """Return whether a trial waits at a rung."""
    told = trial.user_attrs
    return trial.state not in OVER and told.get(WAITS, 0) >= told.get(GOAL, 1) and STOPPED not in told


def is_left(trial: FrozenTrial) -> bool:
    """Return whether the run of a trial failed, and no search has taken it since."""
    return trial.state not in OVER and bool(trial.user_attrs.get(LEFT))


def rests(trial: FrozenTrial) -> bool:
    """Return whether a trial is not over and not running: it was left, or waits."""
    return is_left(trial) or waits(trial)


def spent_of(trial: FrozenTrial) -> Spent:
    """Return the cost of a trial that is not running."""
    told = trial.user_attrs
    return Spent(told.get("epochs", 0.0), told.get("seconds", 0.0))
