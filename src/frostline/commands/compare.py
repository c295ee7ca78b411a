"""Print the verdict of a sweep and the table of its cells again, or compare single runs; --json for programs.

Several names that all mean single runs compare these runs alone: the first one with each other one.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from frostline import api
from frostline.commands import CALLED, Parser
from frostline.core.metrics import ACCURACY
from frostline.records import trial_tags
from frostline.records.result import Result
from frostline.report import backbones, outcome, two_runs
from frostline.report.cell_intervals import test_interval
from frostline.report.cells import Cell, cells
from frostline.report.contest import Contest, contests
from frostline.report.pareto import Front, front
from frostline.report.studies import StudyResults
from frostline.report.tables import ruled
from frostline.report.terminal import Screen
from frostline.report.verdict import answer, verdict
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
        print(json.dumps(facts(results), indent=1, ensure_ascii=False))
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
        each = [{"name": name, "run_id": run.run_id, "metrics": _without_nan(run.metrics)} for name, run in named]
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


def facts(results: Sequence[Result]) -> dict[str, Any]:
    """Return the answer as plain data: accuracies and differences as fractions in 0..1, costs by metric name."""
    statuses = [result.status for result in results]
    return {
        "answer": answer(results),
        "runs": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
        "contests": [_contest(contest) for contest in contests(results)],
        "cells": [_cell(cell) for cell in cells(results)],
    }


def _contest(contest: Contest) -> dict[str, Any]:
    return {
        "where": contest.where,
        "select": contest.by.epoch,
        "key": contest.key,
        "outcome": contest.outcome,
        "verdict": verdict(contest),
        "contenders": [{"value": one.value, "cells_tried": one.tried, **_cell(one.cell)} for one in contest.contenders],
        "difference": contest.difference and asdict(contest.difference),
        "unbeaten": [{"value": one.value, "difference": asdict(gap)} for one, gap in contest.unbeaten],
        "pairs": _pairs(contest),
        "baseline": contest.baseline and asdict(contest.baseline),
        **({"search": [_study(study) for study in contest.studies]} if contest.studies else {}),
        **({"pareto": _front(weighed)} if (weighed := front(contest.results)) else {}),
    }


def _front(found: Front) -> dict[str, Any]:
    """Return the Pareto front over all cells, and each cell's hypervolume after each of its complete trials.

    A hypervolume is a fraction, in 0..1, of the box between `reference` and the best value of each objective.
    """
    return {
        "objectives": [{"name": one.name, "direction": one.direction} for one in found.objectives],
        "front": [
            {
                "cell": point.study.name,
                "trial": point.trial.number,
                "choices": point.trial.at,
                "values": [*point.values],
            }
            for point in found.best
        ],
        "reference": [*found.reference],
        "hypervolume": found.hypervolume,
    }


def _study(study: StudyResults) -> dict[str, Any]:
    """Return what a search found in one cell: `by_chance` is how much the best trial's own score overstates it.

    `as_good` has, by key, the range or the choices of all trials within `standard_error` of the best.
    """
    best, found = study.best, study.optimism
    fresh = found and {
        "seeds": found.seeds,
        "validation": found.now,
        "interval": found.interval and [found.interval.low, found.interval.high],
    }
    return {
        "cell": study.name,
        "sampler": study.sampler,
        "trials": {state: study.count(state) for state in trial_tags.STATES},
        "best": best
        and {
            "trial": best.number,
            "choices": best.at,
            "validation": best.value,
            "fresh": fresh,
            "by_chance": found and found.gap,
        },
        "standard_error": study.error,
        "as_good": {key: [*values] for key, values in study.as_good.items()},
        "importances": study.importances,
    }


def _pairs(contest: Contest) -> dict[str, Any] | None:
    """Return the best pair of backbone and freeze mode, and the differences between the first two of each.

    None without several of both.
    """
    found = backbones.grid(contest)
    if found is None:
        return None
    model, mode = next(iter(found.cells))
    modes = {name: (gap := found.of_modes(name)) and asdict(gap) for name in found.models}
    models = {name: (gap := found.of_models(name)) and asdict(gap) for name in found.modes}
    return {
        "best": {"model": model, "freeze_mode": mode},
        "modes": {"first": found.modes[0], "second": found.modes[1], "by_model": modes},
        "models": {"first": found.models[0], "second": found.models[1], "by_mode": models},
    }


def _cell(cell: Cell) -> dict[str, Any]:
    within = test_interval(cell)
    return {
        "choices": {name: value for name, value in cell.choices.items() if name != trial_tags.SPACE},
        "mean": _without_nan(cell.means()),
        "test_interval": within and [within.low, within.high],
        "runs": [
            {"name": run.name, "status": run.status, "folder": run.folder, "run_id": run.run_id} for run in cell.results
        ],
    }


def _without_nan(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if value == value else None for name, value in metrics.items()}
