"""The linear probe equals scikit-learn's logistic regression for every strength."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from frostline.training import lbfgs, probe
from frostline.training.probe import Solution
from small import Samples

STRENGTHS = (30.0, 0.3, 0.01, 1e-4)


def digits(count: int = 400, *, classes: int = 10) -> Samples:
    """Return images as features; some dimensions are constant, others hardly vary."""
    pixels, labels = load_digits(return_X_y=True)
    few = torch.from_numpy(labels) < classes
    return Samples(torch.from_numpy(pixels).float()[few][:count], torch.from_numpy(labels)[few][:count])


def standardized(data: Samples) -> np.ndarray[Any, Any]:
    values = data.tensor.double().numpy()
    deviation = values.std(0)
    return (values - values.mean(0)) / np.where(deviation > 0, deviation, 1)


def objective(weight: Any, bias: Any, features: Any, labels: Any, l2: float) -> float:
    """Return the penalised loss in float64, by its definition."""
    logits = features @ weight.T + bias
    logits = logits - logits.max(1, keepdims=True)
    chances = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return float(-chances[np.arange(len(labels)), labels].mean() + l2 / 2 * (weight**2).sum())


def on_standardized(one: Solution, data: Samples) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the head for standardised features that equals the solution on raw features."""
    deviation, mean = data.tensor.double().std(0, correction=0), data.tensor.double().mean(0)
    weight = one.weight.double() * torch.where(deviation > 0, deviation, 1)
    return weight.numpy(), (one.bias + one.weight.double() @ mean).numpy()


def answers(one: Solution, data: Samples) -> Tensor:
    return (data.tensor @ one.weight.T + one.bias).argmax(1)


@pytest.mark.parametrize(("classes", "count"), [(3, 400), (10, 400), (3, 30)])
def test_probe_equals_sklearn(classes: int, count: int) -> None:
    data = digits(count, classes=classes)
    features, labels = standardized(data), data.labels.numpy()
    found = probe.solve(data, classes, STRENGTHS)
    assert [one.l2 for one in found] == list(STRENGTHS)
    for one in found:
        theirs = LogisticRegression(C=1 / (one.l2 * len(labels)), tol=1e-7, max_iter=10_000)
        with warnings.catch_warnings(action="ignore"):  # it may reach the limits of float64 before its tolerance
            theirs.fit(features, labels)
        least = objective(theirs.coef_, theirs.intercept_, features, labels, one.l2)
        assert objective(*on_standardized(one, data), features, labels, one.l2) == pytest.approx(least, abs=1e-5)
        assert one.objective == pytest.approx(least, abs=1e-5)
        assert one.above < lbfgs.NEAR_ENOUGH
        assert one.iterations <= theirs.n_iter_[0]  # sklearn's tolerance is smaller
        assert (answers(one, data).numpy() == theirs.predict(features)).mean() >= (1 if one.l2 < 30 else 0.99)


@pytest.mark.slow
def test_class_weights_equal_sklearn() -> None:
    data = digits()
    features, labels = standardized(data), data.labels.numpy()
    weights = torch.linspace(0.2, 3.0, 10)
    for one in probe.solve(data, 10, STRENGTHS, weights):
        of_each = {label: float(weight) for label, weight in enumerate(weights)}
        total = sum(of_each[label] for label in labels)
        theirs = LogisticRegression(C=1 / (one.l2 * total), tol=1e-7, max_iter=10_000, class_weight=of_each)
        with warnings.catch_warnings(action="ignore"):
            theirs.fit(features, labels)
        weight, bias = on_standardized(one, data)
        logits = [features @ w.T + b for w, b in ((weight, bias), (theirs.coef_, theirs.intercept_))]
        assert np.abs(softmax(logits[0], 1) - softmax(logits[1], 1)).max() < (2e-3 if one.l2 < 30 else 2e-2)


