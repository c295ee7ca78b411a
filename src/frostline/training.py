"""One loop for every freeze mode: `fit` yields a result per epoch.

It knows neither a logger nor a config; the caller records, keeps the best weights, and may stop at any epoch. Metrics
add up on the device and are read once per epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frostline import freezing, gradient, mixing
from frostline.evaluation import Dataset, Evaluation, evaluate
from frostline.gradient import Targets
from frostline.randomness import address, generator
from frostline.timeline import Span, batches, span_of


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
class Position:
    """Where in a run its steps are, between two of them: with the tensors of that moment, all that goes on from it."""

    epoch: int = 1
    """1-based; the epoch that is under way or comes next."""
    steps: int = 0
    """How many steps of it are made."""
    loss: float = 0.0
    """Summed over the images of those steps, as is `right`."""
    right: float = 0.0
    seconds: float = 0.0


BEGINNING = Position()


@dataclass(frozen=True)
class Recipe:
    """How a step is made: plain facts, with nothing to decide left."""

    epochs: int
    batch_size: int
    eval_batch_size: int
    seed: int
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_last: bool = False


@dataclass(frozen=True)
class Part:
    """What is trained in a phase: the whole network on images, or what lies above the frost line on features."""

    network: nn.Module
    train: Dataset
    scored: nn.Module
    """What is evaluated: the network up from where `val` begins, perhaps with averaged weights."""
    val: Dataset
    autocast: torch.dtype | None
    """Type of the mixed precision, None for float32 throughout."""


def fit(
    samples: int,
    *,
    optimizer: torch.optim.Optimizer,
    timeline: Sequence[Span],
    enter: Callable[[int], Part],
    before_step: Callable[[int, Span], None],
    after_step: Callable[[], None],
    recipe: Recipe,
    guard: freezing.Guard,
    start: Position = BEGINNING,
    pause: Callable[[], bool] = lambda: False,
) -> Iterator[EpochResult | Position]:
    """Train from `start` and yield the result of every epoch, and the position wherever `pause()` asks for it.

    `enter(phase)` puts the network into the state of a phase and returns what is trained there, with so many `samples`;
    `before_step(step, span)` sets the learning rates, `after_step()` averages weights. What is frozen is compared bit
    for bit at the end of every phase and, where torch wrote to it, of every epoch: raises `FrozenDrift`, and `Diverged`
    if a loss is not finite.
    """
    slices = batches(samples, recipe.batch_size, drop_last=recipe.drop_last)
    span = part = linear = None
    for epoch in range(start.epoch, recipe.epochs + 1):
        at = start if epoch == start.epoch else Position(epoch)
        first = (epoch - 1) * len(slices)
        order = torch.randperm(samples, generator=generator(recipe.seed, "order", epoch))
        indices = [order[part] for part in slices]
        sums = Sums(at.loss, at.right)
        began = time.perf_counter() - at.seconds
        for step in range(first + at.steps, first + len(slices)):
            if span is None or part is None or step == span.end:
                guard.check()
                span = span_of(timeline, step)
                part = enter(span.phase)
                linear = gradient.lone_linear(part.network)
                guard.watch()
            before_step(step, span)
            if step + 1 < first + len(slices):
                part.train.expect(indices[step + 1 - first], epoch)
            sums.add(*_step(part, linear, indices[step - first], optimizer, recipe, epoch, step))
            after_step()
            if pause():
                guard.check()
                loss, right = sums.read()
                seconds = time.perf_counter() - began
                yield Position(epoch, step + 1 - first, loss, right, seconds)
                began = time.perf_counter() - seconds
        images = slices[-1].stop
        loss, accuracy = (total / images for total in sums.read())
        seconds = time.perf_counter() - began
        _require_finite("training", loss, epoch)
        phase = span_of(timeline, first + len(slices) - 1).phase
        part = part or enter(phase)  # where the last step was the last one before `start`
        scored = evaluate(part.scored, part.val, batch_size=recipe.eval_batch_size, autocast=part.autocast)
        _require_finite("validation", scored.loss, epoch)
        guard.glance()
        yield EpochResult(epoch, phase, loss, accuracy, scored, seconds, images)


class Sums:
    """What the steps of an epoch add up to; their results wait on the device until they are read."""

    def __init__(self, loss: float, right: float) -> None:
        self._loss, self._right = loss, right
        self._waiting: list[tuple[Tensor, Tensor, int]] = []

    def add(self, loss: Tensor, right: Tensor, images: int) -> None:
        """Add a step's mean loss and its number of right answers, both scalars, over so many images."""
        self._waiting.append((loss, right, images))

    def read(self) -> tuple[float, float]:
        """Return the loss, summed over images, and the number of right answers so far.

        They are added one after the other, in float64: then it makes no difference to a bit where an epoch is resumed.
        """
        if self._waiting:
            losses, rights, images = zip(*self._waiting, strict=True)
            for loss, count in zip(torch.stack(losses).tolist(), images, strict=True):
                self._loss += loss * count
            self._right += torch.stack(rights).sum().item()
            self._waiting.clear()
        return self._loss, self._right


def _step(
    part: Part,
    linear: nn.Linear | None,
    index: Tensor,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    epoch: int,
    step: int,
) -> tuple[Tensor, Tensor, int]:
    """Make one step and return the loss of its batch, how many answers are right, both on the device, and its size.

    `linear` is the layer that learns where it is the whole network of `part`.
    """
    device = part.train.labels.device
    _seed(device, address(recipe.seed, "step", step))
    labels = part.train.labels[index.to(device, non_blocking=True)]
    inputs, partners, share = mixing.mix(
        part.train.inputs(index, epoch), labels, mixup=recipe.mixup, cutmix=recipe.cutmix, seed=recipe.seed, step=step
    )
    targets = Targets(labels, partners, share, recipe.label_smoothing)
    with gradient.threads_for(linear, len(index)):
        if linear is not None and share == 1.0 and part.autocast is None:
            loss, logits = gradient.of_linear(linear, inputs, targets)
        else:
            optimizer.zero_grad(set_to_none=True)
            loss, logits = gradient.by_autograd(part.network, inputs, targets, part.autocast)
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(part.network.parameters(), recipe.clip_norm)
        optimizer.step()
    return loss, (logits.argmax(1) == labels).sum(), len(index)


def _seed(device: torch.device, seed: int) -> None:
    """Seed what dropout and stochastic depth draw from; `torch.manual_seed` asks every kind of device there is."""
    generator = torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
    generator.manual_seed(seed)


def _require_finite(which: str, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"the {which} loss is {loss} in epoch {epoch}; try a smaller lr or train.clip_norm")
