"""Transferability scores of frozen features: nearest neighbours, linear probe, and LogME."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from frostline.core.labels import right
from frostline.training import neighbours, probe
from frostline.training.dataset import InMemory
from frostline.training.evaluation import Evaluation, evaluate, evaluate_logits
from frostline.training.head_inputs import ROWS
from frostline.training.logme import logme
from frostline.training.neighbours import Neighbours
from frostline.training.probe import Solution


@dataclass(frozen=True)
class Scores:
    """Scores of features: classifiers fitted on the training split, evaluated on the validation split."""

    knn: float
    """Accuracy of the nearest neighbours, a fraction in 0..1, with the best number of neighbours."""
    probe: float
    """Accuracy of the linear probe, with the best L2 strength."""
    logme: float
    """Log evidence of the training split in nats per image and class."""
    right: Tensor
    """`(N,)` bool, on the CPU: which validation images the probe classifies correctly."""
    head: Solution
    """The probe."""


def scores(
    train: InMemory, val: InMemory, classes: int, *, strengths: Sequence[float], k: Sequence[int], temperature: float
) -> Scores:
    """Return the scores of features `(N, D)` float32, given those of both splits.

    `strengths` are L2 penalties, `k` numbers of neighbours; the best of each on `val` is used.
    """
    voters = Neighbours(train, classes, k=max(k), temperature=temperature)
    voters.k = neighbours.best_k(voters, val, k, _rank)
    near = evaluate(voters, val, batch_size=ROWS, autocast=None)
    solutions = probe.solve(train, classes, strengths)
    told = [evaluate_logits(F.linear(val.tensor, one.weight, one.bias), val.labels) for one in solutions]
    best = min(range(len(told)), key=lambda number: _rank(told[number]))
    hits = right(told[best].logits, val.labels.cpu())
    return Scores(near.accuracy, told[best].accuracy, logme(train.tensor, train.labels), hits, solutions[best])


def _rank(found: Evaluation) -> tuple[float, float]:
    """Return a sort key that is smaller for better results: by accuracy, then by loss."""
    return -found.accuracy, found.loss
