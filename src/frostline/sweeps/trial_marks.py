"""What a study knows of a trial beside what Optuna does: who has it, what it took, whether its run failed."""

from __future__ import annotations

from collections.abc import Iterable

from optuna.trial import FrozenTrial, TrialState

from frostline.sweeps.search_budget import Spent

OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
PAST = "past"
"""Attribute of a trial that was no trial of the study, but a run of an earlier sweep: which."""
HOLDER = "holder"
"""Attribute of a trial: who carries it out."""
LEFT = "left"
"""Attribute of a trial whose run failed, by no fault of its values: it is for whoever takes it next."""
STOPPED = "stopped"
"""Attribute of a trial: at which rung it is to end, as it waits there and no trial will come any more."""
GOAL = "goal"
"""Attribute of a trial: up to which epoch it may go; up to the first rung where nothing says so."""
WAITS = "waits"
"""Attribute of a trial: after which epoch it waits at a rung, unless it may go further by now."""


def waits(trial: FrozenTrial) -> bool:
    """Return whether a trial waits at a rung, and nobody carries it out."""
    told = trial.user_attrs
    return trial.state not in OVER and told.get(WAITS, 0) >= told.get(GOAL, 1) and STOPPED not in told


def is_left(trial: FrozenTrial) -> bool:
    """Return whether the run of a trial failed, and nobody has taken it since."""
    return trial.state not in OVER and bool(trial.user_attrs.get(LEFT))


def rests(trial: FrozenTrial) -> bool:
    """Return whether a trial is not over, and nobody is to carry it out just now: it was left, or waits."""
    return is_left(trial) or waits(trial)


def own(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials of a study without what was observed."""
    return [trial for trial in trials if PAST not in trial.user_attrs]


def spent_of(trial: FrozenTrial) -> Spent:
    """Return what a trial took that nobody carries out now."""
    told = trial.user_attrs
    return Spent(told.get("epochs", 0.0), told.get("seconds", 0.0))
