"""The answer as plain data for JSON, as `compare --json` prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from frostline.records import trial_tags
from frostline.records.result import Result
from frostline.report import backbones
from frostline.report.cell_intervals import test_interval
from frostline.report.cells import Cell, cells
from frostline.report.contest import Contest, contests
from frostline.report.pareto import Front, front
from frostline.report.studies import StudyResults
from frostline.report.train_sizes import TrainSizes, images, train_sizes
from frostline.report.verdict import answer, verdict


def of_results(results: Sequence[Result]) -> dict[str, Any]:
    """Return the answer on `results`: accuracies and differences as fractions in 0..1, costs by metric name."""
    statuses, found = [result.status for result in results], contests(results)
    return {
        "answer": answer(results),
        "runs": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
        "contests": [_contest(contest) for contest in found],
        "train_sizes": [_sizes(sizes) for sizes in train_sizes(found)],
        "cells": [_cell(cell) for cell in cells(results)],
    }


def _sizes(sizes: TrainSizes) -> dict[str, Any]:
    points = [{"train_images": images(one), "where": one.where, "outcome": one.outcome} for one in sizes.contests]
    return {"key": sizes.key, "where": sizes.where, "sizes": points}


def _contest(contest: Contest) -> dict[str, Any]:
    return {
        "where": contest.where,
        "select": contest.by.epoch,
        "key": contest.key,
        "outcome": contest.outcome,
        "verdict": verdict(contest),
        "contenders": [{"value": one.value, "cells_tried": one.tried, **_cell(one.cell)} for one in contest.contenders],
        "difference": contest.difference and asdict(contest.difference),
        "beaten": [{"value": one.value, "difference": asdict(gap)} for one, gap in contest.beaten],
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
        "mean": without_nan(cell.means()),
        "test_interval": within and [within.low, within.high],
        "runs": [
            {"name": run.name, "status": run.status, "folder": run.folder, "run_id": run.run_id} for run in cell.results
        ],
    }


def without_nan(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics with None, which JSON has, in place of nan."""
    return {name: value if value == value else None for name, value in metrics.items()}
