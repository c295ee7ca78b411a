"""Sentences of the verdict on a search: budget, Pareto front, optimism of the best trials, flatness of the optimum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from frostline.core.metrics import ACCURACY
from frostline.records import trial_tags
from frostline.records.result import EPOCHS, PRUNED, SECONDS, Result, number_of, value_text
from frostline.report.cells import study_of
from frostline.report.contest import Contender, Contest
from frostline.report.pareto import front
from frostline.report.studies import StudyResults, is_choice, short_text
from frostline.report.tables import duration


def is_search(results: Sequence[Result]) -> bool:
    """Return whether the runs are those of a search."""
    return any(trial_tags.is_trial(result.choices) for result in results)


def planned(results: Sequence[Result]) -> str:
    """Return which runs of a search a plan has, and each cell's budget; empty for a grid."""
    budget = next((result.choices.get(trial_tags.BUDGET) for result in results if is_search([result])), None)
    return f", the first trial of each cell, whose budget is {budget}" if budget else ""


def sentences(contest: Contest, digits: int) -> list[str]:
    """Return the sentences on a search, for the first two contenders; empty for a grid."""
    if not is_search(contest.results):
        return []
    found = [(study, value_text(one.value)) for one in contest.contenders[:2] for study in _of(one, contest.studies)]
    return [
        *_budget(contest),
        *_front(contest.results),
        *(sentence for study, name in found for sentence in _optimism(study, name, digits)),
        *(sentence for study, name in found for sentence in _optimum(study, name)),
    ]


def _front(results: Sequence[Result]) -> list[str]:
    """Return the sentence on the Pareto front: trials by cell, both ends, and hypervolumes; empty for one objective."""
    if (found := front(results)) is None:
        return []
    counts = Counter(point.study.name for point in found.best)
    whose = ", ".join(f"{name} {count}" for name, count in counts.items())
    first, last = found.best[0], found.best[-1]
    texts = [
        " at ".join(one.text(value) for one, value in zip(found.objectives, point.values, strict=True))
        for point in (last, first)
    ]
    reach = texts[0] if first is last else " to ".join(texts)
    volumes = ", ".join(f"{name} {volume[-1]:.2f}" for name, volume in found.hypervolume.items())
    what = " and ".join(one.words for one in found.objectives)
    on = f"{len(found.best)} of {len(found.points)} trials are on the Pareto front of {what}"
    return [f"{on} ({whose}): {reach}; hypervolume {volumes}."]


def _of(one: Contender, studies: Sequence[StudyResults]) -> list[StudyResults]:
    """Return the study of a contender, if trials of it are over; empty otherwise."""
    own = study_of(one.cell.choices)
    return [study for study in studies if study_of(study.trials[0].run.choices) == own]


def trials_of(one: Contender, results: Sequence[Result]) -> list[Result]:
    """Return the trials of a contender's study, finished or not, in the order of their numbers."""
    study = one.cell.choices.get(trial_tags.STUDY)
    found = [run for run in results if trial_tags.is_trial(run.choices) and run.choices[trial_tags.STUDY] == study]
    return sorted(found, key=lambda run: int(run.choices[trial_tags.TRIAL]))


def _budget(contest: Contest) -> list[str]:
    """Return the sentences on the budget of each contender, and on the runs that are compared.

    Solved heads have no lr to search and are not counted.
    """
    drawn = [one for one in contest.contenders if "lr" in one.cell.choices] or contest.contenders
    trials = {value_text(one.value): trials_of(one, contest.results) for one in drawn}
    return [f"{_amounts(contest.results, trials)}; {_compared(contest.contenders)}.", *_used(trials)]


def _amounts(results: Sequence[Result], trials: Mapping[str, Sequence[Result]]) -> str:
    """Return the clause on the budgets; unequal ones are stated, since they make the comparison unfair."""
    counted = chain(*trials.values(), results)  # a solved head has another budget than those that are searched
    some = next(run.choices for run in counted if trial_tags.is_trial(run.choices))
    search, each = f"(search={some[trial_tags.SEARCH]})", "each" if len(trials) > 1 else "in all"
    amount, unit = str(some.get(trial_tags.BUDGET, "0 trials")).split()
    took = {name: _took(runs, unit) for name, runs in trials.items()}
    if unit == "trials" and len(set(took.values())) == 1:
        told = f"The budget was {number_of(round(next(iter(took.values()))), 'trial')} {each} {search}"
    elif unit != "trials" and min(took.values()) >= float(amount):
        told = f"The budget was {amount} {unit} {each} {search}"
    else:
        what = ", ".join(f"{name} {number:.0f}" for name, number in took.items())
        told = f"The budgets differ, in {unit} {search}: {what}"
    stopped = sum(PRUNED in run.metrics for run in results)
    return f"{told}, {stopped} {'of them' if unit == 'trials' else 'trials'} stopped early" if stopped else told


