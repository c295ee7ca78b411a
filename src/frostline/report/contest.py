"""Who is compared with whom: the best cell of each freeze mode, by validation, and the first two on the test split.

Nothing heavy is imported before there is something to compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from frostline.core.metrics import ACCURACY, LOSS, Metric
from frostline.records import trial_tags
from frostline.records.result import EFFECTIVE, GROUPS, VAL_EFFECTIVE, Result, choices_text, value_text
from frostline.report.cells import FOLD, Cell, cells, finalists, varying

if TYPE_CHECKING:
    from frostline.report.baseline import Baseline
    from frostline.report.paired_difference import Difference, Repeat
    from frostline.report.statistics import Interval

PLAIN = {"head": "feature extraction", "full": "fine-tuning"}
"""What people call some freeze modes."""
_TIE = 0.01  # a difference that is surely below a point is one that nobody needs to look for


@dataclass(frozen=True)
class Contender:
    """The best cell, by validation, of one value of what is compared."""

    name: str
    """For people, e.g. `fine-tuning (full)` or `augment=standard`."""
    value: Any
    cell: Cell
    tried: int
    """Number of cells that it was chosen from, failed ones included."""
    interval: Interval | None
    """Of what it is compared by, on the test split."""


@dataclass(frozen=True)
class Contest:
    """What the runs on one data set came to."""

    where: str
    """Settings of the data, and of `select`, that differ within the sweep, e.g. `data.fraction=0.1`; else empty."""
    by: Metric
    """What cells are chosen by on validation, and compared by on the test split."""
    key: str
    """What is compared: `freeze_mode`, or where there is one only, what else differs."""
    results: tuple[Result, ...]
    contenders: tuple[Contender, ...]
    """Best first, by validation."""
    outcome: str
    """`win`, `ahead` (surely of the second, not of all), `tie`, `undecided`, `contradiction` (validation and test
    disagree), `majority` (nobody surely beats the largest class), `alone`, or `none` finished."""
    difference: Difference | None
    """Of the first two contenders, on the test split."""
    unbeaten: tuple[tuple[Contender, Difference], ...]
    """Where the first one is `ahead`, those that it is not surely before, and by how much it is."""
    baseline: Baseline | None
    """The largest class of the test split; None where no run left its size."""
    lead: Difference | None
    """Of the first contender before the largest class, where no contender is surely before it; else None."""


def contests(results: Sequence[Result]) -> list[Contest]:
    """Return a contest for each data set: runs on different data (`data` and `data.*`) are not comparable.

    Nor are runs that were chosen by different metrics.
    """
    settings = [name for name in varying(results) if name == "select" or _of_data(name)]
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(choices_text(result.choices, settings), []).append(result)
    return [_contest(where, group) for where, group in groups.items()]


def _of_data(name: str) -> bool:
    return name == "data" or (name.startswith("data.") and name != FOLD)


def compared_key(results: Sequence[Result]) -> str:
    """Return what the runs are compared by: the freeze mode, else the first other key that differs, lr at last.

    What was searched is not compared.
    """
    unfit = ("seed", "select", *searched(results))
    others = [name for name in varying(results) if name not in unfit and not name.startswith("data")]
    if "freeze_mode" in others or not others:
        return "freeze_mode"
    return next((name for name in others if name != "lr"), "lr")


def searched(results: Sequence[Result]) -> list[str]:
    """Return the keys that were searched: the choices in which trials of one study differ."""
    studies: dict[str, list[Result]] = {}
    for result in results:
        if trial_tags.TRIAL in (choices := result.choices):
            studies.setdefault(repr((choices[trial_tags.STUDY], choices.get("data"))), []).append(result)
    return list(dict.fromkeys(name for group in studies.values() for name in varying(group)))


def repeats(cell: Cell) -> list[Repeat]:
    """Return the finished seeds of a cell as what a comparison needs to know; of a seed done twice the later one.

    Of a cell that was cross-validated, the folds, each with the mean over its seeds.
    """
    from frostline.report.paired_difference import Repeat

    return [
        Repeat(
            runs[0].choices.get(FOLD if cell.folds else "seed"),
            fmean(run.metrics[cell.by.test] for run in runs),
            runs[0].images.get("test", 0),
            tuple(run.folder for run in (runs if cell.draws else runs[:1])),
            overlap=_overlap(runs[0]) if cell.folds else None,
            draws=cell.draws,
            groups=round(runs[0].metrics.get(GROUPS, 0)),
            effective=runs[0].metrics.get(EFFECTIVE, 0.0),
        )
        for runs in cell.repeats(cell.by.test)
    ]


def _overlap(run: Result) -> float:
    """Return what the training sets of folds share, as `statistics.t_interval` takes it: test images per other one.

    Those of validation count: to choose the epoch is part of what is learned, and they train in other folds. Of
    simulated classifiers whose epoch validation chose by 10 to 50% of what is not test, intervals held the truth 95.7
    to 99.1 times in 100 so, and none needed more; with training images alone they are up to 1.3 times as wide.
    """
    return run.images.get("test", 0) / max(1, run.images.get("train", 0) + run.images.get("val", 0))


def validation_interval(cell: Cell) -> Interval | None:
    """Return the interval of what a cell came to on validation; None if unknown.

    It is over folds, or over images, and over seeds where there are several. Over images accuracy alone is known; of
    images in groups as many are counted as they are worth.
    """
    from frostline.report.statistics import added, clamped, step, t_interval, wilson

    values = cell.values(cell.by.val)
    if not values or any(math.isnan(value) for value in values):
        return None
    if not (cell.draws or cell.folds):  # all seeds say the same
        values = values[:1]
    images = cell.finished[0].images.get("val", 0)
    worth = cell.finished[0].metrics.get(VAL_EFFECTIVE, images)
    over_images = wilson(fmean(values) * worth, worth) if cell.by == ACCURACY and worth else None
    if len(values) == 1:
        return over_images
    overlap = _overlap(cell.finished[0]) if cell.folds else 0.0
    found = t_interval(values, 0.0 if cell.by == LOSS else step(images), overlap)
    if over_images and not cell.folds:
        found = added(fmean(values), found, over_images)
    return found if cell.by == LOSS else clamped(found)


def _contest(where: str, results: Sequence[Result]) -> Contest:
    key = compared_key(results)
    found, by = _contenders(key, results), results[0].selected_by
    if not found:
        return Contest(where, by, key, tuple(results), found, "none", None, (), None, None)
    from frostline.report import baseline
    from frostline.report.paired_difference import compare

    largest = baseline.of(repeats(found[0].cell))
    lead = _no_lead(found, largest) if largest and by == ACCURACY else None
    if len(found) < 2:
        return Contest(where, by, key, tuple(results), found, "alone", None, (), largest, lead)
    difference = compare(repeats(found[0].cell), repeats(found[1].cell), by)
    outcome = "majority" if lead else outcome_of(difference, found[0].cell)
    unbeaten = _unbeaten(found) if outcome == "win" else ()
    outcome = "ahead" if unbeaten else outcome
    return Contest(where, by, key, tuple(results), found, outcome, difference, unbeaten, largest, lead)


def _unbeaten(found: Sequence[Contender]) -> tuple[tuple[Contender, Difference], ...]:
    """Return those behind the second whom the first one is not surely before.

    Validation may have had the one that is as good third: with two of five that are best and alike the first one was
    surely before the second in one sweep of five, and of these the other best one was nearly always among the rest. To
    be before all takes no correction for their number (an intersection-union test, R. Berger 1982).
    """
    from frostline.report.paired_difference import compare

    first = found[0].cell
    others = [(one, compare(repeats(first), repeats(one.cell), first.by)) for one in found[2:]]
    return tuple((one, gap) for one, gap in others if outcome_of(gap, first) != "win")


def _no_lead(found: Sequence[Contender], largest: Baseline) -> Difference | None:
    """Return by how much the first contender is before the largest class; None where anybody surely is, or may be."""
    from frostline.report import baseline

    first = None
    for one in found:
        ahead = baseline.lead(repeats(one.cell), largest)
        if ahead is None or ahead.interval is None or ahead.interval.low > 0:
            return None
        first = first or ahead
    return first


def _contenders(key: str, results: Sequence[Result]) -> tuple[Contender, ...]:
    from frostline.report.paired_difference import interval

    best: dict[str, Cell] = {}
    tried: dict[str, int] = {}
    found = cells(results)
    for cell in found:
        if trial_tags.CONFIRMS not in cell.choices:
            value = repr(cell.choices.get(key))
            tried[value] = tried.get(value, 0) + any(run.status in ("FINISHED", "FAILED") for run in cell.results)
    for cell in finalists(found):
        value = repr(cell.choices.get(key))
        if repeats(cell) and not math.isnan(cell.mean(cell.by.val) + cell.mean(cell.by.test)):
            best.setdefault(value, cell)
    return tuple(
        Contender(_name(key, chosen), chosen, cell, tried.get(value, 0), interval(repeats(cell), cell.by))
        for value, cell in best.items()
        for chosen in [cell.choices.get(key)]
    )


def _name(key: str, value: object) -> str:
    if key != "freeze_mode":
        return f"{key}={value_text(value)}"
    return f"{PLAIN[value]} ({value})" if isinstance(value, str) and value in PLAIN else str(value)


def outcome_of(difference: Difference, winner: Cell) -> str:
    """Return `win`, `tie`, `undecided` or `contradiction` for the first of two, whose cell is `winner`."""
    within, gap = difference.interval, abs(difference.gap)
    images = [repeat.images for repeat in repeats(winner)]  # all of them in folds, the same ones for every seed
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
