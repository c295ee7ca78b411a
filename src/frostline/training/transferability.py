"""How well frozen activations tell the classes apart: by nearest neighbours, a linear probe, and LogME."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from frostline.core.labels import right
from frostline.training import neighbours, probe
from frostline.training.dataset import InMemory
from frostline.training.evaluation import Evaluation, evaluate, of_logits
from frostline.training.head_inputs import ROWS
from frostline.training.logme import logme
from frostline.training.neighbours import Neighbours
from frostline.training.probe import Solution


@dataclass(frozen=True)
class Scores:
    """What features of the training split say of those of the validation split."""

    knn: float
    """Accuracy of the nearest neighbours, a fraction in 0..1, with the number of them that is best for it."""
    probe: float
    """Accuracy of the linear probe, with the L2 strength that is best for it."""
    logme: float
    """Log evidence of the training split in nats per image and class."""
    right: Tensor
    """`(N,)` bool, on the CPU: which validation images the probe gets right."""
    head: Solution
    """The probe."""


def scores(
    train: InMemory, val: InMemory, classes: int, *, strengths: Sequence[float], k: Sequence[int], temperature: float
) -> Scores:
    """Return how well features `(N, D)` float32 of one split classify the other.

    `strengths` are those of the L2 penalty, `k` numbers of neighbours; of each the best on `val` is taken.
    """
    voters = Neighbours(train, classes, k=max(k), temperature=temperature)
    voters.k = neighbours.best_k(voters, val, k, _rank)
    near = evaluate(voters, val, batch_size=ROWS, autocast=None)
    solutions = probe.solve(train, classes, strengths)
    told = [of_logits(F.linear(val.tensor, one.weight, one.bias), val.labels) for one in solutions]
    best = min(range(len(told)), key=lambda number: _rank(told[number]))
    hits = right(told[best].logits, val.labels.cpu())
    return Scores(near.accuracy, told[best].accuracy, logme(train.tensor, train.labels), hits, solutions[best])


def _rank(found: Evaluation) -> tuple[float, float]:
    """Return what is smaller for the better of two: of the same accuracy the one with less loss."""
    return -found.accuracy, found.loss
