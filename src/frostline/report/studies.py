"""Studies of a search for reports: trials, the best one and its fresh seeds, importances, and flat optima.

Everything comes from the results of runs, so downloaded and combined searches work too.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

import yaml

from frostline.core.metrics import Metric
from frostline.records import trial_tags
from frostline.records.journal import is_number
from frostline.records.result import Result, value_text
from frostline.report.cell_intervals import standard_error, validation_interval
from frostline.report.cells import Cell, cells, study_of
from frostline.report.statistics import Interval

_LEAST = 3
"""Least number of trials for a statement about the shape of the optimum."""
_LEAST_IMPORTANT = 10
"""Least number of complete trials for importances: PED-ANOVA compares the best tenth with the rest."""
_parsed = functools.cache(yaml.safe_load)  # a choice as each of a thousand trials has it


@dataclass(frozen=True)
class Trial:
    """One trial that is over."""

    number: int
    run: Result
    state: str
    """`complete`, `pruned` or `failed`."""
    value: float | None
    """The metric of `select` on validation, for a pruned trial so far; None for a failed trial."""
    at: Mapping[str, Any]
    """Its values of the searched keys."""


@dataclass(frozen=True)
class Optimism:
    """The optimism of a search: the best of several trials looks better on validation than its settings are."""

    then: float
    """The validation score of the best trial."""
    now: float
    """The mean validation score of its fresh seeds."""
    interval: Interval | None
    """95% interval of `now`."""
    seeds: int

    @property
    def gap(self) -> float:
        """The part of the best trial's score that was chance, in units of the metric."""
        return self.then - self.now


@dataclass(frozen=True)
class StudyResults:
    """One cell of a search."""

    name: str
    sampler: str
    by: Metric
    space: Mapping[str, Any]
    """Optuna's distributions, by searched key."""
    trials: tuple[Trial, ...]
    """The trials that are over, in the order of their numbers."""
    fresh: Cell | None
    """The runs of the best trial with fresh seeds; None if none of them finished."""

    @property
    def complete(self) -> list[Trial]:
        """The trials that completed, with a value."""
        return [trial for trial in self.trials if trial.state == trial_tags.COMPLETE]

    def count(self, state: str) -> int:
        """Return the number of trials that ended in this state."""
        return sum(trial.state == state for trial in self.trials)

    @cached_property
    def best(self) -> Trial | None:
        """The trial that was confirmed, else the best one on validation."""
        number = self.fresh.choices[trial_tags.CONFIRMS] if self.fresh else None
        if number is not None and (found := [trial for trial in self.trials if trial.number == number]):
            return found[0]
        return max(self.complete, key=self.score, default=None)

    def score(self, trial: Trial) -> float:
        """Return the value of a trial as a score of which more is better; minus infinity for a failed trial."""
        return -math.inf if trial.value is None else self.by.sign * trial.value

    @property
    def optimism(self) -> Optimism | None:
        """How much better the best trial looked than its fresh seeds; None without fresh seeds."""
        if self.fresh is None or self.best is None or self.best.value is None:
            return None
        now = self.fresh.mean(self.by.val)
        return Optimism(self.best.value, now, validation_interval(self.fresh), len(self.fresh.finished))

    @cached_property
    def error(self) -> float | None:
        """The standard error of one run's validation score; None where it is not known."""
        if self.fresh is not None:
            return standard_error(self.by, self.fresh.finished)
        return standard_error(self.by, [self.best.run]) if self.best else None

    @cached_property
    def as_good(self) -> dict[str, tuple[float, float] | list[Any]]:
        """The values of trials within a standard error of the best, by key: a range of numbers, or a list of choices.

        If only one number is searched, the range contains no worse trial. Empty for fewer than three trials.
        """
        if self.error is None or self.best is None or len(self.trials) < _LEAST:
            return {}
        if len(self.space) == 1 and not is_choice(*self.space.values()):
            (key,) = self.space
            return {key: flat([(trial.at[key], self.score(trial)) for trial in self.trials], self.error)}
        least = self.score(self.best) - self.error
        alike = [trial.at for trial in self.trials if self.score(trial) >= least]
        return {key: _spanned([choices[key] for choices in alike], one) for key, one in self.space.items()}

    @cached_property
    def importances(self) -> dict[str, float]:
        """The importance of each key for being among the best trials, adding up to 1; the largest first.

        Computed by Optuna (PED-ANOVA, Watanabe et al. 2023, arXiv:2304.10255). Empty for fewer than two keys or ten
        complete trials.
        """
        if len(self.space) < 2 or len(self.complete) < _LEAST_IMPORTANT:
            return {}
        import optuna

        space = dict(self.space)
        with quiet():
            study = optuna.create_study(direction="maximize" if self.by.sign > 0 else "minimize")
            for one in self.complete:
                study.add_trial(optuna.create_trial(params=dict(one.at), distributions=space, value=one.value))
            return optuna.importance.get_param_importances(study)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's log below errors, and its warnings about experimental features, within the block."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def studies(results: Sequence[Result]) -> list[StudyResults]:
    """Return the studies with at least one trial that is over, in the order of their runs; empty for a grid."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        if trial_tags.STUDY in result.choices:
            groups.setdefault(study_of(result.choices), []).append(result)
    return [found for group in groups.values() if (found := _study(group)).trials]


def _study(runs: Sequence[Result]) -> StudyResults:
    by, choices = runs[0].selected_by, runs[0].choices
    space = _space(runs)
    over = [_trial(run, by, state, space) for run in runs if (state := trial_tags.state(run))]
    fresh = [cell for cell in cells(run for run in runs if trial_tags.CONFIRMS in run.choices) if cell.finished]
    return StudyResults(
        str(choices[trial_tags.STUDY]),
        str(choices[trial_tags.SEARCH]),
        by,
        space,
        tuple(sorted(over, key=lambda trial: trial.number)),
        fresh[0] if fresh else None,
    )


def _trial(run: Result, by: Metric, state: str, space: Mapping[str, Any]) -> Trial:
    at = {key: _drawn(run.choices.get(key), one) for key, one in space.items()}
    number, value = int(run.choices[trial_tags.TRIAL]), run.metrics.get(by.val, math.nan)
    known = math.isfinite(value)
    return Trial(number, run, state if known else trial_tags.FAILED, value if known else None, at)


def _drawn(value: Any, distribution: Any) -> Any:
    """Return the drawn choice, given the value in a run's config: for a list its text, e.g. `[0.5,1]`."""
    if not is_choice(distribution):
        return value
    meant = ((choice, _parsed(choice) if isinstance(choice, str) else choice) for choice in distribution.choices)
    return next((choice for choice, known in meant if known == value), value)


