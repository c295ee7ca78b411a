"""One point of the grid against another: over seeds where there are several, else over the images of the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from frostline.core.metrics import ACCURACY, LOSS, Metric
from frostline.report import predictions, statistics
from frostline.report.metric_scores import Array, Measured
from frostline.report.predictions import Predictions
from frostline.report.statistics import Interval, Ints


@dataclass(frozen=True)
class Repeat:
    """How one seed did on the test split, or one fold of a cross-validation."""

    seed: object
    """Or the number of the fold."""
    value: float
    """Of what cells are chosen by."""
    images: int
    """Number of test images; 0 where it is not known."""
    folders: tuple[str, ...]
    """Of its run; of a fold those of all its seeds."""
    overlap: float | None = None
    """Of a fold: see `statistics.t_interval`; None for a seed."""
    draws: bool = True
    """Whether its seed had any part in it."""
    groups: int = 0
    """Number of groups that its test images are of; 0 where each is its own."""
    effective: float = 0.0
    """How many independent images they are then worth: see `statistics.effective_images`."""

    @property
    def counts(self) -> tuple[float, float]:
        """How many of the test images were right, and of how many, for an interval; of groups what they are worth."""
        if self.groups:
            return self.value * self.effective, self.effective
        return round(self.value * self.images), self.images


@dataclass(frozen=True)
class Difference:
    """First minus second, on the test split."""

    gap: float
    scores: tuple[float, float]
    """The two values: means over all seeds, or where a side has one seed only, of that seed."""
    interval: Interval | None
    """None where nothing is known but the two values."""
    how: str
    """Where the interval comes from, in words."""
    seeds: int
    """Number of seeds of the side that has fewer."""
    paired: bool
    """Whether seeds, folds, or the images of one, were compared one by one."""
    folds: bool = False
    """Whether they were folds."""


def interval(repeats: Sequence[Repeat], by: Metric) -> Interval | None:
    """Return the interval of the mean of `by`: over seeds, or over the test images of the only one."""
    repeats = _distinct(repeats)
    if len(repeats) > 1:
        overlap = repeats[0].overlap or 0.0
        found: Interval | None = statistics.t_interval([one.value for one in repeats], _step(repeats, by), overlap)
    elif by == ACCURACY:
        right, total = repeats[0].counts
        return statistics.wilson(right, total) if total else None
    elif (said := predictions.read_alike(repeats[0].folders)) and (measured := _measured(said, by)):
        found = statistics.by_influence(measured.value, measured.influence, measured.least, said[0].groups)
    else:
        return None
    return statistics.clamped(found) if found and by != LOSS else found


def _measured(said: Sequence[Predictions], by: Metric) -> Measured | None:
    """Return what `by` is of a run, or the mean of several; None where it cannot be told of one of them."""
    found = [one.measured(by) if len(one.ids) else None for one in said]
    known = [one for one in found if one]
    if len(known) < len(found):
        return None
    value, influence = float(np.mean([one.value for one in known])), np.mean([one.influence for one in known], axis=0)
    return Measured(value, influence, known[0].least)


def compare(first: Sequence[Repeat], second: Sequence[Repeat], by: Metric) -> Difference:
    """Return the difference of two cells in `by`, with the interval that their seeds allow.

    Seeds that are the same on both sides share splits, order and test images, and are compared one by one. Where a
    side has one seed only, or neither draws anything by them, one alone is compared, image by image. So are folds of a
    cross-validation.
    """
    if not any(repeat.draws for repeat in (*first, *second)):
        first, second = _distinct(first), _distinct(second)
    scores = (_mean(first), _mean(second))
    gap, fewer = scores[0] - scores[1], min(len(first), len(second))
    if first[0].overlap is not None and second[0].overlap is not None:
        both = {repeat.seed for repeat in first} & {repeat.seed for repeat in second}
        if len(both) > 1:
            one, two = ([repeat for repeat in repeats if repeat.seed in both] for repeats in (first, second))
            return _over_folds(one, two, by)
        if not both:  # each side has other pictures, and how folds differ is no chance
            return Difference(gap, scores, None, "no fold that both have", fewer, False, folds=True)
        (first, second) = ([repeat for repeat in repeats if repeat.seed in both] for repeats in (first, second))
        return _one_seed(first[0], second[0], by, which=_which(first[0], second[0]))
    if fewer == 1:
        of_one_seed = ((one, other) for one in first for other in second if one.seed == other.seed)
        pair = next(of_one_seed, (first[0], second[0]))
        return _one_seed(*pair, by, which="one seed" if len(first) == len(second) else _which(*pair))
    mine, theirs = ({repeat.seed: repeat.value for repeat in repeats} for repeats in (first, second))
    least = max(_step(first, by), _step(second, by))
    if mine.keys() == theirs.keys():
        differences = [value - theirs[seed] for seed, value in mine.items()]
        within = statistics.t_interval(differences, least)
        return Difference(gap, scores, within, f"{fewer} seeds, paired t-interval", fewer, True)
    within = statistics.welch(list(mine.values()), list(theirs.values()), least)
    how = f"{len(first)} and {len(second)} seeds, Welch's t-interval"
    return Difference(gap, scores, within, how, fewer, False)


def _distinct(repeats: Sequence[Repeat]) -> Sequence[Repeat]:
    """Return the repeats that tell something new: of seeds that draw nothing the first, however many there are."""
    return repeats if repeats[0].draws or repeats[0].overlap is not None else repeats[:1]


def _over_folds(first: Sequence[Repeat], second: Sequence[Repeat], by: Metric) -> Difference:
    """Return the difference over folds that both sides have."""
    two = {repeat.seed: repeat.value for repeat in second}
    differences = [repeat.value - two[repeat.seed] for repeat in first]
    least = max(_step(first, by), _step(second, by))
    within = statistics.t_interval(differences, least, first[0].overlap or 0.0)
    scores, how = (_mean(first), _mean(second)), f"{len(first)} folds, paired t-interval corrected for their overlap"
    return Difference(scores[0] - scores[1], scores, within, how, len(first), True, folds=True)


def _which(first: Repeat, second: Repeat) -> str:
    """Return in words which seed, or fold, was compared where not all could be."""
    one, two = (f"{'seed' if repeat.overlap is None else 'fold'} {repeat.seed}" for repeat in (first, second))
    return f"{one} alone" if one == two else f"{one} against {two}"


def _one_seed(first: Repeat, second: Repeat, by: Metric, *, which: str) -> Difference:
    scores = (first.value, second.value)
    gap = scores[0] - scores[1]
    one, two = predictions.read_alike(first.folders), predictions.read_alike(second.folders)
    if one and two and np.array_equal(one[0].ids, two[0].ids):
        images, groups = over(one[0].ids, one[0].groups), one[0].groups
        if by == ACCURACY:
            within, how = paired(predictions.right_in(one), predictions.right_in(two), groups)
            return Difference(gap, scores, within, f"{which}, {how} {images}", 1, True)
        if (mine := _measured(one, by)) and (other := _measured(two, by)):
            within = statistics.by_influence(gap, mine.influence - other.influence, mine.least, groups)
            return Difference(gap, scores, within, f"{which}, paired jackknife {images}", 1, True)
    if by == ACCURACY and first.images and second.images:
        (right, total), (others, of) = first.counts, second.counts
        within = statistics.unpaired((right, total), (others, of)) if total and of else None
        images = f"{first.images:,} test images{f' in {first.groups:,} groups' if first.groups else ''} each"
        return Difference(gap, scores, within, f"{which}, {images}, not paired", 1, False)
    return Difference(gap, scores, None, which, 1, False)


def paired(
    first: Array, second: Array, groups: Ints | None, level: float = statistics.LEVEL
) -> tuple[Interval | None, str]:
    """Return the interval of the difference of two accuracies, image by image, and how it was found, in words.

    `first` and `second` are as `statistics.paired_jackknife` takes them.
    """
    if groups is None and first.dtype == second.dtype == np.bool_:
        return statistics.paired_bootstrap(first, second, level=level), "paired bootstrap"
    return statistics.paired_jackknife(first, second, groups, level), "paired jackknife"


def over(ids: Ints, groups: Ints | None) -> str:
    """Return in words what an interval is over, e.g. `over 359 test images` or `over 359 test images in 24 groups`."""
    images = f"{len(ids):,} test images"
    if groups is None:
        return f"over {images}"
    count = len(np.unique(groups))
    return f"over {images} in {count:,} groups" if count > 1 else f"over {images}, all of one group"


def _mean(repeats: Sequence[Repeat]) -> float:
    return sum(repeat.value for repeat in repeats) / len(repeats)


def _step(repeats: Sequence[Repeat], by: Metric) -> float:
    """Return the smallest spread to believe in, that of counting whole test images; a loss counts none."""
    return 0.0 if by == LOSS else max((statistics.step(repeat.images) for repeat in repeats), default=0.0)
