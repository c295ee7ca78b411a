"""Comparison of freeze modes: the best cell of each by validation, and the first two of these on the test split."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from frostline.core.metrics import ACCURACY, Metric
from frostline.records import trial_tags
from frostline.records.result import Result, choices_text, value_text
from frostline.report import baseline
from frostline.report.baseline import Baseline
from frostline.report.cell_intervals import compare_cells, repeats, test_interval
from frostline.report.cells import Cell, cells, finalists, is_of_data, varying
from frostline.report.paired_difference import Difference
from frostline.report.statistics import Interval
from frostline.report.studies import StudyResults, studies

PLAIN = {"head": "feature extraction", "full": "fine-tuning"}
"""The field's names of some freeze modes."""
_TIE = 0.01  # an interval that lies within one point of zero is a tie: the difference does not matter


@dataclass(frozen=True)
class Contender:
    """The best cell, by validation, of one value of the compared key."""

    name: str
    """For people, e.g. `fine-tuning (full)` or `augment=standard`."""
    value: Any
    cell: Cell
    tried: int
    """Number of cells that it was chosen from, failed ones included."""
    interval: Interval | None
    """95% interval of its score on the test split, in the metric of the comparison."""

    @property
    def short(self) -> str:
        """Its value alone, e.g. `full` or `standard`; a number with its key, e.g. `batch_size=16`."""
        return self.name if isinstance(self.value, int | float) else value_text(self.value)


@dataclass(frozen=True, repr=False)
class Contest:
    """The comparison of the runs on one data set, and its outcome."""

    where: str
    """Settings of the data and of `select` that differ within the sweep, e.g. `data.fraction=0.1`; else empty."""
    by: Metric
    """The metric that chooses cells on validation and compares them on the test split."""
    key: str
    """The compared key: `freeze_mode`, or another one that differs if there is only one freeze mode."""
    results: tuple[Result, ...]
    contenders: tuple[Contender, ...]
    """Best first, by validation."""
    outcome: str
    """`win`, `ahead` (surely of the second, not of all), `tie`, `undecided`, `contradiction` (validation and test
    disagree), `majority` (no contender surely beats the largest class), `alone`, or `none` (no run finished)."""
    difference: Difference | None = None
    """Of the first two contenders, on the test split."""
    others: tuple[tuple[Contender, Difference], ...] = ()
    """The contenders from the third on, and the lead of the first one over each."""
    baseline: Baseline | None = None
    """The largest class of the test split; None where no run recorded its size."""
    lead: Difference | None = None
    """Lead of the first contender over the largest class if no contender surely beats that class; else None."""

    def __repr__(self) -> str:
        names = ", ".join(one.name for one in self.contenders)
        return f"<Contest {self.where or self.key}: {self.outcome}{names and f', of {names}'}>"

    @property
    def beaten(self) -> list[tuple[Contender, Difference]]:
        """The `others` that the first contender surely beats, each by an interval of its own."""
        return [each for each in self.others if self._is_sure(each[1])]

    @property
    def unbeaten(self) -> list[tuple[Contender, Difference]]:
        """The `others` that the first contender does not surely beat."""
        return [each for each in self.others if not self._is_sure(each[1])]

    def _is_sure(self, lead: Difference) -> bool:
        return outcome_of(lead, self.contenders[0].cell) == "win"

    @cached_property
    def studies(self) -> list[StudyResults]:
        """The studies of a search; empty for a grid."""
        return studies(self.results)


def contests(results: Sequence[Result]) -> list[Contest]:
    """Return one contest per data set and selection metric.

    Runs on different data (`data` and `data.*`) are not comparable, nor are runs that different metrics selected.
    """
    return [_contest(where, group) for where, group in comparable(results).items()]


