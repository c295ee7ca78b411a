"""How the runs of a search are marked among the choices of their results, so that a report knows them apart."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from frostline.records import layout
from frostline.records.result import PRUNED, Result

SEARCH = "search"
"""The sampler."""
STUDY = "study"
"""The cell that the run is of, as its study is called."""
TRIAL = "trial"
"""The number of the trial that the run is; only trials have it."""
CONFIRMS = "confirms"
"""The number of the best trial, whose values the run has with a fresh seed; only such runs have it."""
BUDGET = "budget"
"""What each cell gets, e.g. `12 trials`, `60 epochs` or `600 seconds`."""
SPACE = "space"
"""What its cell is searched for: by key, what Optuna's `distribution_to_json` says of the range."""
OBJECTIVE = "objective"
"""The names of the objectives, where there are several."""
MARKS = (SEARCH, STUDY, TRIAL, CONFIRMS, BUDGET, SPACE, OBJECTIVE)
"""What is no setting."""
DIVERGED = "Diverged"
"""In the reason of a run that failed by its own values."""
STATES = COMPLETE, STOPPED, FAILED = "complete", "pruned", "failed"
"""How a trial ended, in Optuna's words."""
_TAGS = {SEARCH: layout.SEARCH_TAG, STUDY: layout.STUDY_TAG, TRIAL: layout.TRIAL_TAG, CONFIRMS: layout.CONFIRMS_TAG}


class Decision(Enum):
    """What becomes of a trial after an epoch."""

    CONTINUE = auto()
    STOP = auto()
    """It is finished, with what it has."""
    PAUSE = auto()
    """It ends for now, and may go on from there later."""


def is_trial(choices: Mapping[str, Any]) -> bool:
    """Return whether a run with these choices is one of those from which the best is chosen."""
    return TRIAL in choices


def tags(choices: Mapping[str, Any]) -> dict[str, str]:
    """Return what MLflow is to know of a run of a search before it ends; nothing of other runs."""
    return {tag: str(choices[mark]) for mark, tag in _TAGS.items() if mark in choices}


def state(result: Result) -> str | None:
    """Return how a trial ended: `complete`, `pruned` or `failed`; None for one that is not over, and for no trial."""
    if not is_trial(result.choices) or result.status not in ("FINISHED", "FAILED"):
        return None
    if result.status == "FAILED":
        return FAILED
    return STOPPED if PRUNED in result.metrics else COMPLETE


def tells_a_search(result: Result) -> bool:
    """Return whether a trial failed by its own values: it diverged, which is what a search wants to know of them."""
    return is_trial(result.choices) and result.status == "FAILED" and DIVERGED in str(result.reason)
