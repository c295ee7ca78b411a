"""The training loop of every freeze mode: it yields a result per epoch.

It knows no logger and no config. The caller records results, keeps the best weights and may stop at any epoch.
Metrics are summed on the device and read once per epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

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


@dataclass(kw_only=True)
class TrainingLoop:
    """The training of one run.

    Frozen tensors are compared bit for bit with their copies at the end of every phase and, if torch wrote to any, of
    every epoch.
    """

    labels: Tensor
    """`(N,)`, on the CPU: the labels of the training samples."""
    stepper: Stepper
    timeline: Sequence[Span]
    enter: Callable[[int], PhaseParts]
    """Puts the network into the state of a phase and returns its parts."""
    before_step: Callable[[int, Span], None]
    """Sets the learning rates of a step."""
    after_step: Callable[[], None]
    """Averages weights."""
    recipe: Recipe
    guard: freeze_guard.Guard
    pause: Callable[[], bool] = lambda: False
    """Asked after each step: should the position be yielded, as for a checkpoint?"""
    parts: PhaseParts | None = field(default=None, init=False)
    """Those of the current phase; None until it began."""

    def __post_init__(self) -> None:
        self.batches = batches(len(self.labels), self.recipe.batch_size, drop_last=self.recipe.drop_last)

    def fit(self, start: TrainingPosition = FIRST_STEP) -> Iterator[EpochResult | TrainingPosition]:
        """Train from `start`; yield the result of every epoch, and the position after each step with a pause.

        Raises `FrozenDrift` if a frozen tensor changed, and `Diverged` if a loss is not finite.
        """
        steps, images = len(self.batches), self.batches[-1].stop
        for epoch in range(start.epoch, self.recipe.epochs + 1):
            if (finished := self.stepper.restore_finished(epoch)) is not None:
                end = TrainingPosition(epoch, steps, *finished.sums.read(), finished.seconds)
            else:
                end = yield from self._train_epoch(start if epoch == start.epoch else TrainingPosition(epoch))
                self.stepper.epoch_took(epoch, end.seconds)
            _require_finite("training", end.loss, epoch)
            phase = span_of(self.timeline, epoch * steps - 1).phase
            parts = self.parts or self._begin(phase)  # None if all steps of the epoch were executed before
            scored = parts.val.evaluate(self.recipe.eval_batch_size)
            _require_finite("validation", scored.loss, epoch)
            self.guard.check_if_written()
            yield EpochResult(epoch, phase, end.loss / images, end.right / images, scored, end.seconds, images)

    def _train_epoch(self, at: TrainingPosition) -> Generator[TrainingPosition, None, TrainingPosition]:
        """Execute the steps of an epoch that follow `at`; yield the pauses, return the end."""
        epoch, first = at.epoch, (at.epoch - 1) * len(self.batches)
        order = sampled(self.labels, self.recipe.sampling, self.recipe.seed, epoch)
        indices = [order[batch] for batch in self.batches]
        sums, began = Sums(at.loss, at.right, self.recipe.label_smoothing), time.perf_counter()

        def reached(steps: int) -> TrainingPosition:
            loss, right = sums.read()
            seconds = at.seconds + (time.perf_counter() - began) / self.stepper.runs_per_step
            return TrainingPosition(epoch, steps, loss, right, seconds)

        for span, numbers in pieces(self.timeline, first + at.steps, first + len(indices)):
            parts = self.parts
            if parts is None or numbers.start == span.start:
                parts = self._begin(span.phase)
            these = indices[numbers.start - first : numbers.stop - first]
            steps = self.stepper.steps(parts.train, these, epoch, numbers.start)
            for step in numbers:
                self.before_step(step, span)
                sums.add(next(steps))
                self.after_step()
                if self.pause():
                    self.guard.check()
                    at = reached(step + 1 - first)
                    _require_finite("training", at.loss, epoch)
                    yield at
                    began = time.perf_counter()
        return reached(len(indices))

    def _begin(self, phase: int) -> PhaseParts:
        self.guard.check()
        self.parts = self.enter(phase)
        self.guard.watch()
        return self.parts


def _require_finite(which: str, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"the {which} loss is {loss} in epoch {epoch}; try a smaller lr or train.clip_norm")
