"""Coverage of the confidence intervals, and their agreement with published and hand-computed values."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import f1_score

from frostline.core.metrics import MACRO_F1
from frostline.report import statistics
from frostline.report.calibration import calibration
from frostline.report.metric_scores import measure
from frostline.report.statistics import Interval, paired_bootstrap, t_interval, unpaired, welch, wilson

SIMULATIONS = 1500  # coverage of 95% intervals is then known to +-1.1 points
rng = np.random.default_rng


def coverage(intervals: list[Interval], truth: float) -> float:
    return sum(truth in interval for interval in intervals) / len(intervals)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "only_first", "only_second"),
    [(360, 0.035, 0.01), (1000, 0.01, 0.01), (360, 0.01, 0.001)],
)
def test_paired_bootstrap_has_95_percent_coverage(images, only_first, only_second, monkeypatch):
    monkeypatch.setattr(statistics, "_DRAWS", 2000)
    random, found = rng(0), []
    for seed in range(SIMULATIONS):
        draw = random.random(images)
        neither = random.random(images) < 0.03
        first = (draw >= only_second) & ~(neither & (draw > only_first + only_second))
        second = (draw < only_second) | (first & (draw >= only_first + only_second))
        found.append(paired_bootstrap(first, second, seed))
    assert 0.93 <= coverage(found, only_first - only_second) <= 0.97


@pytest.mark.parametrize("truth", [0.0, 0.02])
@pytest.mark.parametrize("seeds", [2, 5])
def test_seed_intervals_have_95_percent_coverage(truth, seeds):
    random = rng(1)
    first = random.normal(0.9 + truth, 0.01, (SIMULATIONS, seeds))
    second = random.normal(0.9, 0.01, (SIMULATIONS, seeds))
    assert 0.93 <= coverage([t_interval(a - b) for a, b in zip(first, second, strict=True)], truth) <= 0.97
    unlike = random.normal(0.9, 0.03, (SIMULATIONS, 6))
    assert 0.93 <= coverage([welch(a, b) for a, b in zip(first, unlike, strict=True)], truth) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "spread"), [(2, 3.0), (3, 0.8), (3, 2.0), (5, 0.5), (5, 2.0)])
def test_few_seed_intervals_cover_despite_rounding_to_images(seeds, spread):
    random, images = rng(6), 359
    truth = random.uniform(-3, 3, (2 * SIMULATIONS, 1))  # images
    right = [np.round(random.normal(300 + add, spread, (2 * SIMULATIONS, seeds))) for add in (truth, 0)]
    found = [t_interval(a, statistics.rounding_deviation(images)) for a in (right[0] - right[1]) / images]
    covered = sum(float(value) / images in one for value, one in zip(truth[:, 0], found, strict=True)) / len(found)
    assert 0.94 <= covered <= 0.975


def test_seeds_to_resolve_use_their_own_t_quantile():
    values = np.array([0.01, 0.03, -0.01])  # mean 1, deviation 2 points: t(17) 2 / sqrt(18) is the first below 1
    assert statistics.seeds_to_resolve(0.01, t_interval(values), 3, paired=True) == 18
    assert statistics.seeds_to_resolve(1e-9, t_interval(values), 3, paired=True) == 10_000
    assert statistics.seeds_to_resolve(-0.5, t_interval(values), 3, paired=True) == 2
    half = stats.t.ppf(0.975, 4) * 0.02 / np.sqrt(3)  # of two sides with three seeds each
    enough = next(n for n in range(2, 99) if stats.t.ppf(0.975, 2 * (n - 1)) * 0.02 / np.sqrt(n) <= 0.01)
    assert statistics.seeds_to_resolve(-0.01, Interval(-half, half), 3, paired=False) == enough < 18


def test_step_is_the_deviation_from_rounding_to_images():
    accuracies = rng(9).random(100_000)
    for images in (7, 100):
        rounded = np.round(accuracies * images) / images
        assert statistics.rounding_deviation(images) == pytest.approx((rounded - accuracies).std(), rel=0.01)
    assert statistics.rounding_deviation(0) == 0


def test_independent_errors_add_up_on_either_side():
    found = statistics.added(1.0, Interval(0.7, 1.05), Interval(0.6, 1.12))
    assert (found.low, found.high) == pytest.approx((0.5, 1.13))


def test_level_of_several_comparisons_shares_the_error():
    assert [statistics.bonferroni_level(count) for count in (0, 1, 5)] == pytest.approx([0.95, 0.95, 0.99])


def test_wilson_interval_has_95_percent_coverage():
    random = rng(2)
    for truth in (0.5, 0.9, 0.97):
        found = [wilson(int(right), 359) for right in random.binomial(359, truth, SIMULATIONS)]
        assert 0.93 <= coverage(found, truth) <= 0.97


def test_intervals_equal_published_and_scipy_values():
    first, second = (56, 70), (48, 80)
    found = unpaired(first, second)  # Newcombe 1998, table II (a)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    found = wilson(81, 263)  # the same, of a single proportion
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    for right, total in ((0, 10), (1, 3), (499, 1000), (359, 359)):
        low, high = stats.binomtest(right, total).proportion_ci(method="wilson")
        assert (wilson(right, total).low, wilson(right, total).high) == pytest.approx((low, high), abs=1e-12)
    values = [0.91, 0.93, 0.92, 0.95]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (t_interval(values).low, t_interval(values).high) == pytest.approx((low, high))
    other = [0.90, 0.88, 0.91]
    expected = stats.ttest_ind(values, other, equal_var=False).confidence_interval(0.95)
    assert (welch(values, other).low, welch(values, other).high) == pytest.approx((expected.low, expected.high))


def test_clamped_interval_stays_within_0_and_1():
    assert statistics.clamped(t_interval([0.3, 0.9])) == Interval(0.0, 1.0)


def test_equal_seeds_keep_a_positive_interval_width():
    assert t_interval([0.01, 0.01, 0.01]) == Interval(pytest.approx(0.01), pytest.approx(0.01))
    found = t_interval([0.01, 0.01, 0.01], least=1 / 360)
    assert found.low < 0.01 - 1 / 360


def test_equal_values_of_two_sides_have_the_least_width():
    found = welch([0.9, 0.9], [0.7, 0.7, 0.7], least=0.01)
    half = stats.t.ppf(0.975, (1 / 2 + 1 / 3) ** 2 / (1 / 4 + 1 / 18)) * 0.01 * np.sqrt(1 / 2 + 1 / 3)
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half))
    assert welch([0.9, 0.9], [0.7, 0.7]) == Interval(pytest.approx(0.2), pytest.approx(0.2))  # losses have no least one


def test_equal_models_keep_a_positive_bootstrap_width():
    same = np.ones(360, bool)
    found = paired_bootstrap(same, same)
    assert 0.0 in found and 0 < found.high < 0.015 and found.low == pytest.approx(-found.high, abs=0.003)


def test_bootstrap_is_deterministic_and_antisymmetric():
    first, second = rng(3).random((2, 500)) < 0.8
    assert paired_bootstrap(first, second) == paired_bootstrap(first, second)
    found, back = paired_bootstrap(first, second), paired_bootstrap(second, first)
    assert (found.low, found.high) == pytest.approx((-back.high, -back.low), abs=0.006)


def test_paired_bootstrap_of_many_images_equals_a_plain_one():
    draw = rng(7).random(1000)
    first, second = draw > 0.1, (draw < 0.06) | (draw > 0.13)
    apart = first.astype(float) - second
    drawn = apart[rng(8).integers(0, 1000, (4000, 1000))].mean(1)
    for level in (0.95, 0.99):
        found, (low, high) = (
            paired_bootstrap(first, second, level=level),
            np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2]),
        )
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_paired_jackknife_without_groups_pairs_images():
    first, second = rng(5).choice([0.0, 0.5, 1.0], (2, 2000))
    found, differences = statistics.paired_jackknife(first, second, None), first - second
    half = 1.96 * np.hypot(stats.sem(differences, ddof=0), 1 / 2000)
    assert (found.low, found.high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=1e-5)


def test_calibration_equals_hand_computation():
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    found = calibration(chances.max(1), chances.argmax(1) == np.array([0, 1, 1, 1]))
    assert found.ece == pytest.approx((abs(1 - 1.8) + 0.4 + 0.2) / 4)
    assert sum(found.counts) == 4 and found.counts[13] == 2
    assert found.accuracy[13] == 0.5 and found.confidence[13] == pytest.approx(0.9)
    assert np.isnan(found.accuracy[0])
    ends = calibration(np.array([0.0, 0.2, 1.0]), np.array([True] * 3))  # a bin contains its upper end, the first both
    assert np.flatnonzero(ends.counts).tolist() == [0, 2, 14]


def test_only_a_calibrated_model_has_low_ece():
    random = rng(4)
    logits = random.normal(0, 2, (40_000, 3))
    chances, bolder = (softmax(scale * logits, axis=1) for scale in (1, 3))
    right = (chances.cumsum(1) > random.random((len(logits), 1))).argmax(1) == logits.argmax(1)
    assert calibration(chances.max(1), right).ece < 0.01
    assert calibration(bolder.max(1), right).ece > 0.1


def test_fold_interval_is_corrected_for_shared_training_images():
    values = [0.80, 0.84, 0.79, 0.85, 0.82]
    found = statistics.t_interval(values, overlap=1 / 4)
    half = stats.t.ppf(0.975, 4) * np.std(values, ddof=1) * np.sqrt(1 / 5 + 1 / 4)
    assert (found.low, found.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))


def test_corrected_fold_intervals_cover_where_plain_ones_do_not():
    """The difference of two nearest-mean classifiers, one of which sees more features, over five folds of 60 points."""
    random = np.random.default_rng(0)
    means = np.array([[0.0] * 6, [0.7, 0.7, 0.3, 0.3, 0.0, 0.0]])

    def draw(count):
        labels = np.arange(count) % 2
        return means[labels] + random.normal(size=(count, 6)), labels

    def gap(train, test):
        right = []
        for features in (2, 6):
            centres = np.stack([train[0][train[1] == k, :features].mean(0) for k in (0, 1)])
            distance = ((test[0][:, None, :features] - centres) ** 2).sum(2)
            right.append((distance.argmin(1) == test[1]).mean())
        return right[0] - right[1]

    truth = np.mean([gap(draw(48), draw(2000)) for _ in range(300)])
    covered = {0.0: [], 1 / 4: []}
    for _ in range(300):
        x, y = draw(60)
        folds = random.permutation(60).reshape(5, 12)
        gaps = []
        for fold in folds:
            rest = np.setdiff1d(np.arange(60), fold)
            gaps.append(gap((x[rest], y[rest]), (x[fold], y[fold])))
        for overlap, found in covered.items():
            found.append(truth in statistics.t_interval(gaps, 0.0, overlap))
    plain, corrected = (np.mean(found) for found in covered.values())
    assert corrected >= 0.94 and plain < corrected - 0.03


def grouped_predictions(random, count, *, right=0.85, shared=0.5, noise=0.2):
    """Return which images two networks get right, `(N,)` bool each, and the groups of the images.

    There are `count` groups of 1 to 20 images. `shared` is the share of an image's difficulty that its group has in
    common, `noise` the variance by which the networks differ, mostly by whole groups.
    """
    groups = np.repeat(np.arange(count), random.integers(1, 21, count))

    def mixture(by_group):
        one, each = random.normal(size=count)[groups], random.normal(size=len(groups))
        return np.sqrt(by_group) * one + np.sqrt(1 - by_group) * each

    hard, limit = mixture(shared), stats.norm.ppf(right) * np.sqrt(1 + noise)
    return *(hard + np.sqrt(noise) * mixture(0.7) < limit for _ in range(2)), groups


def group_jackknife(value, groups):
    """Return value, standard error and t quantile of a function of the kept images, by a jackknife over groups."""
    found, names = value(np.full(len(groups), True)), np.unique(groups)
    without = np.array([value(groups != name) for name in names])
    error = np.sqrt((len(names) - 1) / len(names) * ((without - found) ** 2).sum())
    shares = np.unique(groups, return_counts=True)[1] / len(groups)
    return found, error, stats.t.ppf(0.975, 1 / (shares**2).sum() - 1)


def test_grouped_images_use_a_jackknife_over_groups():
    first, second, groups = grouped_predictions(rng(0), 15)
    gap, error, quantile = group_jackknife(lambda kept: first[kept].mean() - second[kept].mean(), groups)
    found, half = statistics.paired_jackknife(first, second, groups), quantile * np.hypot(error, 1 / len(groups))
    assert found is not None and (found.low, found.high) == pytest.approx((gap - half, gap + half))
    labels = np.arange(len(groups)) % 3
    predicted = np.where(first, labels, (labels + 1) % 3)
    f1 = partial(f1_score, average="macro")
    value, error, quantile = group_jackknife(lambda kept: f1(labels[kept], predicted[kept]), groups)
    measured = measure(MACRO_F1, labels, predicted)
    within = statistics.by_influence(measured.value, measured.influence, groups=groups)
    assert within.high - value == pytest.approx(quantile * error, rel=0.1)  # F1 is no mean: equal to first order


def test_jackknife_over_many_groups_equals_cluster_bootstrap():
    first, second, groups = grouped_predictions(rng(1), 300)
    sums, sizes = np.bincount(groups, first.astype(float) - second), np.bincount(groups)
    draws = rng(2).multinomial(300, np.full(300, 1 / 300), 4000)
    low, high = np.quantile((draws @ sums) / (draws @ sizes), (0.025, 0.975))
    found = statistics.paired_jackknife(first, second, groups)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))
    images = paired_bootstrap(first, second)
    assert high - low > 1.3 * (images.high - images.low)


@pytest.mark.parametrize("count", [12, 60])
def test_group_intervals_cover_where_image_intervals_do_not(count):
    random, covered = rng(3), {"groups": [], "images": [], "one": [], "one by images": []}
    for _ in range(400):
        first, second, groups = grouped_predictions(random, count)
        covered["groups"].append(0 in statistics.paired_jackknife(first, second, groups))
        differences = first.astype(float) - second
        gap, least = differences.mean(), 1 / len(differences)
        covered["images"].append(0 in statistics.by_influence(gap, differences - gap, least))
        worth = statistics.effective_images(first, groups)
        covered["one"].append(0.85 in wilson(first.mean() * worth, worth))
        covered["one by images"].append(0.85 in wilson(int(first.sum()), len(first)))
    share = {name: np.mean(found) for name, found in covered.items()}
    assert 0.92 <= share["groups"] <= 0.99 and 0.89 <= share["one"] <= 0.99, share
    assert share["images"] < 0.85 and share["one by images"] < 0.75, share


def test_intervals_cover_with_very_unequal_groups():
    """Two of 60 groups have half of the images, so the effective number of groups is eight."""
    random, groups = rng(5), np.repeat(np.arange(60), [290, 290, *[10] * 58])
    covered: dict[str, list[bool]] = {"difference": [], "one": []}
    for _ in range(600):
        chances = random.dirichlet((0.9, 0.9, 7.2), 60)[groups].cumsum(1)  # only the first errs, only the second, none
        draw = random.random(len(groups))
        first, second = draw >= chances[:, 0], (draw < chances[:, 0]) | (draw >= chances[:, 1])
        covered["difference"].append(0 in statistics.paired_jackknife(first, second, groups))
        worth = statistics.effective_images(first, groups)
        covered["one"].append(0.9 in wilson(first.mean() * worth, worth))
    share = {name: np.mean(found) for name, found in covered.items()}
    assert share["difference"] >= 0.94 and share["one"] >= 0.93, share  # with 59 degrees of freedom both are 0.91


def test_degrees_of_freedom_are_at_least_one():
    groups = np.repeat(np.arange(9), [992, *[1] * 8])
    within = statistics.by_influence(0.0, np.zeros(1000), 0.001, groups)
    assert within.high == pytest.approx(0.001 * stats.t.ppf(0.975, 1))  # not with 0.02 degrees of freedom


def test_effective_images_count_independent_ones():
    random = rng(4)
    right = random.random(40) < 0.8
    student = (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 39)) ** 2
    copies = statistics.effective_images(np.repeat(right, 7), np.repeat(np.arange(40), 7))
    assert copies == pytest.approx(39 * student)  # the images of a group agree
    first, _, groups = grouped_predictions(random, 25)
    _, error, quantile = group_jackknife(lambda kept: first[kept].mean(), groups)
    expected = first.mean() * (1 - first.mean()) / error**2 * (stats.norm.ppf(0.975) / quantile) ** 2
    assert statistics.effective_images(first, groups) == pytest.approx(expected)
    twice = statistics.effective_images(np.tile(first, 2), np.tile(groups, 2), 2)  # two seeds
    assert twice == pytest.approx(expected)
    alternating = np.arange(200) % 2 == 0  # groups have equal shares, which is no better than independent images
    most = 200 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 19)) ** 2
    assert statistics.effective_images(alternating, np.arange(200) // 10) == pytest.approx(most)
    both = statistics.effective_images(np.tile(alternating, 2), np.tile(np.arange(200) // 10, 2), 2)
    assert both == pytest.approx(most)


def test_all_right_counts_groups_and_one_group_is_undefined():
    right, groups = np.full(60, True), np.arange(60) // 6
    student = (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 9)) ** 2
    for one in (right, ~right):
        assert statistics.effective_images(one, groups) == pytest.approx(10 * student)
    halves = (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 1)) ** 2
    assert statistics.effective_images(right, (groups > 4).astype(int)) == pytest.approx(2 * halves)
    found = statistics.paired_jackknife(right, right, groups)
    assert 0 in found and found.high == -found.low == pytest.approx(stats.t.ppf(0.975, 9) / 60)
    assert statistics.effective_images(right, groups * 0) == 0
    assert statistics.paired_jackknife(right, ~right, groups * 0) is None
    two = statistics.paired_jackknife(right, groups > 4, (groups > 4).astype(int))
    assert (two.low, two.high) == (-1.0, 1.0)
