"""Marks of the runs of a search among their choices, by which reports tell trials, fresh seeds and studies apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any

from frostline.core.objectives import OBJECTIVES
from frostline.records import layout
from frostline.records.journal import is_count
from frostline.records.result import PRUNED, Result

SEARCH = "search"
"""The sampler."""
STUDY = "study"
"""The name of the study, which is that of its cell."""
TRIAL = "trial"
"""The number of the trial; only trials have it."""
CONFIRMS = "confirms"
"""The number of the best trial, whose values the run has with a fresh seed; only such runs have it."""
BUDGET = "budget"
"""The budget of each cell, e.g. `12 trials`, `60 epochs` or `600 seconds`."""
SPACE = "space"
"""The search space of the cell: by key, the range as JSON of Optuna's `distribution_to_json`."""
OBJECTIVE = "objective"
"""The names of the objectives, if there are several."""
MARKS = (SEARCH, STUDY, TRIAL, CONFIRMS, BUDGET, SPACE, OBJECTIVE)
"""Choices that are no settings."""
DIVERGED = "Diverged"
"""Part of the reason of a run that failed because of its own values."""
STATES = COMPLETE, STOPPED, FAILED = "complete", "pruned", "failed"
"""Final states of a trial, in Optuna's words."""
_BUDGET = re.compile(r"\d+(\.\d+)?(e[+-]\d+)? (trials|epochs|seconds)", re.ASCII)
_TAGS = {SEARCH: layout.SEARCH_TAG, STUDY: layout.STUDY_TAG, TRIAL: layout.TRIAL_TAG, CONFIRMS: layout.CONFIRMS_TAG}


class Decision(Enum):
    """Decision on a trial after an epoch."""

    CONTINUE = auto()
    STOP = auto()
    """Finish the trial early, with its best epoch so far."""
    PAUSE = auto()
    """Pause the trial, which may resume later."""


Judge = Callable[[int, float], Decision]
"""Decides whether a trial continues, given a 1-based epoch and its value of the selection metric."""


def damaged(choices: Mapping[str, Any]) -> str | None:
    """Return the name of a mark among `choices` that no search writes, or that is missing; None if all are valid.

    Whether a range in `SPACE` is valid is known only to Optuna.
    """
    if not {STUDY, TRIAL, CONFIRMS, SEARCH} & choices.keys():
        return None
    if TRIAL in choices and CONFIRMS in choices:
        return CONFIRMS
    budget, space, names = choices.get(BUDGET, "0 trials"), choices.get(SPACE, {}), choices.get(OBJECTIVE, [])
    right = {
        SEARCH: isinstance(choices.get(SEARCH), str),
        STUDY: isinstance(choices.get(STUDY), str),
        TRIAL: is_count(choices.get(TRIAL, 0)),
        CONFIRMS: is_count(choices.get(CONFIRMS, 0)),
        BUDGET: isinstance(budget, str) and bool(_BUDGET.fullmatch(budget)),
        SPACE: isinstance(space, dict) and all(isinstance(text, str) for text in space.values()),
        OBJECTIVE: isinstance(names, list) and all(isinstance(name, str) and name in OBJECTIVES for name in names),
    }
    return next((mark for mark, valid in right.items() if not valid), None)


def is_trial(choices: Mapping[str, Any]) -> bool:
    """Return whether a run with these choices is a trial, from which the best is chosen."""
    return TRIAL in choices


def tags(choices: Mapping[str, Any]) -> dict[str, str]:
    """Return the MLflow tags of a run of a search; empty for other runs."""
    return {tag: str(choices[mark]) for mark, tag in _TAGS.items() if mark in choices}


def state(result: Result) -> str | None:
    """Return the final state of a trial: `complete`, `pruned` or `failed`; None for an open trial and other runs."""
    if not is_trial(result.choices) or result.status not in ("FINISHED", "FAILED"):
        return None
    if result.status == "FAILED":
        return FAILED
    return STOPPED if PRUNED in result.metrics else COMPLETE


def diverged(result: Result) -> bool:
    """Return whether a run failed because of its own values, and would fail again."""
    return result.status == "FAILED" and DIVERGED in str(result.reason)


def is_diverged_trial(result: Result) -> bool:
    """Return whether a trial failed because it diverged, which is information for the search rather than an error."""
    return is_trial(result.choices) and diverged(result)
