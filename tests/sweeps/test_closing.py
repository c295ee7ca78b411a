"""Whether a sweep succeeded, which its exit status says."""

from __future__ import annotations

import pytest

from frostline.records.result import Result
from frostline.sweeps.closing import succeeded

DIVERGED = "Diverged: the training loss is nan in epoch 1"
TRIAL = {"search": "tpe", "study": "head", "trial": 0}


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([("FINISHED", None, {})], True),
        ([("PLANNED", None, {})], True),
        ([("FINISHED", None, {}), ("FAILED", DIVERGED, {})], False),
        ([("FINISHED", None, TRIAL), ("FAILED", DIVERGED, TRIAL)], True),
        ([("FAILED", DIVERGED, TRIAL), ("FAILED", DIVERGED, TRIAL)], False),
        ([("FINISHED", None, TRIAL), ("FAILED", "OSError: no space", TRIAL)], False),
    ],
)
def test_diverged_trials_are_no_failure_if_others_finished(runs, expected):
    results = [Result(number, "", "", None, *of, {}) for number, (*of,) in enumerate(runs)]
    assert succeeded(results) is expected
