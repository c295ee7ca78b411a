"""LogME equals the maximum evidence of Bayesian linear regression, by dense Gaussians and by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from sklearn.linear_model import BayesianRidge

from frostline.training.logme import logme

FEW = 60


def digits(dimensions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random features of images, and labels."""
    pixels, labels = load_digits(return_X_y=True)
    drawn = torch.randn(64, dimensions, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (torch.from_numpy(pixels[:FEW]) / 16 @ drawn).relu(), torch.from_numpy(labels[:FEW])


@pytest.mark.parametrize("dimensions", [15, 40, 200])
def test_logme_is_the_maximum_gaussian_density(dimensions: int) -> None:
    features, labels = digits(dimensions)
    gram, highest = (features @ features.T).numpy(), []

    for label in labels.unique():
        wanted = (labels == label).double().numpy()

        def density(logarithms: np.ndarray, wanted: np.ndarray = wanted) -> float:
            spread, noise = np.exp(logarithms)
            covariance = spread * gram + noise * np.eye(FEW)
            quadratic = wanted @ np.linalg.solve(covariance, wanted)
            return float(quadratic + np.linalg.slogdet(covariance)[1] + FEW * np.log(2 * np.pi)) / 2

        starts = ([-9.0, -3.0], [-4.0, -2.0], [-6.0, -6.0])
        highest.append(-min(minimize(density, start, method="Nelder-Mead").fun for start in starts))
    assert logme(features.float(), labels) == pytest.approx(np.mean(highest) / FEW, abs=1e-5)


def test_logme_equals_bayesian_ridge_without_priors() -> None:
    features, labels = digits(40)
    found = []
    for label in labels.unique():
        none = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 0.0)
        theirs = BayesianRidge(max_iter=1000, tol=1e-10, fit_intercept=False, compute_score=True, **none)
        found.append(theirs.fit(features.numpy(), (labels == label).double().numpy()).scores_[-1])
    assert logme(features, labels) == pytest.approx(np.mean(found) / FEW, abs=1e-6)


def test_informative_features_score_higher_at_any_scale() -> None:
    features, labels = digits(40)
    noise = torch.randn(FEW, 40, generator=torch.Generator().manual_seed(1))
    assert logme(features, labels) > logme(noise, labels) + 0.05
    assert logme(features * 1e4, labels) == pytest.approx(logme(features, labels), abs=1e-9)
    assert logme(torch.zeros(FEW, 3), labels) < logme(features, labels)


def test_empty_classes_do_not_change_logme() -> None:
    features, labels = digits(40)
    assert logme(features, labels * 2) == logme(features, labels)


def test_one_hot_multi_labels_equal_single_labels() -> None:
    features, labels = digits(40)
    several = torch.nn.functional.one_hot(labels, 12).bool()  # with two empty classes
    assert logme(features, several) == pytest.approx(logme(features, labels))
