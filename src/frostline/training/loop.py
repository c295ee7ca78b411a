"""The training loop of every freeze mode: `fit` yields a result per epoch.

The loop knows no logger and no config. The caller records results, keeps the best weights and may stop at any epoch.
Metrics are summed on the device and read once per epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from frostline.models import freeze_guard
from frostline.training.dataset import batches, sampled
from frostline.training.evaluation import Evaluation, evaluate
from frostline.training.schedule import Span, pieces, span_of
from frostline.training.steps import Recipe, Stepper, TrainedPart
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
    enter: Callable[[int], TrainedPart],
    before_step: Callable[[int, Span], None],
    after_step: Callable[[], None],
    recipe: Recipe,
    guard: freeze_guard.Guard,
    start: TrainingPosition = FIRST_STEP,
    pause: Callable[[], bool] = lambda: False,
) -> Iterator[EpochResult | TrainingPosition]:
    """Train from `start`; yield the result of every epoch, and the position after each step for which `pause()` holds.

    `labels` `(N,)`, on the CPU, are the labels of the training samples. `enter(phase)` puts the network into the state
    of a phase and returns the part that is trained. `before_step(step, span)` sets the learning rates, `after_step()`
    averages weights. Frozen tensors are compared bit for bit with their copies at the end of every phase and, if torch
    wrote to any, of every epoch. Raises `FrozenDrift` if one changed, and `Diverged` if a loss is not finite.
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
        if (finished := stepper.restore_finished(epoch)) is not None:
            sums, at = finished.sums, TrainingPosition(epoch, len(slices))
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
                    _require_finite("training", loss, epoch)
                    seconds += (time.perf_counter() - began) / stepper.runs_per_step
                    yield TrainingPosition(epoch, step + 1 - first, loss, right, seconds)
                    began = time.perf_counter()
        images = slices[-1].stop
        loss, accuracy = (total / images for total in sums.read())
        if finished is not None:
            seconds = finished.seconds
        else:
            seconds += (time.perf_counter() - began) / stepper.runs_per_step
            stepper.epoch_took(epoch, seconds)
        _require_finite("training", loss, epoch)
        phase = span_of(timeline, first + len(slices) - 1).phase
        part = part or begin(phase)  # None if all steps of the epoch were executed before
        scored = _validated(part, recipe.eval_batch_size)
        _require_finite("validation", scored.loss, epoch)
        guard.check_if_written()
        yield EpochResult(epoch, phase, loss, accuracy, scored, seconds, images)


def _validated(part: TrainedPart, size: int) -> Evaluation:
    return evaluate(part.val_network, part.val, batch_size=size, autocast=part.val_autocast, outputs=part.val_outputs)


def _require_finite(which: str, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"the {which} loss is {loss} in epoch {epoch}; try a smaller lr or train.clip_norm")
