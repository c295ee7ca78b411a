"""Marks of a search among the choices of a run: states of trials, tags for MLflow, damage."""

from __future__ import annotations

from typing import Any

import pytest

from frostline.records import trial_tags
from frostline.records.result import PRUNED, Result

TRIAL = {"search": "tpe", "study": "head", "trial": 3}
FRESH = {"search": "tpe", "study": "head", "confirms": 3}
LOST = "Diverged: the training loss is nan in epoch 1"


def run(status: str, choices: dict[str, Any], reason: str | None = None, **metrics: float) -> Result:
    return Result(0, "head", "", None, status, reason, {"lr": 0.1, **choices}, metrics, {})


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (run("FINISHED", TRIAL), "complete"),
        (run("FINISHED", TRIAL, **{PRUNED: 2.0}), "pruned"),
        (run("FAILED", TRIAL), "failed"),
        *((run(status, TRIAL), None) for status in ("KILLED", "RUNNING", "WAITING", "PAUSED")),
        *((run(status, FRESH), None) for status in ("FINISHED", "FAILED")),
        (run("FINISHED", {}), None),
    ],
)
def test_only_trials_that_are_over_have_a_state(found: Result, state: str | None) -> None:
    assert trial_tags.state(found) == state


def test_a_diverged_trial_is_a_result_of_the_search() -> None:
    assert trial_tags.is_diverged_trial(run("FAILED", TRIAL, LOST))
    for found in (run("FAILED", TRIAL, "OSError: no space"), run("FAILED", FRESH, LOST), run("FAILED", {}, LOST)):
        assert not trial_tags.is_diverged_trial(found)
    assert trial_tags.diverged(run("FAILED", {}, LOST))
    assert not any(map(trial_tags.diverged, (run("FAILED", {}), run("FINISHED", {}), run("KILLED", {}, LOST))))


def test_runs_of_a_search_are_tagged() -> None:
    assert trial_tags.tags({"lr": 0.1, **TRIAL}) == {
        "frostline.search": "tpe",
        "frostline.study": "head",
        "frostline.trial": "3",
    }
    assert trial_tags.tags(FRESH)["frostline.confirms"] == "3"
    assert trial_tags.tags({"lr": 0.1}) == {}


def test_a_run_is_a_trial_or_a_fresh_seed() -> None:
    assert [trial_tags.damaged(choices) for choices in ({}, TRIAL, FRESH, TRIAL | FRESH)] == [*[None] * 3, "confirms"]
