"""One loop for every freeze mode: `fit` yields a result per epoch.

It knows neither a logger nor a config; the caller records, keeps the best weights, and may stop at any epoch. Metrics
add up on the device and are read once per epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from frostline.models import freeze_guard
from frostline.training.dataset import batches, sampled
from frostline.training.evaluation import Evaluation, evaluate
from frostline.training.lockstep import EpochMade
from frostline.training.schedule import Span, pieces, span_of
from frostline.training.steps import Recipe, Step, TrainedPart
from frostline.training.sums import Sums


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch did."""

    epoch: int
    """1-based."""
    phase: int
    """0-based index of the phase in which the epoch ended."""
    train_loss: float
    """Mean loss that was trained on, label smoothing and mixing included."""
    train_accuracy: float
    """Top-1 accuracy over the training batches as they were seen, a fraction in 0..1."""
    val: Evaluation
    seconds: float
    """Training alone, without the evaluation."""
    images: int


@dataclass(frozen=True)
class TrainingPosition:
    """Where in a run its steps are, between two of them: with the tensors of that moment, all that goes on from it."""

    epoch: int = 1
    """1-based; the epoch that is under way or comes next."""
    steps: int = 0
    """How many steps of it are made."""
    loss: float = 0.0
    """Summed over the images of those steps, as is `right`."""
    right: float = 0.0
    seconds: float = 0.0


BEGINNING = TrainingPosition()


class Stepper(Protocol):
    """Who makes the steps of a run."""

    @property
    def together(self) -> int:
        """Of how many runs a step is at once: each has that part of its time."""
        ...

    def made(self, epoch: int) -> EpochMade | None:
        """Put what an epoch made of network and optimizer in place and return it, if its steps were made before."""
        ...

    def steps(self, part: TrainedPart, indices: Sequence[Tensor], epoch: int, first: int) -> Iterator[Step]:
        """Yield a step on each of the batches at `indices`, made when it is asked for; `first` is its number."""
        ...


def fit(
    labels: Tensor,
    *,
    stepper: Stepper,
    timeline: Sequence[Span],
    enter: Callable[[int], TrainedPart],
    before_step: Callable[[int, Span], None],
    after_step: Callable[[], None],
    recipe: Recipe,
    guard: freeze_guard.Guard,
    start: TrainingPosition = BEGINNING,
    pause: Callable[[], bool] = lambda: False,
) -> Iterator[EpochResult | TrainingPosition]:
    """Train from `start` and yield the result of every epoch, and the position wherever `pause()` asks for it.

    `labels` `(N,)`, on the CPU, are those of the training samples. `enter(phase)` puts the network into the state of a
    phase and returns what is trained there; `before_step(step, span)` sets the learning rates, `after_step()` averages
    weights. What is frozen is compared bit for bit at the end of every phase and, where torch wrote to it, of every
    epoch: raises `FrozenDrift`, and `Diverged` if a loss is not finite.
    """
    slices = batches(len(labels), recipe.batch_size, drop_last=recipe.drop_last)
    part = None

    def begin(phase: int) -> TrainedPart:
        guard.check()
        begun = enter(phase)
        guard.watch()
        return begun

    for epoch in range(start.epoch, recipe.epochs + 1):
        at = start if epoch == start.epoch else TrainingPosition(epoch)
        first = (epoch - 1) * len(slices)
        sums, seconds = Sums(at.loss, at.right, recipe.label_smoothing), at.seconds
        if at.steps == 0 and (made := stepper.made(epoch)) is not None:
            sums, seconds = made.sums, made.seconds
            at = TrainingPosition(epoch, len(slices))
        order = sampled(labels, recipe.sampling, recipe.seed, epoch)
        indices = [order[batch] for batch in slices]
        began = time.perf_counter()
        for span, numbers in pieces(timeline, first + at.steps, first + len(slices)):
            if part is None or numbers.start == span.start:
                part = begin(span.phase)
            waiting = indices[numbers.start - first : numbers.stop - first]
            steps = stepper.steps(part, waiting, epoch, numbers.start)
            for step in numbers:
                before_step(step, span)
                sums.add(next(steps))
                after_step()
                if pause():
                    guard.check()
                    loss, right = sums.read()
                    seconds += (time.perf_counter() - began) / stepper.together
                    yield TrainingPosition(epoch, step + 1 - first, loss, right, seconds)
                    began = time.perf_counter()
        images = slices[-1].stop
        loss, accuracy = (total / images for total in sums.read())
        seconds += (time.perf_counter() - began) / stepper.together
        _require_finite("training", loss, epoch)
        phase = span_of(timeline, first + len(slices) - 1).phase
        part = part or begin(phase)  # where the last step of the epoch was made before
        scored = evaluate(
            part.scored, part.val, batch_size=recipe.eval_batch_size, autocast=part.val_autocast, by=part.val_by
        )
        _require_finite("validation", scored.loss, epoch)
        guard.glance()
        yield EpochResult(epoch, phase, loss, accuracy, scored, seconds, images)


def _require_finite(which: str, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"the {which} loss is {loss} in epoch {epoch}; try a smaller lr or train.clip_norm")
