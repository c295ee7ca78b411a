"""L-BFGS (J. Nocedal and S. Wright, Numerical Optimization, algorithm 7.4) for several problems side by side.

torch.optim.LBFGS has one history for all of its parameters. Here each problem has its own history and steps, products
are batched over problems, and converged problems are removed. Problems are strongly convex, so every step has the
curvature that the method needs. Steps are halved until the loss decreases enough; mostly the first try does (R. Byrd
and J. Nocedal 1989, SIAM J. Numer. Anal. 26, 727).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

NEAR_ENOUGH = 1e-6
"""Tolerance: largest distance of a loss from its minimum."""
MEMORY = 10  # pairs of steps and gradients, as in scipy's L-BFGS
_MOST = 1_000  # iterations; features of networks need some 10 to 100
_HALVINGS = 20
_ENOUGH = 1e-4  # required share of the decrease that the slope predicts (Nocedal and Wright, page 33)
_ROUNDING = 1e-7  # relative rounding error of a loss computed in float32

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Maps points `(S, ...)` and the problems' strengths `(S,)` to losses `(S,)` float64, gradients `(S, ...)` and upper
bounds `(S,)` of the losses' distance from their minima."""


@dataclass(frozen=True)
class Minimum:
    """The solution of a problem."""

    at: Tensor
    loss: float
    above: float
    """Upper bound of the loss's distance from the minimum."""
    iterations: int


class _Points(NamedTuple):
    """Current points of the problems, with the objective's values there."""

    at: Tensor
    loss: Tensor
    gradient: Tensor
    above: Tensor

    def of(self, problems: Tensor) -> _Points:
        return _Points(*(each[problems] for each in self))


class _Move(NamedTuple):
    """A step of the problems, and the change of their gradients."""

    step: Tensor
    change: Tensor
    curve: Tensor
    """`step @ change`, `(S,)`."""


def minimise(objective: Objective, strengths: Tensor, start: Tensor) -> list[Minimum]:
    """Minimise `objective` for each of the `strengths` `(S,)` from `start` `(S, ...)`; return solutions in order."""
    found: dict[int, Minimum] = {}
    numbers = torch.arange(len(strengths), device=strengths.device)
    here = _Points(start, *objective(start, strengths))
    history: list[_Move] = []
    moved = torch.ones_like(numbers, dtype=torch.bool)
    for iteration in range(_MOST + 1):
        goes_on = moved & (here.above > NEAR_ENOUGH) & (iteration < _MOST)
        for place in (~goes_on).nonzero()[:, 0].tolist():
            loss, above = here.loss[place].item(), here.above[place].item()
            found[int(numbers[place])] = Minimum(here.at[place].clone(), loss, above, iteration)
        if not goes_on.all():
            numbers, strengths, here = numbers[goes_on], strengths[goes_on], here.of(goes_on)
            history = [_Move(*(each[goes_on] for each in move)) for move in history]
        if not len(numbers):
            break
        there, moved = _step(objective, strengths, here, _direction(here.gradient, history))
        step, change = there.at - here.at, there.gradient - here.gradient
        history = [*history[-MEMORY + 1 :], _Move(step, change, _positive(_dot(step, change)))]
        here = there
    return [found[number] for number in range(len(found))]


def _direction(gradient: Tensor, history: Sequence[_Move]) -> Tensor:
    """Return minus the inverse Hessian, approximated from the `history`, times the gradient."""
    towards, shares = -gradient, []
    for step, change, curve in reversed(history):
        shares.append(_dot(step, towards) / curve)
        towards = towards - shares[-1][:, None, None] * change
    if history:
        last = history[-1]
        towards = towards * (last.curve / _positive(_dot(last.change, last.change)))[:, None, None]
    for (step, change, curve), share in zip(history, reversed(shares), strict=True):
        towards = towards + (share - _dot(change, towards) / curve)[:, None, None] * step
    return towards


def _step(objective: Objective, strengths: Tensor, here: _Points, direction: Tensor) -> tuple[_Points, Tensor]:
    """Return the points after a step, and which of them found one that decreases the loss."""
    slope = _dot(direction, here.gradient)
    there = _Points(*(each.clone() for each in here))
    waiting = torch.arange(len(strengths), device=strengths.device)
    for halving in range(_HALVINGS):
        length = 0.5**halving
        at = here.at[waiting] + length * direction[waiting]
        tried = _Points(at, *objective(at, strengths[waiting]))
        loss = here.loss[waiting]
        good = tried.loss <= loss + _ENOUGH * length * slope[waiting] + _ROUNDING * loss
        for each, better in zip(there, tried, strict=True):
            each[waiting[good]] = better[good]
        waiting = waiting[~good]
        if not len(waiting):
            break
    moved = torch.ones_like(strengths, dtype=torch.bool)
    moved[waiting] = False
    return there, moved


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Return the inner products `(S,)` of tensors `(S, ...)`."""
    return torch.einsum("sp,sp->s", one.flatten(1), other.flatten(1))


def _positive(values: Tensor) -> Tensor:
    return values.clamp(min=torch.finfo().tiny)
