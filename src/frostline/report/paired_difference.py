"""Difference of two cells with its 95% interval: over folds, or over seeds and the images of the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from frostline.core.metrics import ACCURACY, LOSS, Metric
from frostline.report import predictions, statistics
from frostline.report.metric_scores import Array
from frostline.report.predictions import Predictions
from frostline.report.statistics import Bools, Interval, Ints


@dataclass(frozen=True)
class Repeat:
    """The result of one seed on the test or validation split, or of one fold or draw of training images."""

    seed: object
    """The seed, or the number of the fold or draw."""
    value: float
    """The score, in the metric that selects cells."""
    images: int
    """Number of images; 0 where it is not known."""
    folders: tuple[str, ...]
    """The folders of its runs, several for a fold or draw with several seeds; none on validation, which keeps none."""
    margin: float | None = None
    """On validation, in a metric other than accuracy: half of the 95% interval over images, the mean over repeats."""
    overlap: float | None = None
    """For a fold, see `statistics.t_interval`; else None."""
    kind: str = "seed"
    """`seed`, `fold` or `draw`."""
    depends_on_seed: bool = True
    """Whether the seed affects the result."""
    groups: int = 0
    """Number of groups of the test images; 0 where each image is its own group."""
    effective: float | None = None
    """Number of independent images that images in groups are worth, see `statistics.effective_images`; else None."""

    @property
    def counts(self) -> tuple[float, float]:
        """Number of right images, and of all, for an interval; of images in groups, as many as they are worth."""
        images = self.images if self.effective is None else self.effective
        return self.value * images, images


@dataclass(frozen=True)
class Difference:
    """First minus second, on the test split."""

    gap: float
    scores: tuple[float, float]
    """The two values: means over all seeds, or of the one seed where only one pair is compared."""
    interval: Interval | None
    """None where nothing is known but the two values."""
    how: str
    """The method of the interval, in words."""
    seeds: int
    """Number of seeds, or folds, of the side that has fewer."""
    paired: bool
    """Whether seeds, folds or images were compared in pairs."""
    folds: bool = False
    """Whether folds were compared."""
    over_seeds: Interval | None = None
    over_images: Interval | None = None
    """The intervals over seeds and over the shared test images, if `interval` combines both; else None."""


def interval(repeats: Sequence[Repeat], by: Metric) -> Interval | None:
    """Return the interval of the mean of `by`: over folds, or over test images, and over seeds if there are several.

    None without repeats, and for a single one of which only the value is known.
    """
    if not repeats:
        return None
    repeats = distinct(repeats)
    if len(repeats) == 1:
        found = _over_images(repeats, by)
    else:
        overlap = repeats[0].overlap
        found = statistics.t_interval([one.value for one in repeats], _least_deviation(repeats, by), overlap or 0.0)
        if overlap is None and (images := _over_images(repeats, by)):
            found = statistics.added(_mean(repeats), found, images)
    return statistics.clamped(found) if found and by != LOSS else found


def _over_images(repeats: Sequence[Repeat], by: Metric) -> Interval | None:
    """Return the interval of the mean of `by` over the test or validation images, which all repeats share."""
    if by == ACCURACY:
        right, total = (fmean(counts) for counts in zip(*(one.counts for one in repeats), strict=True))
        return statistics.wilson(right, total) if total else None
    if (margin := repeats[0].margin) is not None:
        return Interval(_mean(repeats) - margin, _mean(repeats) + margin)
    said = predictions.read_alike(folder for one in repeats for folder in one.folders)
    found = _influences(repeats, said, by)
    return None if found is None else statistics.by_influence(_mean(repeats), *found, said[0].groups)


def _influences(repeats: Sequence[Repeat], said: Sequence[Predictions], by: Metric) -> tuple[Array, float] | None:
    """Return the influence `(repeats, N)` of each image, and the least error; None where they are unknown.

    That on a repeat is the mean over its runs. If some runs are not among `said`, it is `(1, N)`, the mean over all.
    """
    found = predictions.influences(said, by) if said else None
    if found is None:
        return None
    ends = np.cumsum([len(one.folders) for one in repeats])
    parts = np.split(found[0], ends[:-1]) if ends[-1] == len(said) else [found[0]]
    return np.array([runs.mean(0) for runs in parts]), found[1]


def compare(first: Sequence[Repeat], second: Sequence[Repeat], by: Metric) -> Difference:
    """Return the difference of two cells in `by`, with the interval that their seeds and test images allow.

    Equal seeds on both sides share splits, batch order and test images, and are compared in pairs. The spread of their
    differences predicts further seeds on these images; the error over images is added, since the verdict is about
    other images, too. In simulations, 95% intervals over two to ten seeds alone hold the truth 67 to 97 times in 100,
    these 93 to 98 times. If a side has one seed only, or neither depends on the seed, one seed is compared, paired by
    image. Folds are compared in pairs of the same fold, and a single common fold by image.
    """
    if not any(repeat.depends_on_seed for repeat in (*first, *second)):
        first, second = distinct(first), distinct(second)
    if first[0].overlap is not None and second[0].overlap is not None:
        return _over_folds(first, second, by)
    kind = first[0].kind if first[0].kind == second[0].kind else "run"
    scores = (_mean(first), _mean(second))
    gap, fewer = scores[0] - scores[1], min(len(first), len(second))
    if fewer == 1:
        of_one_seed = ((one, other) for one in first for other in second if one.seed == other.seed)
        pair = next(of_one_seed, (first[0], second[0]))
        return _one_seed(*pair, by, which=f"one {kind}" if len(first) == len(second) else _which(*pair))
    mine, theirs = ({repeat.seed: repeat for repeat in repeats} for repeats in (first, second))
    least, same = _least_deviation([*first, *second], by), mine.keys() == theirs.keys()
    if same:
        second = [theirs[seed] for seed in mine]
        within = statistics.t_interval([a.value - b.value for a, b in zip(mine.values(), second, strict=True)], least)
        how = f"{fewer} {kind}s, paired t-interval"
    else:
        within = statistics.welch([one.value for one in first], [one.value for one in second], least)
        how = f"{len(first)} and {len(second)} {kind}s, Welch's t-interval"
    found = Difference(gap, scores, within, how, fewer, same)
    images = _image_by_image([*mine.values()], second, by, gap, seeds=same)
    if images is None or images[0] is None:
        return found
    whole = statistics.added(gap, within, images[0])
    return replace(found, interval=whole, how=f"{how} and {images[1]}", over_seeds=within, over_images=images[0])


def distinct(repeats: Sequence[Repeat]) -> Sequence[Repeat]:
    """Return the repeats that carry information: only the first one if the seeds do not change the result."""
    return repeats if repeats[0].depends_on_seed or repeats[0].overlap is not None else repeats[:1]


def _over_folds(first: Sequence[Repeat], second: Sequence[Repeat], by: Metric) -> Difference:
    """Return the difference over the folds that both sides have."""
    mine, theirs = ({repeat.seed: repeat for repeat in repeats} for repeats in (first, second))
    pairs = [(mine[fold], theirs[fold]) for fold in mine if fold in theirs]
    if len(pairs) == 1:
        return _one_seed(*pairs[0], by, which=_which(*pairs[0]))
    if pairs:
        first, second = ([*side] for side in zip(*pairs, strict=True))
    scores = (_mean(first), _mean(second))
    gap, fewer = scores[0] - scores[1], min(len(first), len(second))
    if not pairs:  # the sides have different test images, so that differences between folds are not noise
        return Difference(gap, scores, None, "no fold in common", fewer, False, folds=True)
    least = _least_deviation([*first, *second], by)
    within = statistics.t_interval([one.value - two.value for one, two in pairs], least, first[0].overlap or 0.0)
    how = f"{fewer} folds, paired t-interval corrected for their overlap"
    return Difference(gap, scores, within, how, fewer, True, folds=True)


def _which(first: Repeat, second: Repeat) -> str:
    """Return words for the one seed, fold or draw that was compared, e.g. `seed 1 alone`."""
    if first.kind != second.kind:
        return "one run of each"
    one, two = (f"{repeat.kind} {repeat.seed}" for repeat in (first, second))
    return f"{one} alone" if one == two else f"{one} against {two}"


def _one_seed(first: Repeat, second: Repeat, by: Metric, *, which: str) -> Difference:
    scores, gap = (first.value, second.value), first.value - second.value
    if found := _image_by_image([first], [second], by, gap):
        return Difference(gap, scores, found[0], f"{which}, {found[1]}", 1, True)
    if by == ACCURACY and first.images and second.images:
        (right, total), (others, of) = first.counts, second.counts
        within = statistics.unpaired((right, total), (others, of)) if total and of else None
        return Difference(gap, scores, within, f"{which}, {_tested(first, second)}, not paired", 1, False)
    return Difference(gap, scores, None, which, 1, False)


def _tested(first: Repeat, second: Repeat) -> str:
    """Return the test images of two repeats in words."""
    one, two = (
        f"{repeat.images:,} test images{f' in {repeat.groups:,} groups' if repeat.groups else ''}"
        for repeat in (first, second)
    )
    return f"{one} each" if one == two else f"{one} and {two}"


def _image_by_image(
    first: Sequence[Repeat], second: Sequence[Repeat], by: Metric, gap: float, *, seeds: bool = False
) -> tuple[Interval | None, str] | None:
    """Return the interval over images of the difference `gap` of two means over repeats, and its method in words.

    With `seeds`, which are paired, it leaves out the variance that an interval over seeds already contains. None where
    predictions are missing, or are not of the same images.
    """
    folders = [[folder for one in repeats for folder in one.folders] for repeats in (first, second)]
    one, two = map(predictions.read_alike, folders)
    if not (one and two) or [*map(len, folders)] != [len(one), len(two)] or not np.array_equal(one[0].ids, two[0].ids):
        return None
    images, groups = over(one[0].ids, one[0].groups), one[0].groups
    if by == ACCURACY and len(one) == len(two) == 1:
        within, how = paired(one[0].right, two[0].right, groups)
        return within, f"{how} {images}"
    mine, other = _influences(first, one, by), _influences(second, two, by)
    if mine is None or other is None:
        return None
    apart = mine[0] - other[0] if seeds else mine[0].mean(0) - other[0].mean(0)
    return statistics.by_influence(gap, apart, mine[1], groups), f"paired jackknife {images}"


def paired(
    first: Bools, second: Bools, groups: Ints | None, level: float = statistics.LEVEL
) -> tuple[Interval | None, str]:
    """Return the interval of the difference of two accuracies, paired by image, and its method in words.

    `first` and `second` are `(N,)`: whether each network got each image right.
    """
    if groups is None:
        return statistics.paired_bootstrap(first, second, level=level), "paired bootstrap"
    return statistics.paired_jackknife(first, second, groups, level), "paired jackknife"


def over(ids: Ints, groups: Ints | None) -> str:
    """Return the images of an interval in words: `over 359 test images` or `over 359 test images in 24 groups`."""
    images = f"{len(ids):,} test images"
    if groups is None:
        return f"over {images}"
    count = len(np.unique(groups))
    return f"over {images} in {count:,} groups" if count > 1 else f"over {images}, all of one group"


def _mean(repeats: Sequence[Repeat]) -> float:
    return sum(repeat.value for repeat in repeats) / len(repeats)


def _least_deviation(repeats: Sequence[Repeat], by: Metric) -> float:
    """Return the smallest plausible standard deviation, that of counting whole test images; 0 for a loss."""
    return 0.0 if by == LOSS else max(statistics.rounding_deviation(repeat.images) for repeat in repeats)
