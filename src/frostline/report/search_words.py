"""What there is to say of a search beside who won: its budget, chance in its best trials, how flat the optimum is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from frostline.core.metrics import ACCURACY
from frostline.records import search_marks
from frostline.records.result import PRUNED, Result, value_text
from frostline.report.cells import varying
from frostline.report.contest import Contender, Contest

_LEAST = 3  # trials below which nothing is said of the shape of the optimum


def is_search(results: Sequence[Result]) -> bool:
    """Return whether the runs are those of a search."""
    return any(search_marks.TRIAL in result.choices for result in results)


def sentences(contest: Contest, digits: int) -> list[str]:
    """Return what there is to say of a search, for the first two contenders; nothing of a grid."""
    if not is_search(contest.results):
        return []
    found = contest.contenders[:2]
    return [
        *_budget(contest),
        *(sentence for one in found for sentence in _optimism(one, contest.results, digits)),
        *(sentence for one in found for sentence in _optimum(one, contest.results)),
    ]


def trials_of(one: Contender, results: Sequence[Result]) -> list[Result]:
    """Return the trials of the study that a contender is of, finished or not, in the order of their numbers."""
    study = one.cell.choices.get(search_marks.STUDY)
    found = [run for run in results if search_marks.TRIAL in run.choices and run.choices[search_marks.STUDY] == study]
    return sorted(found, key=lambda run: int(run.choices[search_marks.TRIAL]))


def _budget(contest: Contest) -> list[str]:
    """Return how many trials each had, which the comparison is not fair without, and what is compared.

    A head that is solved has no lr and cannot have more than one.
    """
    found = contest.contenders
    drawn = [one for one in found if "lr" in one.cell.choices] or found
    counts = {value_text(one.value): _tried(trials_of(one, contest.results)) for one in drawn}
    sampler = next(run.choices[search_marks.SEARCH] for run in contest.results if search_marks.TRIAL in run.choices)
    if len(set(counts.values())) == 1:
        each = "each" if len(counts) > 1 else "in all"
        first = f"The budget was {next(iter(counts.values()))} trials {each} (search={sampler})"
    else:
        what = ", ".join(f"{name} {count}" for name, count in counts.items())
        first = f"Not the same budget: trials (search={sampler}) were {what}"
    if stopped := sum(PRUNED in run.metrics for run in contest.results):
        first += f", {stopped} of them stopped early"
    seeds = {len(one.cell.finished) for one in found if search_marks.CONFIRMS in one.cell.choices}
    if len(seeds) == 1 and all(search_marks.CONFIRMS in one.cell.choices for one in found):
        whose = "each best one" if len(found) > 1 else "the best one"
        compared = "compared" if len(found) > 1 else "counted"
        count = next(iter(seeds))
        fresh = "is 1 fresh seed" if count == 1 else f"are {count} fresh seeds"
        return [f"{first}; {compared} {fresh} of {whose} by validation."]
    return [f"{first}; without fresh seeds the best of several trials looks better than it is."]


def _tried(trials: Sequence[Result]) -> int:
    return sum(run.status in ("FINISHED", "FAILED") for run in trials)


def _optimism(one: Contender, results: Sequence[Result], digits: int) -> list[str]:
    """Return how much better the best trial looked on validation than its fresh seeds did."""
    by, number = one.cell.by, one.cell.choices.get(search_marks.CONFIRMS)
    best = next((run for run in trials_of(one, results) if run.choices[search_marks.TRIAL] == number), None)
    if best is None or by.val not in best.metrics:
        return []
    then, now = best.metrics[by.val], one.cell.mean(by.val)
    what = "" if by == ACCURACY else f" in {by.words}"
    first = f"On validation{what} the best trial of {value_text(one.value)} came to {by.text(then, digits)}"
    return [f"{first}, its fresh seeds to {by.text(now, digits)}."]


def _optimum(one: Contender, results: Sequence[Result]) -> list[str]:
    """Return between which learning rates it makes no difference, or that the best one is the last that was tried."""
    trials = trials_of(one, results)
    if [name for name in varying(trials) if name != "seed"] != ["lr"]:
        return []
    by, error = one.cell.by, standard_error(one)
    scored = [(run.choices["lr"], _score(run, by.val, by.sign)) for run in trials if _tried([run])]
    name = value_text(one.value)
    if len(scored) < _LEAST or error is None:
        return []
    low, high = flat(scored, error)
    parts = []
    if low < high:
        parts.append(
            f"For {name} any lr from {low:.2g} to {high:.2g} is as good: within a standard error on validation."
        )
    rates = [lr for lr, _ in scored]
    sides = [side for end, side, last in ((low, "smaller", min(rates)), (high, "larger", max(rates))) if end == last]
    if sides:
        parts.append(f"No {' or '.join(sides)} lr of {name} was tried: a wider range may be better still.")
    return parts


def _score(run: Result, metric: str, sign: int) -> float:
    """Return the value of a trial, more being better; of one that diverged what is below any other."""
    value = run.metrics.get(metric, math.nan)
    return -math.inf if math.isnan(value) else sign * value


def standard_error(one: Contender) -> float | None:
    """Return the standard error of what one run comes to on validation; None where it is not known.

    Of an accuracy it is that of counting images, else how far fresh seeds are apart.
    """
    by, finished = one.cell.by, one.cell.finished
    images = finished[0].images.get("val", 0)
    if by == ACCURACY and images:
        share = fmean(run.metrics[by.val] for run in finished)
        return math.sqrt(max(share * (1 - share), 0.0) / images)
    return one.cell.spread(by.val)


def flat(scored: Sequence[tuple[float, float]], error: float) -> tuple[float, float]:
    """Return the lowest and highest position around the best of (position, score) with nothing but `error` between."""
    found = sorted(scored)
    best = max(range(len(found)), key=lambda at: found[at][1])
    least = found[best][1] - error
    low = high = best
    while low > 0 and found[low - 1][1] >= least:
        low -= 1
    while high + 1 < len(found) and found[high + 1][1] >= least:
        high += 1
    return found[low][0], found[high][0]