def comparable(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the results of each contest, by the words for its data and metric."""
    settings = [name for name in varying(results) if name == "select" or is_of_data(name)]
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(choices_text(result.choices, settings), []).append(result)
    return groups


def compared_key(results: Sequence[Result]) -> str:
    """Return the key whose values are compared: the freeze mode, else the first other key that differs, lr last.

    Searched keys are not compared.
    """
    unfit = ("seed", "select", *searched(results))
    others = [name for name in varying(results) if name not in unfit and not name.startswith("data")]
    if "freeze_mode" in others or not others:
        return "freeze_mode"
    return next((name for name in others if name != "lr"), "lr")


def searched(results: Sequence[Result]) -> list[str]:
    """Return the searched keys: the choices in which trials of one study differ."""
    studies: dict[str, list[Result]] = {}
    for result in results:
        if trial_tags.TRIAL in result.choices:
            studies.setdefault(result.choices[trial_tags.STUDY], []).append(result)
    return list(dict.fromkeys(name for group in studies.values() for name in varying(group)))


def _contest(where: str, results: Sequence[Result]) -> Contest:
    """Return the contest of results on the same data.

    A win takes a sure lead over all others, since an equally good contender may come third on validation. With five
    contenders, two of them best and equal, the first surely beat the second in one sweep of five, and then the equal
    one was nearly always among the rest. Beating all takes no correction for their number (an intersection-union test,
    R. Berger 1982).
    """
    key = compared_key(results)
    found, by = _contenders(key, results), results[0].selected_by
    contest = Contest(where, by, key, tuple(results), found, "none")
    if not found:
        return contest
    largest = baseline.of(repeats(found[0].cell))
    lead = _no_lead(found, largest) if largest and by == ACCURACY else None
    contest = replace(contest, outcome="alone", baseline=largest, lead=lead)
    if len(found) < 2:
        return contest
    first, second, *others = (one.cell for one in found)
    difference = compare_cells(first, second)
    outcome = "majority" if lead else outcome_of(difference, first)
    leads = [compare_cells(first, other) for other in others]
    contest = replace(contest, outcome=outcome, difference=difference, others=tuple(zip(found[2:], leads, strict=True)))
    return replace(contest, outcome="ahead") if outcome == "win" and contest.unbeaten else contest


def _no_lead(found: Sequence[Contender], largest: Baseline) -> Difference | None:
    """Return the lead of the first contender over the largest class; None if some contender surely leads it.

    Also None if the interval of some contender's lead is unknown.
    """
    first = None
    for one in found:
        ahead = baseline.lead(repeats(one.cell), largest)
        if ahead is None or ahead.interval is None or ahead.interval.low > 0:
            return None
        first = first or ahead
    return first


def _contenders(key: str, results: Sequence[Result]) -> tuple[Contender, ...]:
    """Return the best cell of each value of `key`, with the number of cells of that value that were tried."""
    found, best = cells(results), dict[str, Cell]()
    tried = Counter(
        repr(cell.choices.get(key))
        for cell in found
        if trial_tags.CONFIRMS not in cell.choices and any(run.status in ("FINISHED", "FAILED") for run in cell.results)
    )
    for cell in finalists(found):
        if not math.isnan(cell.mean(cell.by.val) + cell.mean(cell.by.test)):
            best.setdefault(repr(cell.choices.get(key)), cell)
    return tuple(
        Contender(_name(key, value := cell.choices.get(key)), value, cell, tried[repr(value)], test_interval(cell))
        for cell in best.values()
    )


def _name(key: str, value: object) -> str:
    if key != "freeze_mode":
        return f"{key}={value_text(value)}"
    return f"{PLAIN[value]} ({value})" if isinstance(value, str) and value in PLAIN else str(value)


def outcome_of(difference: Difference, winner: Cell) -> str:
    """Return `win`, `tie`, `undecided` or `contradiction` for the first of two contenders, whose cell is `winner`."""
    within, gap = difference.interval, abs(difference.gap)
    images = [repeat.images for repeat in repeats(winner)]  # folds split the images, seeds share them
    counted = (sum(images) if winner.folds else images[0]) if winner.by == ACCURACY else 0
    if gap * counted < 1 - 1e-9 if counted else gap < 1e-9:  # less than one image
        return "tie"
    if within is None:
        return "undecided"
    if 0 in within:
        return "tie" if max(-within.low, within.high) < _TIE else "undecided"
    return "win" if winner.by.better(difference.gap, 0) else "contradiction"


def capital(name: str) -> str:
    """Return the name of a contender at the beginning of a sentence."""
    return name[0].upper() + name[1:] if name.split(" (")[0] in PLAIN.values() else name
