"""LogME: the evidence of Bayesian linear regression from features to labels, a score without training.

K. You, Y. Liu, J. Wang and M. Long, LogME: Practical Assessment of Pre-trained Models for Transfer Learning, ICML 2021
(arXiv:2102.11005): for each class the labels, 1 or 0, are `F w` with noise of precision `b`, the weights `w` have
precision `a`, and both precisions maximise the evidence (D. MacKay 1992, Neural Computation 4, 415).

The paper alternates between the two until they converge. Here only the ratio `t = a / b` is searched: given `t`, the
best `b` has a closed form, and with the singular values of the features the evidence is a sum that is cheap for many
ratios at once. So there is no starting point to choose, and a search over a smooth curve finds its maximum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from frostline.core.labels import multi_label

_DECADES = (-14, 10)  # range of `t`, relative to the largest squared singular value: beyond, nothing changes
_GRID = 193  # ratios of the initial grid, eight per decade
_HALVINGS = 50  # golden-section steps in the bracket around the best one


def logme(features: Tensor, labels: Tensor) -> float:
    """Return the highest log evidence in nats per image, averaged over the classes in `labels`.

    `features` is `(N, D)`, `labels` `(N,)` int64, or multi-label `(N, classes)` bool. Computed in float64 on the CPU.
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

    `squares` `(R,)` are the squared singular values, `explained` `(R, K)` the squared projections of the labels onto
    the singular vectors, `beside` `(K,)` the squared norms of the labels' remainder.
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
    """Return the log evidence `(K,)` at a `ratio` `(K,)` for each class, with the best noise precision for it."""
    shrunk = ratio / (ratio + squares[:, None])
    misfit = (shrunk * explained).sum(0) + beside
    noise = (images / misfit.clamp(min=torch.finfo(torch.float64).tiny)).log()
    return images / 2 * (noise - 1 - math.log(2 * math.pi)) + shrunk.log().sum(0) / 2
