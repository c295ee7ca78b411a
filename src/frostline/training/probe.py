"""The linear probe as a convex problem: logistic regression, solved for a path of L2 penalties.

With features z, each dimension standardised over the training split (mean 0, variance 1), a strength `l2` solves

    min over W, b of  mean of cross-entropy(W z + b, label)  +  l2 / 2 * |W|^2

which is scikit-learn's `LogisticRegression(C=1 / (l2 * N))` on the same z, with an unpenalised b, too. Multi-label data
have a logistic regression per class, as in its `OneVsRestClassifier`, and the objective is their sum. The penalty makes
the problem strongly convex. `lbfgs` minimises it from zero, without a learning rate, several strengths side by side.

Features are read in chunks on every pass. Besides them, memory holds the L-BFGS histories, at most `_STATE` bytes or
those of one strength, and a few times `_AT_ONCE` logits. Few samples span few directions, which contain the best
weights: then the features are rotated into these directions and the problem is solved there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from frostline.core.labels import multi_label
from frostline.training.dataset import Dataset
from frostline.training.head_inputs import chunks
from frostline.training.lbfgs import MEMORY, minimise

_STATE = 2**30  # bytes of the histories of all strengths that are solved side by side
_AT_ONCE = 2**22  # logits per computation: 16 MB
_ROWS = 4096  # samples per chunk at most: 32 MB of features of ResNet-50
_FEW = 2  # ratio of dimensions to samples from which on features are rotated
_FLAT = 1e-6  # standard deviation, relative to the largest one, below which a dimension counts as constant


@dataclass(frozen=True)
class Solution:
    """The best head for one strength, for features that are not standardised."""

    l2: float
    weight: Tensor
    """`(classes, D)` float32."""
    bias: Tensor
    """`(classes,)` float32."""
    objective: float
    """Mean cross-entropy over the training split in nats, summed over classes if multi-label, plus the penalty."""
    above: float
    """Upper bound of its distance from the minimum, in nats."""
    iterations: int


@torch.no_grad()
def solve(
    train: Dataset,
    classes: int,
    strengths: Sequence[float],
    class_weights: Tensor | None = None,
    image_weights: Tensor | None = None,
) -> list[Solution]:
    """Return the best head for each of the `strengths`, the strongest first.

    Features `(B, D)` of the first epoch are read from `train` once per iteration. `class_weights` `(classes,)` weight
    the mean cross-entropy, like scikit-learn's `class_weight`; multi-label, they weight the samples of each class
    against all others. `image_weights` `(N,)` weight samples, like its `sample_weight`.
    """
    objective = _Objective(train, classes, class_weights, image_weights)
    ordered = sorted(set(strengths), reverse=True)
    start = train.labels.new_zeros(classes, objective.dimensions + 1, dtype=torch.float32)
    size = max(1, _STATE // (2 * MEMORY * start.nbytes))
    found: list[Solution] = []
    for first in range(0, len(ordered), size):
        group = ordered[first : first + size]
        minima = minimise(objective, torch.tensor(group, device=start.device), start.repeat(len(group), 1, 1))
        start = minima[-1].at  # near the minima of weaker penalties
        for l2, minimum in zip(group, minima, strict=True):
            weight, bias = objective.unscaled(minimum.at)
            found.append(Solution(l2, weight, bias, minimum.loss, minimum.above, minimum.iterations))
    return found


class _Objective:
    """The regularised loss of several heads, each with its own strength, and its gradient."""

    def __init__(
        self, train: Dataset, classes: int, class_weights: Tensor | None, image_weights: Tensor | None
    ) -> None:
        self._labels, self._numbers = train.labels, torch.arange(classes, device=train.labels.device)
        self._mean, self._deviation = _moments(train)
        standard = _Standard(train, self._mean, self._deviation)
        few = _FEW * len(train.labels) <= len(self._mean)
        self._features: _Standard | _Turned = _Turned(standard) if few else standard
        self.dimensions = self._features.dimensions
        self._weights = _weights(train.labels, class_weights, image_weights)
        self._least_curvature = _least_curvature(train.labels, classes, self._weights)

    def __call__(self, heads: Tensor, l2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the objective `(S,)` float64 of `heads`, its gradient, and a bound of its distance from the minimum.

        `heads` is `(S, classes, dimensions + 1)`: weights for standardised (perhaps rotated) features, and the bias in
        the last column; `l2` is `(S,)`. A loss with curvature of at least `c` is at most |gradient|^2 / (2 c) above its
        minimum. The curvature is at least `l2` for weights; for the unpenalised biases, the smaller of `l2` and that of
        `_least_curvature` is used.
        """
        weight, bias = heads[..., :-1], heads[..., -1]
        flat, count = weight.flatten(0, 1), len(self._labels)
        loss = l2.new_zeros(len(heads), dtype=torch.float64)
        gradient = torch.zeros_like(heads)
        of_weight, of_bias = torch.zeros_like(flat), torch.zeros_like(bias)
        done = 0
        for standard, labels in self._features.chunks(len(flat)):
            logits = (standard @ flat.T).unflatten(1, bias.shape).add_(bias)
            weights = None if self._weights is None else self._weights[done : done + len(labels)]
            losses, error = (_of_several if multi_label(labels) else self._of_one)(logits, labels, weights)
            done += len(labels)
            loss += losses.double().sum(0)
            of_weight.addmm_(error.flatten(1).T, standard)
            of_bias += error.sum(0)
        gradient[..., :-1] = of_weight.view_as(weight).div_(count).add_(l2[:, None, None] * weight)
        gradient[..., -1] = of_bias.div_(count)
        penalty = l2 * weight.square().sum((1, 2)) / 2
        above = gradient[..., :-1].square().sum((1, 2)) / (2 * l2)
        above += gradient[..., -1].square().sum(1) / (2 * l2.minimum(self._least_curvature))
        return loss.div_(count).add_(penalty), gradient, above

    def _of_one(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the losses `(B, S)` of logits `(B, S, classes)` and their gradient, which overwrites the logits.

        Both are multiplied by the samples' `weights` `(B,)`.
        """
        every = logits.logsumexp(2, keepdim=True)
        losses = (every - logits.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1)))[..., 0]
        error = logits.sub_(every).exp_().sub_((labels[:, None] == self._numbers)[:, None].float())
        if weights is not None:
            losses.mul_(weights[:, None])
            error.mul_(weights[:, None, None])
        return losses, error

    def unscaled(self, head: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights `(classes, D)` and biases `(classes,)` for features that are not standardised."""
        weight = self._features.straight(head[:, :-1].double()) / self._deviation
        bias = head[:, -1] - weight @ self._mean.double()
        return weight.float(), bias.float()


class _Standard:
    """Standardised features: each dimension has mean 0 and variance 1."""

    def __init__(self, train: Dataset, mean: Tensor, deviation: Tensor) -> None:
        self._train, self._mean, self._deviation = train, mean, deviation
        self.dimensions = len(mean)

    def chunks(self, outputs: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features `(B, D)` and labels in chunks, small enough for `outputs` logits per sample."""
        for features, labels in chunks(self._train, _rows(outputs)):
            yield features.sub(self._mean).div_(self._deviation), labels

    def straight(self, weight: Tensor) -> Tensor:
        """Return the weights unchanged."""
        return weight


class _Turned:
    """Standardised features `(N, D)`, rotated into the `N` directions that they span, which preserves lengths."""

    def __init__(self, standard: _Standard) -> None:
        features, labels = zip(*standard.chunks(1), strict=True)
        self._labels = torch.cat(labels)
        self._directions, turned = torch.linalg.qr(torch.cat(features).double().T)
        self._turned = turned.T.float().contiguous()
        self.dimensions = len(self._labels)

    def chunks(self, outputs: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features `(B, N)` and labels in chunks, small enough for `outputs` logits per sample."""
        rows = _rows(outputs)
        yield from zip(self._turned.split(rows), self._labels.split(rows), strict=True)

    def straight(self, weight: Tensor) -> Tensor:
        """Return weights `(classes, N)` float64 rotated back to `(classes, D)`."""
        return weight @ self._directions.T


def _of_several(logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return losses and gradient as `_Objective._of_one` does, for multi-label samples with weights `(B, classes)`."""
    wanted = labels[:, None].float()
    losses = F.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits), reduction="none")
    error = logits.sigmoid_().sub_(wanted)
    if weights is not None:
        losses.mul_(weights[:, None])
        error.mul_(weights[:, None])
    return losses.sum(2), error


def _weights(labels: Tensor, class_weights: Tensor | None, image_weights: Tensor | None) -> Tensor | None:
    """Return the weight of each sample, with mean 1: `(N,)`, or multi-label, per class, `(N, classes)`."""
    if class_weights is None and image_weights is None:
        return None
    several = multi_label(labels)
    every = torch.ones(labels.shape, device=labels.device)
    if class_weights is not None:
        every = torch.where(labels, class_weights, every) if several else class_weights[labels]
    if image_weights is not None:
        every = every * (image_weights[:, None] if several else image_weights)
    return every * (len(labels) / every.sum(0))


def _least_curvature(labels: Tensor, classes: int, weights: Tensor | None) -> Tensor:
    """Return the least curvature of the loss along biases if predictions are as frequent as classes.

    It is the weighted share of the rarest class; multi-label, the least product of a class's share and that of images
    without it.
    """
    every = torch.ones(labels.shape, device=labels.device) if weights is None else weights
    if multi_label(labels):
        counts = (every * labels).sum(0) * (every * ~labels).sum(0) / len(labels)
    else:
        counts = every.new_zeros(classes).index_add_(0, labels, every)
    return counts.where(counts > 0, torch.inf).min() / len(labels)


def _moments(data: Dataset) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation `(D,)` of a split's features; the latter is 1 for constant dimensions."""
    mean = torch.stack([each.double().sum(0) for each, _ in chunks(data, _ROWS)]).sum(0) / len(data.labels)
    squares = torch.stack([(each - mean).square().sum(0) for each, _ in chunks(data, _ROWS)]).sum(0) / len(data.labels)
    deviation = squares.sqrt()
    varies = deviation > _FLAT * deviation.max()
    return mean.float(), torch.where(varies, deviation, torch.ones_like(deviation)).float()


def _rows(outputs: int) -> int:
    """Return the number of samples per chunk, given the number of logits per sample."""
    return max(1, min(_ROWS, _AT_ONCE // outputs))
