"""What samples are: of one class each, `(N,)` int64, or multi-label, of any number of them, `(N, classes)` bool.

A network gives a logit per class. Of one class each they are for a softmax, and the largest is what it says; of
several they are for a sigmoid each, and it says all classes whose probability is above 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

NONE = "none"
"""For people: what a sample is that is of no class."""


def multi_label(labels: Tensor) -> bool:
    """Return whether samples may be of several classes, or of none."""
    return labels.dtype == torch.bool


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """Return `(classes,)` int64: of how many samples each class is."""
    return labels.sum(0) if multi_label(labels) else labels.bincount(minlength=classes)


def of_class(labels: Tensor, label: int) -> Tensor:
    """Return `(N,)` bool: which samples are of a class."""
    return labels[:, label] if multi_label(labels) else labels == label


def strata_of(labels: Tensor) -> Tensor:
    """Return what is to come alike often: the classes, and of multi-label samples those of none as one class more."""
    return torch.cat([labels, ~labels.any(1, keepdim=True)], 1) if multi_label(labels) else labels


def predicted(logits: Tensor, like: Tensor) -> Tensor:
    """Return what logits `(..., classes)` say, in the form of the labels `like`."""
    return logits > 0 if multi_label(like) else logits.argmax(-1)


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return `(...)` bool: of which samples logits `(..., classes)` say all that they are, and nothing else."""
    found = predicted(logits, labels) == labels
    return found.all(-1) if multi_label(labels) else found


def class_probabilities(logits: Tensor, *, several: bool) -> Tensor:
    """Return `(B, classes)`: of each row they add up to 1, unless it may be of `several` classes."""
    return logits.sigmoid() if several else logits.softmax(1)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy `(B,)` of each sample in nats; of several classes the mean of theirs."""
    if multi_label(labels):
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(1)
    return F.cross_entropy(logits, labels, reduction="none")


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of these, added up as torch does where it returns a mean."""
    if multi_label(labels):
        return cross_entropies(logits, labels).sum()
    return F.cross_entropy(logits, labels, reduction="sum")


def class_names(label: Tensor, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes of one sample, a row of labels."""
    numbers = label.nonzero()[:, 0].tolist() if multi_label(label) else [int(label)]
    return tuple(classes[number] for number in numbers)


def label_text(label: Tensor, classes: Sequence[str]) -> str:
    """Return for people what one sample is, a row of labels."""
    return " + ".join(class_names(label, classes)) or NONE
