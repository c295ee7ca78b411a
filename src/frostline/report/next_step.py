"""The next step where a comparison is not decided: take the cheaper contender, run more seeds, or add a rival."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from frostline.records import journal, trial_tags
from frostline.records.result import GROUPS, Result, number_of
from frostline.report import search_words
from frostline.report.cell_intervals import validation_interval
from frostline.report.cells import SUBSET, repeats_typed, varying
from frostline.report.command_line import CONTINUE, command
from frostline.report.contest import Contender, Contest, outcome_of
from frostline.report.cost_words import cheaper
from frostline.report.next_lrs import smaller, values_of
from frostline.report.paired_difference import Difference
from frostline.report.statistics import seeds_to_resolve

_MANY_SEEDS = 20  # more seeds than this are not worth a command
_ENOUGH_GROUPS = 5  # of fewer, intervals over groups are so wide that more seeds hardly help
_HARDLY, _NEARLY_ALL = 0.05, 0.9  # of the training images, a fraction
_LARGE = 0.5  # share of a class beyond which classes differ much in size


def next_step(contest: Contest, tuned: Sequence[str]) -> list[str]:
    """Return sentences on what to do if two contenders cannot be told apart: take the cheaper in a tie, else add seeds.

    With one seed the spread between seeds is unknown: of 83 comparisons on digits that one seed left undecided, five
    seeds ended 14 with a win and 13 with a tie, and showed for 36 that it takes more test images.

    The two are the first two, or if the first surely beats the second, the first and the next that it does not beat.
    """
    if contest.lead is not None:
        return _learned(contest)
    if contest.outcome == "win" or contest.difference is None:
        return []
    (first, second), difference = contest.contenders[:2], contest.difference
    if contest.outcome == "ahead":
        second, difference = contest.unbeaten[0]
    outcome = outcome_of(difference, first.cell)
    if outcome == "tie":
        return cheaper(first, second)
    if outcome == "contradiction" and not difference.folds and _validation_is_sure(first, second):
        return ["Each split is sure of its order, so the splits differ by more than chance: check how they were made."]
    seeds = _seeds_needed(difference)
    if why := _not_by_seeds(first, second, difference, seeds):
        return [why, *cheaper(first, second)]
    may = f"More {first.cell.repeat}s may decide it, or show that it takes more test images"
    what = may if difference.seeds == 1 else "To decide it"
    if all(trial_tags.STUDY in one.cell.choices for one in (first, second)):  # a grid would mix the values of the two
        return [f"{what}: the same command with search.confirm={seeds}."]
    changes = {contest.key: [first.value, second.value], **values_of(tuned, [first.cell, second.cell])}
    drawn = {SUBSET: ["${seed}"]} if first.cell.redrawn else {}
    again = command(first.cell.finished[0], {**changes, "seed": range(seeds), **drawn})
    return [f"{what}: `{again}`."] if again else []


def _not_by_seeds(first: Contender, second: Contender, difference: Difference, seeds: int) -> str | None:
    """Return why more seeds would not tell two contenders apart, or that it takes too many; None if `seeds` may do."""
    if difference.folds:
        return "It takes more images to tell them apart, rather than more folds."
    if 0 < (groups := round(first.cell.finished[0].metrics.get(GROUPS, 0))) < _ENOUGH_GROUPS:
        folds = "data.folds=5 tests every group, unless the data has its own test split"
        return f"It takes more than {number_of(groups, 'group')} of test images to tell them apart: {folds}."
    if difference.over_images and 0 in difference.over_images:
        what = "test images of more groups" if groups else "more test images"
        return f"It takes {what} to tell them apart, rather than more {first.cell.repeat}s."
    if not (first.cell.depends_on_seed or second.cell.depends_on_seed):
        return "More seeds would not tell them apart, since neither depends on the seed."
    return f"It would take about {seeds:,} {first.cell.repeat}s to tell them apart." if seeds > _MANY_SEEDS else None


def _learned(contest: Contest) -> list[str]:
    """Return what the first contender learned of its training images, where it does not surely beat the largest class.

    Empty where its accuracy on them is neither near the share of that class nor near 100%, or not known.
    """
    run = contest.contenders[0].cell.finished[0]
    lines = [line for line in journal.epochs(Path(run.folder)) if line["epoch"] == run.metrics.get("best/epoch")]
    right = lines[0].get("train/accuracy") if lines else None
    if right is None or contest.baseline is None:
        return []
    its, steps = f"Of its training images it has {right:.0%} right", "lr" in run.choices  # not of a solved head
    if right <= contest.baseline.share + _HARDLY:
        its += ", hardly more" if right > contest.baseline.share else ", no more"
        if not steps:
            return [f"{its}: a freeze mode that trains in steps or another network may help."]
        alike = "; `select=val/macro_f1 train.class_weights=balanced` gives all classes the same weight"
        return [
            f"{its}: more epochs, another lr or pretrained weights may help"
            f"{alike if contest.baseline.share > _LARGE else ''}."
        ]
    if right < _NEARLY_ALL:
        return []
    return [f"{its}: more images {'or augmentation may help, rather than more epochs' if steps else 'may help'}."]


def _validation_is_sure(first: Contender, second: Contender) -> bool:
    """Return whether chance in validation cannot explain the order of the two; where it can, more seeds may help.

    In simulated contradictions after one seed this held for 0 of 75 if validation and test came from one distribution,
    and for 51 of 532 if not. Five seeds turned 4% of these 51 into a win, and 23% of the others.
    """
    one, two = (validation_interval(each.cell) for each in (first, second))
    return one is not None and two is not None and one.low > two.high  # the first has the better mean


def _seeds_needed(difference: Difference) -> int:
    """Return the number of seeds that would shrink the interval to the gap, at least 5.

    If the interval already excludes zero, return twice the present number.
    """
    if difference.seeds == 1 or difference.interval is None:
        return 5
    if 0 not in difference.interval:
        return max(5, 2 * difference.seeds)
    gap, within, images = difference.gap, difference.over_seeds or difference.interval, difference.over_images
    if images:  # more seeds do not reduce the error of the images
        gap = math.sqrt(max(0.0, gap**2 - images.half**2))
    return max(5, seeds_to_resolve(gap, within, difference.seeds, paired=difference.paired))


def rival(only: Contender) -> list[str]:
    """Return the sentence on a command that adds a second freeze mode to the only one."""
    mode = str(only.cell.choices.get("freeze_mode"))  # the compared key may be another, of which one value has a score
    modes = [mode, "head" if mode == "full" else "full"]
    again = command(only.cell.finished[0], {"freeze_mode": modes, **repeats_typed([only.cell])})
    if again and trial_tags.STUDY in only.cell.choices:  # a grid would have the values drawn for one mode
        return [f"Try the same command with freeze={','.join(modes)}."]
    return [f"Try: `{again}`."] if again else []


def once_more(key: str, only: Contender, results: Sequence[Result]) -> list[str]:
    """Return the sentence on how to try the values again of which no run finished."""
    lost = [run for run in results if repr(run.choices.get(key)) != repr(only.value)]
    too_large, interrupted = lost and all(map(trial_tags.diverged, lost)), all(run.status == "KILLED" for run in lost)
    if search_words.is_search(results):  # a grid of what it drew is another question
        return [
            "Try the same command with smaller learning rates." if too_large else "The same command tries them again."
        ]
    if too_large:
        return smaller(key, [*dict.fromkeys(run.choices.get(key) for run in lost)], only, lost)
    again = command(only.cell.finished[0], {key: [only.value], **values_of(varying(results), results)})
    how = f"{CONTINUE} (finished runs are skipped, interrupted ones resumed)" if interrupted else "To try them again"
    return [f"{how}: `{again}`."] if again else []
