"""Sentences on the differences of contenders: the first two compared, and the first one's lead over the others."""

from __future__ import annotations

from collections.abc import Sequence

from frostline.core.metrics import ACCURACY, Metric
from frostline.report.cells import Cell
from frostline.report.contest import Contender, Contest, capital
from frostline.report.cost_words import cost_clause
from frostline.report.paired_difference import Difference
from frostline.report.statistics import Interval

NAMES = 3
"""Names in a sentence, of classes or of contenders."""


def comparison(contest: Contest, difference: Difference) -> str:
    """Return the sentence that compares the first two contenders; if `ahead`, also one on the others not surely beaten.

    Every sentence ends with its full stop.
    """
    (first, second), outcome, by = contest.contenders[:2], contest.outcome, contest.by
    one, two, digits = first.name, second.name, digits_of(first.cell)
    scores = [by.text(score, digits) for score in difference.scores]
    gap = gap_text(difference, by, digits)
    split = "on the test split" if by == ACCURACY else f"in {by.words} on the test split"
    longer, faster = (", for", ", and trains") if outcome in ("win", "ahead") else (f"; {one} takes", f"; {one} trains")
    cost = cost_clause(first, second, longer, faster, contest.results)
    if outcome == "win":
        return f"{capital(one)} wins: {scores[0]} against {scores[1]} for {two} {split} {gap}{cost}."
    if outcome == "ahead":
        both = f"{scores[0]} against {scores[1]} {split} {gap}{cost}"
        leads = _leads("against", contest.unbeaten, by, digits)
        return f"{capital(one)} is ahead of {two}, not surely of all: {both}. The difference is {leads}."
    if outcome == "contradiction":
        return (
            f"No clear winner: {one} is best on validation, yet behind {two} {split}, "
            f"{scores[0]} against {scores[1]} {gap}{cost}."
        )
    head = "A tie" if outcome == "tie" else "Undecided"
    return f"{head}: {one} {scores[0]}, {two} {scores[1]} {split} {gap}{cost}."


def beaten(contest: Contest) -> list[str]:
    """Return the sentence on the contenders that the first one surely beats, where it cannot be told from the second.

    Each of them is compared by an interval of its own, without a correction for their number.
    """
    if contest.outcome not in ("tie", "undecided") or not contest.beaten:
        return []
    first = contest.contenders[0]
    each = "" if len(contest.beaten) == 1 else ", taken one at a time,"
    leads = _leads("over", contest.beaten, contest.by, digits_of(first.cell))
    return [f"{capital(first.name)} has a sure lead{each} of {leads}."]


def _leads(over: str, found: Sequence[tuple[Contender, Difference]], by: Metric, digits: int) -> str:
    """Return the differences of the first contender to others, each with its interval."""
    leads = []
    for one, difference in found[:NAMES]:
        within = f" ({within_text(by, difference.interval, digits)})" if difference.interval else ""
        leads.append(f"{by.gap(difference.gap, digits)}{within} {over} {one.name}")
    more = f" and {len(found) - NAMES} more in the report" if len(found) > NAMES else ""
    return f"{', '.join(leads)}{more}"


def within_text(by: Metric, interval: Interval, digits: int) -> str:
    """Return an interval in words."""
    return f"95% interval {by.span(interval.low, interval.high, digits)}"


def gap_text(found: Difference, by: Metric, digits: int) -> str:
    """Return a difference with its interval and method, in parentheses."""
    within = f"{within_text(by, found.interval, digits)}; " if found.interval else ""
    return f"({by.gap(found.gap, digits)}, {within}{found.how})"


def digits_of(cell: Cell) -> int:
    """Return how many decimals of a percentage are meaningful, given the number of test images."""
    return 1 if cell.finished[0].images.get("test", 0) < 5000 else 2
