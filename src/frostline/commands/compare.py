"""Print the verdict of a sweep and the table of its cells again, or compare single runs; --json for programs.

Several names that all mean single runs compare these runs alone: the first one with each other one.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from frostline import api
from frostline.commands import CALLED, Parser
from frostline.core.metrics import ACCURACY
from frostline.records.result import Result
from frostline.report import answer_data, outcome, two_runs
from frostline.report.tables import ruled
from frostline.report.terminal import Screen
from frostline.sweeps import tested_runs
from frostline.sweeps.catalog import TypedName


def main(arguments: list[str]) -> int:
    """Print the verdict and the table; return 0, or 1 if no run finished."""
    parser = Parser("compare", __doc__)
    parser.add_argument("sweep", nargs="+", help=f"a sweep, or a run, several of which are compared alone: {CALLED}")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    asked = parser.parse_args(arguments)
    if len(asked.sweep) > 1:
        called = [TypedName(name, "sweep") for name in asked.sweep]
        with tempfile.TemporaryDirectory() as scratch:
            if runs := tested_runs.named(called, Path(scratch)):
                return _single_runs(asked.sweep, runs, as_json=asked.json)
    results = api.open(*asked.sweep).results
    if asked.json:
        print(json.dumps(answer_data.of_results(results), indent=1, ensure_ascii=False))
    else:
        screen = Screen()
        parts, sentence = outcome.summary(results, limit=screen.limit)
        screen.outcome(parts)
        screen.verdict(sentence)
    return 0 if any(result.status == "FINISHED" for result in results) else 1


def _single_runs(typed: Sequence[str], runs: Sequence[Result], *, as_json: bool) -> int:
    """Print the scores of single runs, and the difference of the first one to each other one; return 0."""
    own = [run.name for run in runs]
    (name, first), *others = named = [*zip(own if len({*own}) == len(own) else typed, runs, strict=True)]
    found = [two_runs.compare_runs(first, run, names=(name, other)) for other, run in others]
    by = first.selected_by
    if as_json:
        each = [
            {"name": name, "run_id": run.run_id, "metrics": answer_data.without_nan(run.metrics)} for name, run in named
        ]
        told = {"select": by.epoch, "runs": each, "comparisons": [asdict(one) for one in found]}
        print(json.dumps(told, indent=1, ensure_ascii=False))
        return 0
    what = "" if by == ACCURACY else f" {by.words}"
    rows = [
        [name, *(by.text(run.metrics.get(metric, math.nan)) for metric in (by.val, by.test))] for name, run in named
    ]
    screen = Screen()
    screen.outcome([f"{len(runs)} runs alone, not their sweeps:"])
    screen.outcome([ruled(["run", f"val{what}", f"test{what}"], rows, left=("run",))])
    for one in found:
        screen.verdict(one.verdict)
    return 0
