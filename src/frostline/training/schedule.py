"""Schedules: the first and last step of each phase, and the learning rate at each step."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from frostline.core.config import ScheduleConfig


@dataclass(frozen=True)
class Span:
    """The steps `start` to `end` (exclusive) of a run that belong to one phase."""

    phase: int
    start: int
    end: int


def spans(shares: Sequence[float], *, epochs: int, steps_per_epoch: int) -> tuple[Span, ...]:
    """Return the span of each phase: whole epochs, at least one each, in proportion to `shares`.

    With fewer epochs than phases, spans are whole steps instead; a phase too short for a step is left out.
    """
    unit, length = (steps_per_epoch, epochs) if epochs >= len(shares) else (1, epochs * steps_per_epoch)
    bounds = [round(length * sum(shares[:i]) / sum(shares)) for i in range(len(shares) + 1)]
    if length >= len(shares):
        for i in range(1, len(shares)):  # at least one unit for each phase before and after
            bounds[i] = min(max(bounds[i], bounds[i - 1] + 1), length - (len(shares) - i))
    parts = [Span(i, unit * a, unit * b) for i, (a, b) in enumerate(pairwise(bounds))]
    return tuple(part for part in parts if part.end > part.start)


def span_of(timeline: Sequence[Span], step: int) -> Span:
    """Return the span that `step` lies in."""
    return next(span for span in timeline if span.start <= step < span.end)


def pieces(timeline: Sequence[Span], start: int, end: int) -> Iterator[tuple[Span, range]]:
    """Yield each span that contains some of the steps `start` to `end` (exclusive), with the range of these steps."""
    for span in timeline:
        here = range(max(span.start, start), min(span.end, end))
        if here:
            yield span, here


ONECYCLE_START = 1 / 25  # first factor of onecycle, a fraction of lr (torch.optim.lr_scheduler.OneCycleLR: div_factor)


def set_lr(groups: Iterable[dict[str, Any]], *, lr: float, phase: int, factor: float) -> None:
    """Set the learning rate of every param group to `lr` times its scale in `phase` times the schedule's `factor`.

    On a GPU it is rounded to float32, like the weights, since captured steps read it from device memory.
    """
    for group in groups:
        rate = lr * group["scales"][phase] * factor
        group["lr"] = _float32(rate) if group["params"][0].is_cuda else rate


def _float32(number: float) -> float:
    return ctypes.c_float(number).value


@dataclass(frozen=True)
class Rates:
    """The learning rates of a run; equal instances give equal rates at every step of runs with equal phases."""

    schedule: ScheduleConfig
    lr: float
    steps: int
    """Number of steps of the run."""

    def set(self, groups: Iterable[dict[str, Any]], step: int, span: Span | None = None) -> None:
        """Set the learning rate of param groups for a 0-based step of `span`; None for a run with one phase."""
        own = span or Span(0, 0, self.steps)
        at, of = (step, self.steps) if self.schedule.span == "run" else (step - own.start, own.end - own.start)
        set_lr(groups, lr=self.lr, phase=own.phase, factor=factor(self.schedule, at, of))


def factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Return the factor of the learning rate in `step` (0-based) of a span of `steps`.

    A rise has the value at the end of each step, so that the first step has an effect, and a fall that at its start, as
    in torch's `CosineAnnealingLR`. So `onecycle` has neither the first nor the last value of its curve, which torch's
    `OneCycleLR` does have.
    """
    warm = round(schedule.warmup * steps)
    if step < warm:
        rise = (step + 1) / warm
        return _cosine(ONECYCLE_START, 1.0, rise) if schedule.name == "onecycle" else rise
    if schedule.name in ("cosine", "onecycle"):
        return _cosine(1.0, schedule.final, (step - warm) / max(steps - warm, 1))
    if schedule.name == "step":
        return schedule.gamma ** sum(step >= milestone * steps for milestone in schedule.milestones)
    return 1.0


def _cosine(start: float, end: float, at: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * at)) / 2
