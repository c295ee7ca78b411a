"""What to do where two were not told apart: take the cheaper, or run more seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from frostline.records.result import SECONDS
from frostline.report.command_line import command
from frostline.report.contest import Contender, Contest, capital, outcome_of
from frostline.report.next_lrs import both

if TYPE_CHECKING:
    from frostline.report.paired_difference import Difference

_MANY_SEEDS = 20  # more than that is no advice
_ALIKE, _INSTANT = 1.1, 0.25  # times within a tenth, or a quarter of a second, differ by what else the machine does


def next_step(contest: Contest, tuned: Sequence[str]) -> list[str]:
    """Return what to do where the two were not told apart: in a tie to take the cheaper, else more seeds.

    The two are the first ones, or where the first is surely before the second, it and the next that it is not before.
    """
    if contest.outcome in ("win", "majority") or contest.difference is None:
        return []
    (first, second), difference = contest.contenders[:2], contest.difference
    if contest.unbeaten:
        second, difference = contest.unbeaten[0]
    if outcome_of(difference, first.cell) == "tie":
        return _cheaper(first, second)
    if difference.folds:
        return ["It takes more pictures to tell them apart, rather than more folds.", *_cheaper(first, second)]
    if difference.over_images and 0 in difference.over_images:
        return ["It takes more test images to tell them apart, rather than more seeds.", *_cheaper(first, second)]
    if not any(one.cell.draws for one in (first, second)):
        return ["More seeds would not tell them apart, since neither draws anything.", *_cheaper(first, second)]
    seeds = _seeds_needed(difference)
    if seeds > _MANY_SEEDS:
        return [f"It would take about {seeds:,} seeds to tell them apart.", *_cheaper(first, second)]
    changes = {contest.key: [first.value, second.value]}
    changes |= {name: values for name in tuned if (values := both(name, first.cell, second.cell))}
    again = command(first.cell.finished[0], {**changes, "seed": range(seeds)})
    return [f"To decide it: `{again}`."] if again else []


def _cheaper(first: Contender, second: Contender) -> list[str]:
    one, other = sorted((first, second), key=lambda one: one.cell.mean(SECONDS))
    clear = one.cell.mean(SECONDS) > 0 and takes_longer(other.cell.mean(SECONDS), one.cell.mean(SECONDS))
    return [f"{capital(one.name)} is the cheaper."] if clear else []


def takes_longer(one: float, other: float) -> bool:
    """Return whether the first of two training times, in seconds, is longer by more than chance makes it."""
    return one >= other * _ALIKE and one - other >= _INSTANT


def _seeds_needed(difference: Difference) -> int:
    """Return how many seeds to try: those that would shrink the interval to the gap, or twice as many; at least 5."""
    if difference.seeds == 1 or difference.interval is None:
        return 5
    from frostline.report.statistics import seeds_to_resolve

    if 0 not in difference.interval:
        return max(5, 2 * difference.seeds)
    gap, within, images = abs(difference.gap), difference.over_seeds or difference.interval, difference.over_images
    if images:  # more seeds are to leave room for these
        gap = math.sqrt(max(0.0, gap**2 - ((images.high - images.low) / 2) ** 2))
    return max(5, seeds_to_resolve(gap, within, difference.seeds, paired=difference.paired))
