"""How the runs of a search are marked among the choices of their results, so that a report knows them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frostline.records.result import Result

SEARCH = "search"
"""The sampler."""
STUDY = "study"
"""The cell that the run is of, as its study is called."""
TRIAL = "trial"
"""The number of the trial that the run is; only trials have it."""
CONFIRMS = "confirms"
"""The number of the best trial, whose values the run has with a fresh seed; only such runs have it."""
MARKS = (SEARCH, STUDY, TRIAL, CONFIRMS)
"""What is no setting."""
DIVERGED = "Diverged"
"""In the reason of a run that failed by its own values."""


def is_trial(choices: Mapping[str, Any]) -> bool:
    """Return whether a run with these choices is one of those from which the best is chosen."""
    return TRIAL in choices


def tells_a_search(result: Result) -> bool:
    """Return whether a trial failed by its own values: it diverged, which is what a search wants to know of them."""
    return is_trial(result.choices) and result.status == "FAILED" and DIVERGED in str(result.reason)
