"""Classifiers by cosine similarity, without training: k nearest neighbours and nearest class mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core import machine
from frostline.core.labels import multi_label
from frostline.training.dataset import Dataset
from frostline.training.evaluation import Evaluation, evaluate_logits
from frostline.training.head_inputs import ROWS, chunks

_LEAST = 1e-6
"""Added to each class's share of votes, so that a class without votes has a finite loss: 13.8 nats."""
_UNSEEN = -1e4  # bias of a class without training images, so that it is never predicted


class Neighbours(nn.Module):
    """The `k` training images nearest by cosine vote with the weight `exp(similarity / temperature)`.

    As in DINO's evaluation (M. Caron et al. 2021, arXiv:2104.14294, section 4.1 and its `eval_knn.py`). With fewer than
    `k` training images all vote. The features of all training images are kept, normalised, in float32.
    """

    def __init__(self, train: Dataset, classes: int, *, k: int, temperature: float) -> None:
        """Store the normalised features of `train`."""
        super().__init__()
        self.k = k
        self._classes, self._temperature = classes, temperature
        self._bank = torch.cat([F.normalize(features) for features, _ in chunks(train)])
        self._labels = train.labels

    @property
    def nbytes(self) -> int:
        """Bytes of the stored features and labels."""
        return self._bank.nbytes + self._labels.nbytes

    def forward(self, features: Tensor) -> Tensor:
        """Return the logarithm `(B, classes)` of each class's share of the votes, for features `(B, D)`.

        Multi-label, the log-odds of that share.
        """
        return self.vote(*self.nearest(features, self.k), self.k)

    def nearest(self, features: Tensor, k: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return similarity `(B, k)` and labels `(B, k, ...)` of the nearest training images, nearest first.

        `own` `(B,)` is the index of a training image to leave out for each row: the image itself.
        """
        similarity = F.normalize(features) @ self._bank.T
        if own is not None:
            similarity.scatter_(1, own[:, None], -torch.inf)
        near = similarity.topk(min(k, len(self._bank) - (own is not None)), 1)
        return near.values, self._labels[near.indices]

    def vote(self, similarity: Tensor, labels: Tensor, k: int) -> Tensor:
        """Return the output of `forward` if the first `k` neighbours from `nearest` vote."""
        weight = ((similarity[:, :k] - similarity[:, :1]) / self._temperature).exp()
        if multi_label(labels):
            share = (weight[:, :, None] * labels[:, :k]).sum(1) / weight.sum(1, keepdim=True)
            return (share + _LEAST).log() - (1 - share + _LEAST).log()
        rows = torch.arange(len(labels), device=labels.device)[:, None] * self._classes
        votes = weight.new_zeros(len(labels) * self._classes)
        votes.index_add_(0, (rows + labels[:, :k]).flatten(), weight.flatten())  # deterministic on a GPU, too
        shares = votes.view(-1, self._classes) / weight.sum(1, keepdim=True)
        return (shares + _LEAST).log()


@torch.no_grad()
def best_k(
    voters: Neighbours, val: Dataset, options: Sequence[int], rank: Callable[[Evaluation], tuple[float, ...]]
) -> int:
    """Return the number of neighbours among `options` with the smallest `rank` on a split; the first one of equals."""
    parts = [voters.nearest(features, max(options)) for features, _ in chunks(val)]
    found = {k: evaluate_logits(torch.cat([voters.vote(*part, k) for part in parts]), val.labels) for k in options}
    return min(found, key=lambda k: rank(found[k]))


@torch.no_grad()
def leave_one_out(voters: Neighbours, train: Dataset, most: int) -> Evaluation:
    """Evaluate leave-one-out voting on at most `most` training images, evenly spaced."""
    count = len(train.labels)
    chosen = torch.arange(0, count, -(-count // most))
    logits = []
    for index in chosen.split(ROWS):
        own = index.to(train.labels.device)
        logits.append(voters.vote(*voters.nearest(train.inputs(index, 1), voters.k, own), voters.k))
    return evaluate_logits(torch.cat(logits), machine.select_rows(train.labels, chosen))


def centroids(train: Dataset, classes: int, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return weights `(classes, D)` and biases `(classes,)` of the linear head for which the nearest class mean wins.

    Means are of normalised features, normalised again; the nearest one has the largest cosine (S. Rebuffi et al. 2017,
    arXiv:1611.07725, eq. 2). A linear layer is equivalent: the length of an input scales all its logits and does not
    change their order. For inputs of mean length, logits are cosines divided by `temperature`.
    """
    sums, length = torch.zeros(0), 0.0
    for features, labels in chunks(train):
        sums = sums if len(sums) else features.new_zeros(classes, features.shape[1])
        sums.index_add_(0, labels, F.normalize(features))
        length += float(features.norm(dim=1).double().sum())
    weight = F.normalize(sums) / (temperature * length / len(train.labels))
    seen = train.labels.bincount(minlength=classes) > 0
    return weight, torch.where(seen, 0.0, _UNSEEN).to(weight.dtype)
