"""LogME is the evidence of Bayesian linear regression at its maximum, as dense Gaussians and scikit-learn have it."""

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
    """Return random features of images, with more or fewer dimensions than images."""
    pixels, labels = load_digits(return_X_y=True)
    drawn = torch.randn(64, dimensions, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (torch.from_numpy(pixels[:FEW]) / 16 @ drawn).relu(), torch.from_numpy(labels[:FEW])


@pytest.mark.parametrize("dimensions", [15, 40, 200])
def test_it_is_the_highest_density_of_the_labels_under_a_gaussian(dimensions: int) -> None:
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


def test_it_is_what_bayesian_ridge_comes_to_without_its_priors() -> None:
    features, labels = digits(40)
    found = []
    for label in labels.unique():
        none = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 0.0)
        theirs = BayesianRidge(max_iter=1000, tol=1e-10, fit_intercept=False, compute_score=True, **none)
        found.append(theirs.fit(features.numpy(), (labels == label).double().numpy()).scores_[-1])
    assert logme(features, labels) == pytest.approx(np.mean(found) / FEW, abs=1e-6)


def test_features_that_tell_the_classes_apart_have_more_than_noise_and_their_scale_is_nothing() -> None:
    features, labels = digits(40)
    noise = torch.randn(FEW, 40, generator=torch.Generator().manual_seed(1))
    assert logme(features, labels) > logme(noise, labels) + 0.05
    assert logme(features * 1e4, labels) == pytest.approx(logme(features, labels), abs=1e-9)
    assert logme(torch.zeros(FEW, 3), labels) < logme(features, labels)


def test_classes_without_an_image_say_nothing() -> None:
    features, labels = digits(40)
    assert logme(features, labels * 2) == logme(features, labels)


def test_labels_of_one_class_each_are_those_of_several_where_nobody_has_two() -> None:
    features, labels = digits(40)
    several = torch.nn.functional.one_hot(labels, 12).bool()  # two more classes, of which there is nothing
    assert logme(features, several) == pytest.approx(logme(features, labels))
