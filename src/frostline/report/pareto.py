"""Pareto front of a search for several objectives, and the hypervolume of each cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from frostline.core.objectives import Objective, several
from frostline.records import trial_tags
from frostline.records.result import Result
from frostline.report.studies import StudyResults, Trial, quiet, studies

if TYPE_CHECKING:
    import optuna

_BEYOND = 0.1
"""Distance of the reference point beyond the worst trial, as a fraction of the range, so that all trials count."""


@dataclass(frozen=True)
class Point:
    """A complete trial of any cell."""

    study: StudyResults
    trial: Trial
    values: tuple[float, ...]
    """One per objective."""


@dataclass(frozen=True)
class Front:
    """The result of a search for several objectives, over all cells."""

    objectives: tuple[Objective, ...]
    points: tuple[Point, ...]
    """All complete trials."""
    best: tuple[Point, ...]
    """The Pareto front: trials than which no other is as good in all and better in one; best by the first one first."""
    reference: tuple[float, ...]
    """The reference point of hypervolumes, a tenth of the range beyond the worst value of each objective."""
    hypervolume: dict[str, list[float]]
    """By cell, after each of its complete trials: the fraction of the box between `reference` and the best values."""


def front(results: Sequence[Result]) -> Front | None:
    """Return the Pareto front over the trials of all cells; None for a single objective or without complete trials."""
    names = next((run.choices[trial_tags.OBJECTIVE] for run in results if trial_tags.OBJECTIVE in run.choices), None)
    objectives = several(names)
    points = [point for study in studies(results) for point in _points(study, objectives)]
    if not objectives or not points:
        return None
    reference, ideal = zip(
        *(_ends(one, [point.values[at] for point in points]) for at, one in enumerate(objectives)), strict=True
    )
    together = _in_optuna(points, objectives)
    best = [points[trial.number] for trial in together.best_trials]
    best.sort(key=lambda point: -objectives[0].sign * point.values[0])
    box = math.prod(abs(high - low) for low, high in zip(reference, ideal, strict=True))
    by_name = {name: [one for one in points if one.study.name == name] for name in (p.study.name for p in points)}
    volumes = {
        name: [volume / box for volume in _hypervolume(own, objectives, reference)] for name, own in by_name.items()
    }
    return Front(tuple(objectives), tuple(points), tuple(best), reference, volumes)


def _points(study: StudyResults, objectives: Sequence[Objective]) -> list[Point]:
    return [
        Point(study, trial, tuple(trial.run.metrics[one.metric] for one in objectives))
        for trial in study.complete
        if all(one.metric in trial.run.metrics for one in objectives)
    ]


def _ends(objective: Objective, values: Sequence[float]) -> tuple[float, float]:
    """Return the reference and the best value of an objective."""
    worst, best = (pick(values, key=lambda value: objective.sign * value) for pick in (min, max))
    beyond = _BEYOND * (abs(best - worst) or abs(best) or 1.0)
    return worst - objective.sign * beyond, best


def _in_optuna(points: Sequence[Point], objectives: Sequence[Objective]) -> optuna.Study:
    import optuna

    with quiet():
        study = optuna.create_study(directions=[one.direction for one in objectives])
        study.add_trials([optuna.create_trial(values=point.values) for point in points])
    return study


def _hypervolume(points: Sequence[Point], objectives: Sequence[Objective], reference: Sequence[float]) -> list[float]:
    """Return the hypervolume after each trial, as computed by Optuna."""
    from optuna.visualization import plot_hypervolume_history

    study = _in_optuna(points, objectives)
    with quiet():
        drawn: Any = plot_hypervolume_history(study, reference).data[0]
    return [float(value) for value in drawn.y]
