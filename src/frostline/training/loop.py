"""The training loop of every freeze mode: `fit` yields a result per epoch.

The loop knows no logger and no config. The caller records results, keeps the best weights and may stop at any epoch.
Metrics are summed on the device and read once per epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from frostline.models import freeze_guard
from frostline.training.dataset import batches, sampled
from frostline.training.evaluation import Evaluation
from frostline.training.schedule import Span, pieces, span_of
from frostline.training.steps import PhaseParts, Recipe, Stepper
from frostline.training.sums import Sums


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class EpochResult:
    """The result of one epoch."""

    epoch: int
    """1-based."""
    phase: int
    """0-based index of the phase in which the epoch ended."""
    train_loss: float
    """Mean training loss, label smoothing and mixing included."""
    train_accuracy: float
    """Top-1 accuracy on the training batches at the time of their steps, a fraction in 0..1."""
    val: Evaluation
    seconds: float
    """Training time, without evaluation."""
    images: int


@dataclass(frozen=True)
class TrainingPosition:
    """A position between two steps of a run: together with the tensors at that moment, enough to resume from."""

    epoch: int = 1
    """1-based; the current epoch, or the next one."""
    steps: int = 0
    """Number of finished steps of this epoch."""
    loss: float = 0.0
    """Summed over the images of these steps, as is `right`, the number of correct predictions."""
    right: float = 0.0
    seconds: float = 0.0


FIRST_STEP = TrainingPosition()


def fit(
    labels: Tensor,
    *,
    stepper: Stepper,
    timeline: Sequence[Span],
    enter: Callable[[int], PhaseParts],
    before_step: Callable[[int, Span], None],
    after_step: Callable[[], None],
    recipe: Recipe,
    guard: freeze_guard.Guard,
    start: TrainingPosition = FIRST_STEP,
    pause: Callable[[], bool] = lambda: False,
) -> Iterator[EpochResult | TrainingPosition]:
    """Train from `start`; yield the result of every epoch, and the position after each step for which `pause()` holds.

    `labels` `(N,)`, on the CPU, are the labels of the training samples. `enter(phase)` puts the network into the state
    of a phase and returns its parts. `before_step(step, span)` sets learning rates, `after_step()` averages weights.
    Frozen tensors are compared bit for bit with their copies at the end of every phase and, if torch wrote to any, of
    every epoch. Raises `FrozenDrift` if one changed, and `Diverged` if a loss is not finite.
    """
    slices = batches(len(labels), recipe.batch_size, drop_last=recipe.drop_last)
    images = slices[-1].stop
    parts: PhaseParts | None = None

    def begin(phase: int) -> PhaseParts:
        guard.check()
        begun = enter(phase)
        guard.watch()
        return begun

    def execute(at: TrainingPosition) -> Generator[TrainingPosition, None, TrainingPosition]:
        """Execute the steps of an epoch that follow `at`; yield the pauses, return the end."""
        nonlocal parts
        epoch, first = at.epoch, (at.epoch - 1) * len(slices)
        order = sampled(labels, recipe.sampling, recipe.seed, epoch)
        indices = [order[batch] for batch in slices]
        sums, began = Sums(at.loss, at.right, recipe.label_smoothing), time.perf_counter()

        def reached(steps: int) -> TrainingPosition:
            loss, right = sums.read()
            seconds = at.seconds + (time.perf_counter() - began) / stepper.runs_per_step
            return TrainingPosition(epoch, steps, loss, right, seconds)

        for span, numbers in pieces(timeline, first + at.steps, first + len(slices)):
            if parts is None or numbers.start == span.start:
                parts = begin(span.phase)
            these = indices[numbers.start - first : numbers.stop - first]
            steps = stepper.steps(parts.train, these, epoch, numbers.start)
            for step in numbers:
                before_step(step, span)
                sums.add(next(steps))
                after_step()
                if pause():
                    guard.check()
                    at = reached(step + 1 - first)
                    _require_finite("training", at.loss, epoch)
                    yield at
                    began = time.perf_counter()
        return reached(len(slices))

    for epoch in range(start.epoch, recipe.epochs + 1):
        if (finished := stepper.restore_finished(epoch)) is not None:
            end = TrainingPosition(epoch, len(slices), *finished.sums.read(), finished.seconds)
        else:
            end = yield from execute(start if epoch == start.epoch else TrainingPosition(epoch))
            stepper.epoch_took(epoch, end.seconds)
        _require_finite("training", end.loss, epoch)
        phase = span_of(timeline, epoch * len(slices) - 1).phase
        parts = parts or begin(phase)  # None if all steps of the epoch were executed before
        scored = parts.val.evaluate(recipe.eval_batch_size)
        _require_finite("validation", scored.loss, epoch)
        guard.check_if_written()
        yield EpochResult(epoch, phase, end.loss / images, end.right / images, scored, end.seconds, images)


def _require_finite(which: str, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"the {which} loss is {loss} in epoch {epoch}; try a smaller lr or train.clip_norm")
