"""Labels of samples, single-label `(N,)` int64 or multi-label `(N, classes)` bool: counts, predictions, losses, names.

A network returns one logit per class. Single-label: softmax, and the prediction is the class of the largest logit.
Multi-label: a sigmoid per class, and the prediction is all classes with a probability above 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

NONE = "none"
"""Text for a multi-label sample without any class."""


def multi_label(labels: Tensor) -> bool:
    """Return whether labels are multi-label: a sample may have several classes, or none."""
    return labels.dtype == torch.bool


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """Return `(classes,)` int64: the number of samples of each class."""
    return labels.sum(0) if multi_label(labels) else labels.bincount(minlength=classes)


def of_class(labels: Tensor, label: int) -> Tensor:
    """Return `(N,)` bool: which samples have the class `label`."""
    return labels[:, label] if multi_label(labels) else labels == label


def strata_of(labels: Tensor) -> Tensor:
    """Return the strata of a split: the labels; multi-label ones with another column for samples without a class."""
    return torch.cat([labels, ~labels.any(1, keepdim=True)], 1) if multi_label(labels) else labels


def predicted(logits: Tensor, like: Tensor) -> Tensor:
    """Return the predictions of logits `(..., classes)`, in the form of the labels `like`."""
    return logits > 0 if multi_label(like) else logits.argmax(-1)


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return `(...)` bool: the samples whose prediction from logits `(..., classes)` matches their labels exactly."""
    found = predicted(logits, labels) == labels
    return found.all(-1) if multi_label(labels) else found


def class_probabilities(logits: Tensor, *, several: bool) -> Tensor:
    """Return probabilities `(B, classes)`: softmax, or with `several` classes per sample a sigmoid each."""
    return logits.sigmoid() if several else logits.softmax(1)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy `(B,)` of each sample in nats; multi-label: the mean over classes."""
    if multi_label(labels):
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(1)
    return F.cross_entropy(logits, labels, reduction="none")


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of `cross_entropies`, added up in the order of torch's own reductions."""
    if multi_label(labels):
        return cross_entropies(logits, labels).sum()
    return F.cross_entropy(logits, labels, reduction="sum")


def class_names(label: Tensor, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the class names of one sample, whose `label` is a row of labels."""
    numbers = label.nonzero()[:, 0].tolist() if multi_label(label) else [int(label)]
    return tuple(classes[number] for number in numbers)


def label_text(label: Tensor, classes: Sequence[str]) -> str:
    """Return the class names of one sample as text, joined by ` + `; `none` if it has no class."""
    return " + ".join(class_names(label, classes)) or NONE
