"""Training losses: cross-entropy, focal loss and binary cross-entropy, with optional class and image weights.

Losses are means over the images of a batch; with weights of classes or images, weighted means, as in torch and
scikit-learn. An image has the weight of its class, regardless of label smoothing, and a mixed one the weighted sum of
its parts.
Multi-label images have the mean of a binary loss per class; a class weight is the weight of images of that class
against all others (`pos_weight` in torch's BCEWithLogitsLoss).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from frostline.core.labels import multi_label

_LEAST = 1e-6  # lower bound of 1 - p in focal loss, whose slope at 0 is infinite for gamma below 1


@dataclass(frozen=True)
class Targets:
    """The targets of a batch."""

    labels: Tensor
    """`(B,)` int64, or multi-label `(B, classes)` bool."""
    partners: Tensor
    """Labels of the images that were mixed into the inputs."""
    share: float
    """Share of `labels` in the loss, in 0..1; the rest belongs to `partners`."""
    smoothing: float
    """Label smoothing, in 0..1."""
    weights: Tensor | None = None
    """`(B,)` float32: weight of each image; None for equal weights."""

    def probabilities(self, classes: int) -> Tensor:
        """Return the target probabilities `(B, classes)`."""
        of_labels = target_probabilities(self.labels, self.smoothing, classes)
        if self.share == 1.0:
            return of_labels
        return self.share * of_labels + (1 - self.share) * target_probabilities(self.partners, self.smoothing, classes)


@dataclass(frozen=True)
class Criterion:
    """A loss function with class weights."""

    name: str = "cross_entropy"
    """`cross_entropy`, the same as `bce` for multi-label data; `focal` (T. Lin et al. 2017, arXiv:1708.02002, eq. 4,
    over softmax or, multi-label, over each sigmoid); or `bce`, each class against the others (R. Wightman et al. 2021,
    arXiv:2110.00476, mean over classes)."""
    gamma: float = 2.0
    """For `focal`: the loss of an image whose label has probability p is multiplied by (1 - p)**gamma."""
    class_weights: tuple[float, ...] | None = None
    """One per class; None for equal weights."""

    @property
    def plain(self) -> bool:
        """Whether it is the cross-entropy with equal class weights."""
        return self.name == "cross_entropy" and self.class_weights is None

    def weights_on(self, device: torch.device) -> Tensor | None:
        """Return the class weights `(classes,)` float32 on `device`; None for equal weights."""
        return _weights(self.class_weights, device) if self.class_weights is not None else None

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Return the differentiable scalar loss of logits `(B, classes)`."""
        if self.plain and targets.weights is None and not multi_label(targets.labels):
            return _cross_entropy(logits, targets)
        total, count = self.sums(logits, targets)
        return total / count

    def sums(self, logits: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of the images' losses, and the sum of the weights."""
        losses, counts = self._of_each(logits, targets)
        if targets.weights is not None:
            losses, counts = losses * targets.weights, counts * targets.weights
        return losses.sum(), counts.sum()

    def _of_each(self, logits: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Return the loss `(B,)` of each image, weighted by class, and these weights `(B,)`."""
        weights = self.weights_on(logits.device)
        wanted = targets.probabilities(logits.shape[1])
        if multi_label(targets.labels):
            return self._of_several(logits, wanted, weights), wanted.new_ones(len(wanted))
        sharp = replace(targets, smoothing=0.0)
        counts = wanted.new_ones(len(wanted)) if weights is None else sharp.probabilities(logits.shape[1]) @ weights
        if self.name == "bce":
            every = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
            return every.mean(1) * counts, counts
        log_chances = logits.log_softmax(1)
        every = -wanted * log_chances
        if self.name == "focal":
            every = every * (1 - log_chances.exp()).clamp(min=_LEAST) ** self.gamma
        return (every if weights is None else every * weights).sum(1), counts

    def _of_several(self, logits: Tensor, wanted: Tensor, weights: Tensor | None) -> Tensor:
        """Return the mean over classes of a binary loss for each image, `wanted` being `(B, classes)`."""
        present, absent = -F.logsigmoid(logits), -F.logsigmoid(-logits)  # minus the logarithms of p and of 1 - p
        if self.name == "focal":
            chance = logits.sigmoid()
            present = present * (1 - chance).clamp(min=_LEAST) ** self.gamma
            absent = absent * chance.clamp(min=_LEAST) ** self.gamma
        weighted = wanted if weights is None else wanted * weights
        return (weighted * present + (1 - wanted) * absent).mean(1)


CROSS_ENTROPY = Criterion()
"""With equal class weights."""


def _cross_entropy(logits: Tensor, targets: Targets) -> Tensor:
    loss = F.cross_entropy(logits, targets.labels, label_smoothing=targets.smoothing)
    if targets.share == 1.0:
        return loss
    other = F.cross_entropy(logits, targets.partners, label_smoothing=targets.smoothing)
    return targets.share * loss + (1 - targets.share) * other


def target_probabilities(labels: Tensor, smoothing: float, classes: int) -> Tensor:
    """Return target probabilities `(..., classes)` for labels `(...)`, or multi-label `(..., classes)` bool."""
    if multi_label(labels):
        return labels * (1 - smoothing) + smoothing / 2
    return _table(classes, smoothing, labels.device)[labels]


@functools.lru_cache(4)
def _table(classes: int, smoothing: float, device: torch.device) -> Tensor:
    """Return `(classes, classes)`: row i is the smoothed target distribution of class i."""
    return torch.eye(classes, device=device) * (1 - smoothing) + smoothing / classes


@functools.lru_cache(4)
def _weights(weights: tuple[float, ...], device: torch.device) -> Tensor:
    """Return the weights on a device, copied once and cached."""
    return torch.tensor(weights, device=device)
