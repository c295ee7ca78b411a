"""Solve a head (linear probe, kNN, nearest class mean) instead of training it in steps: one epoch, no checkpoints.

After an interruption the head is solved again, which gives the same bits and takes seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from frostline.core.metrics import METRICS
from frostline.models.freeze_guard import Guard
from frostline.records.recording import Record
from frostline.runs import frost_line, selection
from frostline.runs.checkpoints import rewind_record
from frostline.runs.run_context import RunContext
from frostline.runs.setup import Setup
from frostline.runs.train import record_epoch
from frostline.training import gradient, lbfgs, neighbours, probe
from frostline.training.evaluation import Evaluation, evaluate
from frostline.training.gradient import Head
from frostline.training.head_inputs import HeadInputs
from frostline.training.loop import Diverged, EpochResult
from frostline.training.neighbours import Neighbours
from frostline.training.state import Learner, Progress

_OWN = 4096
"""Training images at most on which neighbours are evaluated: each is compared with all others."""


def solve(
    setup: Setup, learner: Learner, guard: Guard, run: RunContext, record: Record
) -> tuple[Progress, dict[str, float], Neighbours | None]:
    """Solve the head with the solver of the freeze mode.

    Return the progress: one epoch; the settings chosen on the validation split, as metrics; and for kNN the neighbours,
    which classify instead of the head, else None. The time to choose settings is part of the training time.
    """
    progress = Progress()
    rewind_record(progress, run.folder, record)
    line = frost_line.draw(setup, 0)
    guard.watch()
    network = line.above(setup.model.module)
    head = gradient.linear_of(network)
    assert head is not None  # see `setup.parts`
    began = time.perf_counter()
    train, val = (HeadInputs(line.dataset(views), head) for views in (setup.views.train, setup.views.val))
    chosen, voters = _SOLVERS[str(setup.config.freeze_mode.solver)](setup, head, train, val, run.screen.say)
    seconds = time.perf_counter() - began
    of_train = neighbours.leave_one_out(voters, train, _OWN) if voters else _score(setup, head.linear, train)
    of_val = _score(setup, voters or head.linear, val)
    if not math.isfinite(of_train.loss + of_val.loss):
        raise Diverged(
            "the features of this network, with its weights, contain nan or infinity: its activations grow too large"
        )
    epoch = EpochResult(1, 0, of_train.loss, of_train.accuracy, of_val, seconds, len(train.labels))
    guard.check()
    record_epoch(epoch, progress, learner, setup, run, record)
    return progress, chosen, voters


def _score(setup: Setup, network: nn.Module, data: HeadInputs) -> Evaluation:
    return evaluate(network, data, batch_size=setup.recipe.eval_batch_size, autocast=None)


def _rank(setup: Setup, scored: Evaluation) -> tuple[float, float]:
    """Return a sort key that is smallest for the best setting on the validation split."""
    return selection.rank(METRICS[setup.config.select], scored, setup.data.val.labels)


_Solved = tuple[dict[str, float], Neighbours | None]
"""Settings chosen on the validation split, as metrics, and the neighbours that classify instead of a head."""


def _probe(setup: Setup, head: Head, train: HeadInputs, val: HeadInputs, say: Callable[[str], None]) -> _Solved:
    """Set the head to the regularised logistic regression that is best on the validation split."""
    weights = setup.recipe.criterion.weights_on(train.labels.device)
    classes, l2 = head.linear.out_features, setup.config.freeze_mode.l2
    solutions = probe.solve(train, classes, l2, weights, setup.image_weights)
    ranks = []
    for one in solutions:
        _write(head, one.weight, one.bias)
        ranks.append(_rank(setup, _score(setup, head.linear, val)))
    number = ranks.index(min(ranks))
    best = solutions[number]
    _write(head, best.weight, best.bias)
    further = "weaker" if number else "stronger"
    edge = "" if 0 < number < len(ranks) - 1 or len(ranks) == 1 else f"; a {further} one may be better still"
    say(f"  l2 {best.l2:g} is the best of {len(ranks)} by validation, after {best.iterations} iterations{edge}")
    if late := [one.l2 for one in solutions if one.above > lbfgs.NEAR_ENOUGH]:
        say(f"  note: not converged with l2 {', '.join(f'{l2:g}' for l2 in late)}")
    return {"probe/l2": best.l2, "probe/iterations": float(best.iterations)}, None


def _knn(setup: Setup, head: Head, train: HeadInputs, val: HeadInputs, say: Callable[[str], None]) -> _Solved:
    """Return nearest neighbours with the number of votes that is best on the validation split."""
    mode = setup.config.freeze_mode
    assert mode.temperature is not None
    voters = Neighbours(train, head.linear.out_features, k=max(mode.k), temperature=mode.temperature)
    voters.k = neighbours.best_k(voters, val, mode.k, partial(_rank, setup))
    say(f"  k {voters.k} is the best of {len(mode.k)} by validation")
    return {"knn/k": float(voters.k)}, voters


def _centroid(setup: Setup, head: Head, train: HeadInputs, val: HeadInputs, say: Callable[[str], None]) -> _Solved:
    """Set the head to the classifier by nearest class mean."""
    temperature = setup.config.freeze_mode.temperature
    assert temperature is not None
    _write(head, *neighbours.centroids(train, head.linear.out_features, temperature=temperature))
    return {}, None


_SOLVERS: dict[str, Callable[[Setup, Head, HeadInputs, HeadInputs, Callable[[str], None]], _Solved]] = {
    "probe": _probe,
    "knn": _knn,
    "centroid": _centroid,
}


@torch.no_grad()
def _write(head: Head, weight: torch.Tensor, bias: torch.Tensor) -> None:
    head.linear.weight.copy_(weight)
    head.linear.bias.copy_(bias)
