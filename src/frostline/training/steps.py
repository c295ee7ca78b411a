"""Training steps of an epoch.

A step of a head is so small that launching its operations dominates its time. So the work that does not depend on the
weights is done for many steps at once: their inputs are fetched together, and `sums` computes their losses together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from frostline.core import machine
from frostline.core.randomness import derive_seed
from frostline.training import gradient, mixup
from frostline.training.criterion import CROSS_ENTROPY, Criterion, Targets
from frostline.training.dataset import Dataset, prefetched
from frostline.training.evaluation import EvaluatedPart

if TYPE_CHECKING:
    from frostline.training.lockstep import FinishedEpoch

FETCH_SIZE = 2048
"""Samples that are fetched at once: 16 MB with the features of ResNet-50."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of the training steps, fully resolved."""

    epochs: int
    batch_size: int
    eval_batch_size: int
    seed: int
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_last: bool = False
    sampling: str = "shuffled"
    """See `dataset.sampled`."""
    criterion: Criterion = CROSS_ENTROPY

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others of their batch: then features of single images do not apply."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True)
class TrainedPart:
    """The part trained in a phase: the whole network on images, or the layers above the frost line on features."""

    network: nn.Module
    data: Dataset
    autocast: torch.dtype | None
    """Mixed-precision type, None for float32 throughout."""
    weights: Tensor | None = None
    """Weight of each sample in the loss, `(N,)` float32 on the device; None for equal weights."""


@dataclass(frozen=True)
class PhaseParts:
    """The part that is trained in a phase, and the part that is evaluated, perhaps with averaged weights."""

    train: TrainedPart
    val: EvaluatedPart


@dataclass(frozen=True)
class Step:
    """The outputs of a step; tensors stay on the device."""

    logits: Tensor
    """`(B, classes)`."""
    labels: Tensor
    """`(B,)` int64, or multi-label `(B, classes)` bool."""
    loss: Tensor | None
    """Mean over the batch; None for plain cross-entropy of logits and labels, which `sums` computes for many steps."""


class Stepper(Protocol):
    """Executes the training steps of a run, which by default shares them with no other."""

    @property
    def runs_per_step(self) -> int:
        """Number of runs that share a step; each is charged an equal part of its time."""
        return 1

    def restore_finished(self, epoch: int) -> FinishedEpoch | None:
        """If the steps of an epoch were executed before, restore network and optimizer to its end and return it."""
        return None

    def epoch_took(self, epoch: int, seconds: float) -> None:
        """Take in the training time of an executed epoch, which the runs that share its steps have in common."""
        return

    def steps(self, part: TrainedPart, indices: Sequence[Tensor], epoch: int, first: int) -> Iterator[Step]:
        """Execute a step on each batch of `indices` lazily and yield it; `first` is the number of the first step."""
        ...


class PlainStepper(Stepper):
    """The stepper of a run that trains alone."""

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe) -> None:
        """Train the parameters of `optimizer`."""
        self._optimizer, self._recipe = optimizer, recipe

    def steps(self, part: TrainedPart, indices: Sequence[Tensor], epoch: int, first: int) -> Iterator[Step]:
        """Execute a training step on each batch of `indices` (on the CPU) lazily, and yield it.

        `first` is the number of the first step in the run. Results are the same bits however the batches are divided
        among calls.
        """
        optimizer, recipe = self._optimizer, self._recipe
        alike = recipe.criterion.plain and part.weights is None
        plain = part.autocast is None and alike and not recipe.mixes
        head = gradient.head_of(part.network) if plain else None
        samples = FETCH_SIZE if head is not None and part.data.cached else part.data.fetch_size
        together = max(samples // recipe.batch_size, 1)
        for number, (inputs, labels) in enumerate(batched(part.data, indices, together, epoch)):
            step = first + number
            seed_dropout(labels.device, derive_seed(recipe.seed, "step", step))
            if head is not None:
                with gradient.threads_for(head, len(inputs)):
                    loss, logits = None, gradient.of_head(head, inputs, labels, recipe.label_smoothing)
                    update(part.network, optimizer, recipe)
            else:
                optimizer.zero_grad()
                weights = None if part.weights is None else machine.select_rows(part.weights, indices[number])
                mixed, targets = mix(inputs, labels, weights, recipe, step)
                loss, logits = gradient.by_autograd(part.network, mixed, targets, part.autocast, recipe.criterion)
                update(part.network, optimizer, recipe)
            yield Step(logits, labels, loss)


def batched(data: Dataset, indices: Sequence[Tensor], together: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and labels of each batch, fetched for `together` batches at once; the next ones are prefetched."""
    groups = [indices[start : start + together] for start in range(0, len(indices), together)]
    joined = [torch.cat(list(group)) for group in groups]
    for group, index in zip(groups, prefetched(data, joined, epoch), strict=True):
        labels = machine.select_rows(data.labels, index)
        inputs = data.inputs(index, epoch)
        sizes = [len(batch) for batch in group]
        yield from zip(inputs.split(sizes), labels.split(sizes), strict=True)


def mix(inputs: Tensor, labels: Tensor, weights: Tensor | None, recipe: Recipe, step: int) -> tuple[Tensor, Targets]:
    """Return inputs `(B, ...)` and their targets; with mixup or CutMix each input is mixed with the one before it."""
    mixed, partners, share = mixup.mix(
        inputs, labels, mixup=recipe.mixup, cutmix=recipe.cutmix, seed=recipe.seed, step=step
    )
    if weights is not None:
        weights = share * weights + (1 - share) * weights.roll(1)
    return mixed, Targets(labels, partners, share, recipe.label_smoothing, weights)


def update(network: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe) -> None:
    """Take an optimizer step, after clipping the gradient norm if the recipe sets `clip_norm`."""
    if recipe.clip_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
    optimizer.step()


def seed_dropout(device: torch.device, seed: int) -> None:
    """Seed the generator of dropout and stochastic depth; `torch.manual_seed` would seed every kind of device."""
    generator = torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
    generator.manual_seed(seed)