def _space(runs: Sequence[Result]) -> dict[str, Any]:
    """Return the distributions of the searched keys; empty if the recorded space is damaged or not that of `runs`."""
    from optuna.distributions import json_to_distribution

    try:
        space = {key: json_to_distribution(text) for key, text in runs[0].choices.get(trial_tags.SPACE, {}).items()}
    except (ValueError, KeyError, TypeError):
        return {}
    known = all(_is_drawn(run.choices.get(key), one) for run in runs for key, one in space.items())
    return space if known else {}


def _is_drawn(value: Any, distribution: Any) -> bool:
    return _drawn(value, distribution) in distribution.choices if is_choice(distribution) else is_number(value)


def is_choice(distribution: Any) -> bool:
    """Return whether values are drawn from a list of choices, rather than from a range of numbers."""
    return hasattr(distribution, "choices")


def _spanned(values: Sequence[Any], distribution: Any) -> tuple[float, float] | list[Any]:
    if is_choice(distribution):
        return [choice for choice in distribution.choices if choice in values]
    return min(values), max(values)


def flat(scored: Iterable[tuple[float, float]], error: float) -> tuple[float, float]:
    """Return the ends of the range of positions around the best score without a score more than `error` below it.

    `scored` are pairs (position, score), of which more is better.
    """
    found = sorted(scored)
    best = max(range(len(found)), key=lambda at: found[at][1])
    least = found[best][1] - error
    *_, (low, _) = takewhile(lambda one: one[1] >= least, found[best::-1])
    *_, (high, _) = takewhile(lambda one: one[1] >= least, found[best:])
    return low, high


def short_text(value: object) -> str:
    """Return a value as text with three digits, more than a search can tell apart."""
    return f"{value:.3g}" if isinstance(value, float) else value_text(value)