def _compared(found: Sequence[Contender]) -> str:
    """Return the clause on the runs that are compared: fresh seeds, or the best of several trials."""
    searched = [one.cell for one in found if trial_tags.STUDY in one.cell.choices]
    if not searched or not all(trial_tags.CONFIRMS in cell.choices for cell in searched):
        return "without fresh seeds, the best of several trials looks better than it is"
    seeds = sorted({len(cell.finished) for cell in searched})
    most = "1 fresh seed" if seeds[-1] == 1 else f"{seeds[-1]} fresh seeds"
    fresh = f"{seeds[0]} to {most}" if len(seeds) > 1 else most
    whose = "each best trial" if len(searched) > 1 else "the best trial"
    return f"{'the comparison uses' if len(found) > 1 else 'the result is that of'} {fresh} of {whose} by validation"


def _used(trials: Mapping[str, Sequence[Result]]) -> list[str]:
    """Return the sentence on the trials, epochs and seconds that each contender used, whatever the budget's unit."""
    parts = []
    for name, runs in trials.items():
        epochs, seconds = _took(runs, "epochs"), _took(runs, "seconds")
        how_long = f"{number_of(round(epochs), 'epoch')}, {duration(seconds)} of training"
        if runs:
            parts.append(f"{name} {number_of(_tried(runs), 'trial')}, {how_long}")
    return [f"Used: {'; '.join(parts)}."] if any(_took(runs, "epochs") for runs in trials.values()) else []


def _took(trials: Sequence[Result], unit: str) -> float:
    if unit == "trials":
        return _tried(trials)
    return sum(run.metrics.get({"epochs": EPOCHS, "seconds": SECONDS}[unit], 0.0) for run in trials)


def _tried(trials: Sequence[Result]) -> int:
    return sum(run.status in ("FINISHED", "FAILED", "PAUSED") for run in trials)


def _optimism(study: StudyResults, name: str, digits: int) -> list[str]:
    """Return the sentence on how much better the best trial looked on validation than its fresh seeds."""
    found, by = study.optimism, study.by
    if found is None:
        return []
    what = "" if by == ACCURACY else f" in {by.words}"
    first = f"On validation{what} the best trial of {name} reached {by.text(found.then, digits)}"
    better = abs(found.gap)
    chance = f": chance made it look {by.gap(better, digits).lstrip('+')} better"
    fresh = "its fresh seed" if found.seeds == 1 else "its fresh seeds"
    return [f"{first}, {fresh} {by.text(found.now, digits)}{chance if by.better(found.then, found.now) else ''}."]


def _optimum(study: StudyResults, name: str) -> list[str]:
    """Return sentences on the values that are as good as the best, and on a best lr at the edge of those tried."""
    if [*study.space] != ["lr"] or "lr" not in study.as_good:
        return _alike(study, name)
    low, high = study.as_good["lr"]
    parts = []
    if span := alike_text("lr", (low, high), choice=False):
        parts.append(
            f"For {name} any {span.replace(' ', ' from ', 1)} is as good, within a standard error on validation."
        )
    rates = [trial.at["lr"] for trial in study.trials]
    for found, last, end, side in (
        (low, min(rates), study.space["lr"].low, "smaller"),
        (high, max(rates), study.space["lr"].high, "larger"),
    ):
        if found == last:
            more = (
                f", though the range goes on to {end:.2g}: more trials" if _far(last, end, study) else ": a wider range"
            )
            parts.append(f"No {side} lr of {name} was tried{more} may do better.")
    return parts


def _far(last: float, end: float, study: StudyResults) -> bool:
    """Return whether there is room for a trial between the `last` lr that was tried and the `end` of its range."""
    space = study.space["lr"]
    beyond, whole = (
        (math.log(end / last), math.log(space.high / space.low)) if space.log else (end - last, space.high - space.low)
    )
    return abs(beyond) * len(study.trials) > whole


def _alike(study: StudyResults, name: str) -> list[str]:
    """Return the sentence on the values of trials that are as good as the best, for several keys or one besides lr."""
    found = ((key, values, is_choice(study.space[key])) for key, values in study.as_good.items())
    spans = [span for key, values, choice in found if (span := alike_text(key, values, choice=choice))]
    if not spans:
        return []
    return [f"Trials of {name} within a standard error of the best on validation have {', '.join(spans)}."]


def alike_text(key: str, found: Sequence[Any], *, choice: bool) -> str:
    """Return the values of one key that are as good, e.g. `lr 0.0002 to 0.003`; empty if there is only one."""
    texts = [short_text(one) if choice else f"{one:.2g}" for one in found]
    if len(set(texts)) < 2:
        return ""
    return f"{key} {', '.join(texts[:-1])} {'or' if choice else 'to'} {texts[-1]}"
