"""LogME: how well Bayesian linear regression explains the labels by features, with nothing trained.

K. You, Y. Liu, J. Wang and M. Long, LogME: Practical Assessment of Pre-trained Models for Transfer Learning, ICML 2021
(arXiv:2102.11005): for each class the labels, 1 or 0, are `F w` with noise of precision `b`, the weights `w` have
precision `a`, and both precisions are those of the highest evidence (D. MacKay 1992, Neural Computation 4, 415).

The paper goes back and forth between the two until they settle. Here the ratio `t = a / b` is looked for alone: given
it, the best `b` is a formula, and the singular values of the features make of the evidence a sum that is cheap for
many ratios at once. So no start is chosen, and there is no way to end beside the maximum of a smooth curve.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from frostline.core.labels import multi_label

_DECADES = (-14, 10)  # of `t`, relative to the largest squared singular value: beyond, nothing changes any more
_GRID = 193  # ratios that are tried first, eight to a decade
_HALVINGS = 50  # of the bracket around the best of them, each by the golden ratio


def logme(features: Tensor, labels: Tensor) -> float:
    """Return the highest log evidence in nats, per image, as a mean over the classes that `labels` has.

    `features` is `(N, D)`, `labels` `(N,)` int64, or multi-label `(N, classes)` bool. It is computed in float64 on the
    CPU.
    """
    values = features.double().cpu()
    left, singular, _ = torch.linalg.svd(values, full_matrices=False)
    told = labels.cpu()
    wanted = (told[:, told.any(0)] if multi_label(told) else told[:, None] == told.unique()).double()
    explained = (left.T @ wanted).square()
    beside = (wanted.square().sum(0) - explained.sum(0)).clamp(min=0)
    return float(_highest(singular.square(), explained, beside, len(values)).mean() / len(values))


def _highest(squares: Tensor, explained: Tensor, beside: Tensor, images: int) -> Tensor:
    """Return the highest log evidence `(K,)` of each class over all ratios.

    `squares` `(R,)` are those of the singular values, `explained` `(R, K)` those of the labels along each of the
    singular vectors, `beside` `(K,)` what of the labels lies along none.
    """
    scale = math.log(max(float(squares.max()), torch.finfo(torch.float64).tiny))
    first, last = (scale + decade * math.log(10) for decade in _DECADES)
    grid = torch.linspace(first, last, _GRID, dtype=torch.float64)

    def evidence(logarithms: Tensor) -> Tensor:
        return _evidence(logarithms.exp(), squares, explained, beside, images)

    found = torch.stack([evidence(ratio.expand(len(beside))) for ratio in grid])
    best, spacing, golden = grid[found.argmax(0)], float(grid[1] - grid[0]), (math.sqrt(5) - 1) / 2
    low, high = best - spacing, best + spacing
    for _ in range(_HALVINGS):
        one, other = high - golden * (high - low), low + golden * (high - low)
        lower = evidence(one) > evidence(other)
        low, high = torch.where(lower, low, one), torch.where(lower, other, high)
    return torch.maximum(evidence((low + high) / 2), found.amax(0))


def _evidence(ratio: Tensor, squares: Tensor, explained: Tensor, beside: Tensor, images: int) -> Tensor:
    """Return the log evidence `(K,)` at a `ratio` `(K,)` for each class, the noise being the best one for it."""
    shrunk = ratio / (ratio + squares[:, None])
    misfit = (shrunk * explained).sum(0) + beside
    noise = (images / misfit.clamp(min=torch.finfo(torch.float64).tiny)).log()
    return images / 2 * (noise - 1 - math.log(2 * math.pi)) + shrunk.log().sum(0) / 2
