"""Metrics equal those of scikit-learn, and their 95% intervals have about that coverage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    multilabel_confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

from frostline.core.metrics import ACCURACY, AUROC, BALANCED_ACCURACY, LOSS, MACRO_F1, MAP, Metric
from frostline.report import confusion_matrix, label_scores, statistics
from frostline.report.metric_scores import Measured, log_odds, measure

SHARES = (0.7, 0.2, 0.1)
METRICS = (BALANCED_ACCURACY, MACRO_F1, MAP, AUROC, LOSS)


def logits_of(labels: Any, random: np.random.Generator, skill: float) -> Any:
    found = random.normal(size=(len(labels), len(SHARES)))
    found[np.arange(len(labels)), labels] += skill
    return found


def measured(metric: Metric, labels: Any, logits: Any) -> Measured | None:
    chances = log_softmax(logits, 1)
    return measure(metric, labels, logits.argmax(1), loss=-chances[np.arange(len(labels)), labels], scores=chances)


def sklearn_value(metric: Metric, labels: Any, logits: Any, weights: Any = None) -> float:
    guessed, chances, present = logits.argmax(1), softmax(logits, 1), np.unique(labels)
    if metric == BALANCED_ACCURACY:
        return float(balanced_accuracy_score(labels, guessed, sample_weight=weights))
    if metric == MACRO_F1:
        return float(f1_score(labels, guessed, average="macro", labels=present, sample_weight=weights))
    if metric == LOSS:
        return float(log_loss(labels, chances, sample_weight=weights, labels=range(logits.shape[1])))
    score = roc_auc_score if metric == AUROC else average_precision_score
    ranks = log_softmax(logits, 1)  # the same input as ours, because softmax may break or create ties
    return float(np.mean([score(labels == k, ranks[:, k], sample_weight=weights) for k in present]))


@pytest.fixture(scope="module")
def labels_and_logits() -> tuple[Any, Any]:
    """Return labels of three unequal classes and logits with ties."""
    random = np.random.default_rng(0)
    labels = random.choice(len(SHARES), 120, p=SHARES)
    return labels, logits_of(labels, random, 1.0).round(1)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_values_equal_sklearn_and_influences_its_derivatives(labels_and_logits: Any, metric: Metric) -> None:
    labels, logits = labels_and_logits
    found = measured(metric, labels, logits)
    assert found is not None and found.value == pytest.approx(sklearn_value(metric, labels, logits), abs=1e-9)
    assert found.influence.mean() == pytest.approx(0, abs=1e-9)
    assert_influences(found, lambda weights: sklearn_value(metric, labels, logits, weights))


def assert_influences(found: Measured, weighted: Callable[[Any], float]) -> None:
    """Assert that each influence is the derivative of the metric by the weight of an image."""
    count = len(found.influence)
    for number in range(0, count, 7):
        moved = []
        for weight in (1 - 1e-4, 1 + 1e-4):
            weights = np.ones(count)
            weights[number] = weight
            moved.append(weighted(weights))
        slope = (moved[1] - moved[0]) / 2e-4 * count
        assert found.influence[number] == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("metric", [MACRO_F1, MAP, AUROC], ids=lambda metric: metric.name)
def test_multi_label_metrics_equal_those_of_sklearn(metric: Metric) -> None:
    random = np.random.default_rng(0)
    labels = random.random((90, 5)) < (0.05, 0.3, 0.6, 0.9, 0)
    labels[7, 4] = True  # a class of a single image
    logits = (random.normal(size=labels.shape) + labels).round(1)  # with ties

    def sklearn_multi_label(weights: Any = None) -> float:
        if metric == MACRO_F1:
            return float(f1_score(labels, logits > 0, average="macro", sample_weight=weights))
        score = roc_auc_score if metric == AUROC else average_precision_score
        return float(score(labels, logits, average="macro", sample_weight=weights))

    found = measure(metric, labels, logits > 0, scores=logits)
    assert found is not None and found.value == pytest.approx(sklearn_multi_label(), abs=1e-9)
    assert found.influence.mean() == pytest.approx(0, abs=1e-9)
    assert_influences(found, sklearn_multi_label)


def test_rows_of_one_class_per_image_equal_sklearn_per_class() -> None:
    labels, said = np.random.default_rng(2).integers(0, 3, (2, 40))
    said[said == 2] = 1  # never named
    rows = label_scores.rows_of_one(confusion_matrix.count(("a", "b", "c", "d"), labels, said))
    expected = precision_recall_fscore_support(labels, said, labels=range(4), zero_division=np.nan)
    for name, values in zip(("precision", "accuracy", "f1", "images"), expected, strict=True):
        assert [np.nan if row[name] is None else row[name] for row in rows] == pytest.approx(values, nan_ok=True)
    assert [*rows[0]] == ["class", "images", "precision", "accuracy", "f1"]


def test_multi_label_rows_equal_sklearn_per_class() -> None:
    random = np.random.default_rng(1)
    labels, logits = random.random((60, 3)) < (0.0, 0.3, 0.6), random.normal(size=(60, 3))
    rows = label_scores.rows(labels, logits, ("a", "b", "c"))
    sklearn_per_class = precision_recall_fscore_support(labels, logits > 0, zero_division=np.nan)
    for name, expected in zip(("precision", "recall", "f1", "images"), sklearn_per_class, strict=True):
        assert [np.nan if row[name] is None else row[name] for row in rows] == pytest.approx(expected, nan_ok=True)
    counts = ("true_negatives", "false_positives", "false_negatives", "true_positives")
    expected = multilabel_confusion_matrix(labels, logits > 0).reshape(3, 4).tolist()
    assert [[row[name] for name in counts] for row in rows] == expected
    assert [row["average_precision"] for row in rows] == [
        None,
        *(pytest.approx(average_precision_score(labels[:, k], logits[:, k])) for k in (1, 2)),
    ]


def test_class_without_images_is_left_out_of_the_mean(labels_and_logits: Any) -> None:
    labels, logits = (part[labels_and_logits[0] != 2] for part in labels_and_logits)
    for metric in (BALANCED_ACCURACY, MACRO_F1, AUROC):
        with np.errstate(all="raise"):
            found = measured(metric, labels, logits)
        assert found is not None
        if metric == BALANCED_ACCURACY:  # scikit-learn warns of classes that are only predicted
            recall = [(logits.argmax(1) == labels)[labels == k].mean() for k in (0, 1)]
            assert found.value == pytest.approx(np.mean(recall))
        else:
            assert found.value == pytest.approx(sklearn_value(metric, labels, logits), abs=1e-9)
    between = np.array([0, 0, 0, 2, 2, 3]), np.array([0, 0, 1, 2, 1, 2])  # no image of 1, one of 3, which is never said
    for metric, expected in ((BALANCED_ACCURACY, (2 / 3 + 1 / 2) / 3), (MACRO_F1, (4 / 5 + 1 / 2) / 3)):
        found = measure(metric, *between)
        assert found is not None and found.value == pytest.approx(expected)
    alone = measured(AUROC, labels[labels == 1], logits[labels == 1])
    assert alone is not None and np.isnan(alone.value)
    assert measured(ACCURACY, labels, logits) is None
    assert [measure(metric, labels, logits.argmax(1)) for metric in (LOSS, AUROC, MAP)] == [None] * 3


@pytest.mark.parametrize("metric", [MACRO_F1, MAP, AUROC], ids=lambda metric: metric.name)
def test_images_without_labels_have_undefined_means(metric: Metric) -> None:
    with np.errstate(all="raise"):
        found = measure(metric, np.zeros((5, 3), bool), np.ones((5, 3), bool), scores=np.ones((5, 3)))
    assert found is not None and np.isnan(found.value) and not found.influence.any()


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_intervals_of_differences_have_95_percent_coverage(metric: Metric) -> None:
    random = np.random.default_rng(1)

    def draw(images: int) -> tuple[float, Any, float]:
        labels = random.choice(len(SHARES), images, p=SHARES)
        one = logits_of(labels, random, 1.5)
        other = one + random.normal(size=one.shape) * 0.7
        pair = [measured(metric, labels, logits) for logits in (one, other)]
        assert pair[0] and pair[1]
        return pair[0].value - pair[1].value, pair[0].influence - pair[1].influence, pair[0].least

    truth = draw(200_000)[0]
    samples = [draw(150) for _ in range(400)]
    covered = [truth in statistics.by_influence(gap, influence, least) for gap, influence, least in samples]
    assert 0.92 <= np.mean(covered) <= 0.99


def test_equal_runs_have_an_interval_of_half_an_image(labels_and_logits: Any) -> None:
    labels, logits = labels_and_logits
    found = measured(BALANCED_ACCURACY, labels, logits)
    assert found is not None
    within = statistics.by_influence(0.0, found.influence - found.influence, found.least)
    half_an_image = 1 / 3 / np.bincount(labels).min() / 2
    assert within.high == pytest.approx(1.96 * half_an_image, rel=1e-3) and within.low == -within.high


def test_auroc_orders_saturated_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    chances = softmax(logits.astype(np.float64), 1)
    assert log_odds(logits) == pytest.approx(np.log(chances / (1 - chances)))
    sure = np.array([[20, 0], [25, 0], [30, 0], [18, 0]], np.float32)
    found = measure(AUROC, np.array([1, 0, 0, 1]), np.zeros(4, np.int64), scores=log_odds(sure))
    assert found is not None and found.value == 1.0


@pytest.mark.parametrize("metric", [MAP, AUROC], ids=lambda metric: metric.name)
def test_single_negative_image_sets_the_least_step(metric: Metric) -> None:
    labels, logits = np.ones((40, 2), bool), np.random.default_rng(0).normal(size=(40, 2))
    labels[3, 0] = labels[:20, 1] = False
    found = measure(metric, labels, logits > 0, scores=logits)
    assert found is not None and found.least == pytest.approx(1 / 4)  # half of 1 of 2 classes


def test_intervals_of_shares_are_clipped_and_those_of_losses_are_not() -> None:
    assert ACCURACY.span(-1.2, 1.2) == "-100.0 to 100.0"
    assert LOSS.span(-1.2, 1.2) == "-1.200 to 1.200"