@pytest.mark.parametrize("several", [False, True])
def test_image_weights_equal_sklearn_sample_weights(several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_AT_ONCE", 300)  # three chunks of a hundred images
    plain, draw = digits(300, classes=3), np.random.default_rng(0)
    counts = draw.integers(1, 4, len(plain.labels)) * 1.0
    features = standardized(plain)
    labels = F.one_hot(plain.labels, 3).bool() if several else plain.labels
    weights = torch.from_numpy(counts).float()
    (found,) = probe.solve(Samples(plain.tensor, labels), 3, [0.01], None, weights)
    logits = (plain.tensor @ found.weight.T + found.bias).numpy()
    model = LogisticRegression(C=1 / (0.01 * counts.sum()), tol=1e-8, max_iter=1_000)
    if several:
        for number in range(3):
            theirs = model.fit(features, labels[:, number].numpy(), counts).predict_proba(features)[:, 1]
            assert 1 / (1 + np.exp(-logits[:, number])) == pytest.approx(theirs, abs=2e-3)
    else:
        assert softmax(logits, 1) == pytest.approx(
            model.fit(features, labels, counts).predict_proba(features), abs=2e-3
        )


@pytest.mark.parametrize("balanced", [False, True])
def test_multi_label_probe_equals_sklearn_per_class(balanced: bool) -> None:
    plain = digits()
    several = torch.stack([plain.labels % 2 == 0, plain.labels > 6, plain.labels == 3], 1)
    data, features, count = Samples(plain.tensor, several), standardized(plain), len(several)
    weights = (count - several.sum(0)) / several.sum(0) if balanced else None
    (found,) = probe.solve(data, 3, [0.01], weights)
    ours = data.tensor @ found.weight.T + found.bias
    for number in range(3):
        model = LogisticRegression(C=1 / (0.01 * count), class_weight="balanced" if balanced else None, tol=1e-8)
        theirs = model.fit(features, several[:, number].numpy()).predict_proba(features)[:, 1]
        assert ours[:, number].sigmoid().numpy() == pytest.approx(theirs, abs=2e-3)
    own = torch.ones_like(ours) if weights is None else torch.where(several, weights, 1.0)
    loss = F.binary_cross_entropy_with_logits(ours, several.float(), own / own.mean(0)) * 3  # the sum over classes
    penalty = 0.01 / 2 * (on_standardized(found, data)[0] ** 2).sum()
    assert found.objective == pytest.approx(loss.item() + penalty, abs=1e-5)
    assert found.above <= lbfgs.NEAR_ENOUGH


@pytest.mark.parametrize("several", [False, True])
def test_distance_from_the_minimum_is_bounded_closely(several: bool) -> None:
    plain = digits(classes=3)
    even = torch.cat([(plain.labels == label).nonzero()[:100, 0] for label in range(3)])  # so that the bound is close
    labels = F.one_hot(plain.labels[even], 3).bool() if several else plain.labels[even]
    measured, strength = probe._Objective(Samples(plain.tensor[even], labels), 3, None, None), torch.tensor([30.0])
    (least,) = lbfgs.minimise(measured, strength, torch.zeros(1, 3, measured.dimensions + 1))
    draw, moved = torch.Generator().manual_seed(0), torch.zeros(2, *least.at.shape)
    moved[0, :, :-1] = 0.01 * torch.randn(least.at[:, :-1].shape, generator=draw)
    moved[1, :, -1] = 0.01 * torch.tensor([1.0, -2.0, 1.0])
    loss, _, above = measured(least.at + moved, strength.expand(2))
    assert (loss - least.loss).numpy() == pytest.approx(above.numpy(), rel=0.03)


def test_probe_is_reproducible_and_independent_of_grouping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = digits()
    first, again = (probe.solve(data, 10, STRENGTHS) for _ in range(2))
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)
    monkeypatch.setattr(probe, "_STATE", 1)
    monkeypatch.setattr(probe, "_AT_ONCE", 1000)
    for one, two in zip(first, probe.solve(data, 10, STRENGTHS), strict=True):
        assert one.objective == pytest.approx(two.objective, abs=1e-5)
        assert (answers(one, data) == answers(two, data)).float().mean() > 0.99


def test_empty_class_is_never_predicted() -> None:
    data = digits(classes=3)
    for one in probe.solve(data, 4, STRENGTHS):
        assert one.weight.isfinite().all() and not (answers(one, data) == 3).any()
        assert one.above < lbfgs.NEAR_ENOUGH
