"""Train several heads on the same features in lockstep, if possible with one matrix product for all of them.

A step of a head is so small that launching its operations dominates its time. Runs that differ in learning rate, weight
decay, schedule, smoothing or seed launch the same operations. So the first of them executes the steps of all, and the
others take over the results, epoch by epoch. Every head gets the same bits as alone: this is verified on the first
batches. If one product for all rounds differently, each head has its own; if that does not help, it is trained alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.labels import multi_label
from frostline.core.randomness import derive_seed
from frostline.training import criterion, gradient
from frostline.training.captured_step import CapturedStep
from frostline.training.dataset import Dataset, shuffled
from frostline.training.gradient import Head
from frostline.training.joined_optimizer import JoinedOptimizer
from frostline.training.schedule import Rates
from frostline.training.stacked_linear import StackedLinear
from frostline.training.steps import FETCH_SIZE, Recipe, Step, batched, seed_dropout
from frostline.training.sums import Sums, SumsPerHead

_TRIED = 4_000
"""Logits of all heads that must agree before a batched product is accepted as having the bits of single ones."""


@dataclass(frozen=True)
class FinishedEpoch:
    """The result of one epoch's steps for one head."""

    sums: Sums
    heads: int
    """Number of heads that were trained together."""
    parameters: tuple[Tensor, ...]
    state: tuple[Mapping[str, Any], ...]
    """The optimizer's state of each parameter."""
    seconds: float = 0.0
    """The head's share of the training time, the same for all heads, once the first one's run has measured it."""

    def restore(self, linear: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        """Restore the layer and its `optimizer` to the end of the epoch."""
        with torch.no_grad():
            for parameter, value, state in zip(linear.parameters(), self.parameters, self.state, strict=True):
                parameter.copy_(value)
                optimizer.state[parameter] = dict(state)


@dataclass
class Member:
    """One of the heads, with its optimizer and hyperparameters."""

    head: Head
    optimizer: torch.optim.Optimizer
    rates: Rates
    recipe: Recipe
    finished: dict[int, FinishedEpoch] = field(default_factory=dict)
    """Results by epoch that its run has not taken over yet."""


class Stack:
    """The stacked parameters of all members: weights and biases become views of two tensors, as do their gradients."""

    def __init__(
        self, members: Sequence[Member], data: Dataset, note: Callable[[str], None] = lambda text: None
    ) -> None:
        """Stack `members`, whose optimizers are of one class, to learn together from `data`; the first one leads.

        On a GPU a step becomes one launch after the first ones; `note` is called if that is impossible.
        """
        self._data, self._several = data, multi_label(data.labels)
        self._seeds = list(dict.fromkeys(member.recipe.seed for member in members))
        """Members with equal seeds are adjacent; they see the same samples in the same order, with the same dropout."""
        self.members = sorted(members, key=lambda member: self._seeds.index(member.recipe.seed))
        seeds = [self._seeds.index(member.recipe.seed) for member in self.members]
        self._linear = StackedLinear([member.head.linear for member in self.members], seeds)
        self._optimizer = JoinedOptimizer([one.optimizer for one in self.members], [one.rates for one in self.members])
        self._captured = CapturedStep(self._learn, self._optimizer.changed, note)
        self.reached: int | None = None
        """The epoch that all members have finished; None before the first, and within one."""

    @torch.no_grad()
    def steps(self, indices: Sequence[Tensor], epoch: int, first: int) -> Iterator[Step]:
        """Execute an epoch's steps on the batches of `indices`; yield the first member's and keep the others' results.

        `first` is the number of the first step in the run.
        """
        self.reached = None
        others = self.members[1:]
        sums = SumsPerHead([member.recipe.label_smoothing for member in others])
        self._linear.take_gradients()
        for step, (inputs, labels) in enumerate(self._batches(indices, epoch), first):
            with gradient.threads_for(self.members[0].head, inputs.shape[1]):
                self._optimizer.set_rates(step)
                learn = self._captured if self._optimizer.can_be_captured else self._learn
                logits = learn(self._before(inputs, step), self._targets(labels))
                self._optimizer.count_write()
            if others:
                sums.add(logits[1:], self._linear.of_each(labels)[1:])
            if step - first == len(indices) - 1:
                for member, its in zip(others, sums.each(), strict=True):
                    member.finished[epoch] = _finished_epoch(member, its, len(self.members))
                self.reached = epoch
            yield Step(logits[0].t().clone(), labels[0], None)

    def epoch_took(self, epoch: int, seconds: float) -> None:
        """Add each head's share of the training time to the results of an epoch that are not taken over yet."""
        for member in self.members:
            if (finished := member.finished.get(epoch)) is not None:
                member.finished[epoch] = replace(finished, seconds=seconds)

    @torch.no_grad()
    def agrees(self, indices: Sequence[Tensor], epoch: int, first: int) -> bool:
        """Return whether steps on batches of the sizes in `indices` give every member the same bits as alone.

        The fastest products are tried first. Shapes decide which kernels run, so one batch per size suffices; of small
        batches several are compared, since few numbers may agree by chance. No weight changes.
        """
        samples, batches = torch.cat(list(indices)), []
        for size in sorted({len(indices[0]), len(indices[-1])}):
            count = min(math.ceil(_TRIED / (size * self._linear.weight.shape[:2].numel())), len(samples) // size)
            batches += [*self._batches(samples[: count * size].split(size), epoch)]
        for products in self._linear.choices:
            self._linear.products = products
            if all(self._agrees_on(*batch, first) for batch in batches):
                return True
        return False

    def _agrees_on(self, inputs: Tensor, labels: Tensor, step: int) -> bool:
        inputs = self._before(inputs, step)
        with gradient.threads_for(self.members[0].head, inputs.shape[1]):
            logits = self._gradients(inputs, self._targets(labels))
            every = zip(self.members, self._linear.of_each(inputs), self._linear.of_each(labels), strict=True)
            for number, (member, x, y) in enumerate(every):
                linear = copy.deepcopy(member.head.linear)  # own memory: alignment decides on kernels, too
                alone = gradient.of_head(Head((), linear), x.clone(), y, member.recipe.label_smoothing)
                its = (logits, self._linear.weight_grad, self._linear.bias_grad)
                found = [one[number] for one in its if one is not None]
                apart = [alone.t(), *(parameter.grad for parameter in linear.parameters())]
                if not all(torch.allclose(a, b, 0, 0, equal_nan=True) for a, b in zip(found, apart, strict=True)):  # type: ignore[arg-type]
                    return False
        return True

    def _batches(self, indices: Sequence[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs `(seeds, B, ...)` and labels `(seeds, B, ...)` of each batch."""
        sizes = [len(batch) for batch in indices]
        orders = [torch.cat(list(indices)).split(sizes)]
        for seed in self._seeds[1:]:
            orders.append(shuffled(len(self._data.labels), seed, epoch)[: sum(sizes)].split(sizes))
        batches = [torch.cat(several) for several in zip(*orders, strict=True)]
        together = max(FETCH_SIZE // len(batches[0]), 1)
        for inputs, labels in batched(self._data, batches, together, epoch):
            count = len(self._seeds)
            yield inputs.unflatten(0, (count, -1)), labels.unflatten(0, (count, -1))

    def _before(self, inputs: Tensor, step: int) -> Tensor:
        """Apply the layers before the heads to inputs `(seeds, B, ...)` and return `(seeds, B, D)`."""
        layers = self.members[0].head.before
        if not layers:
            return inputs
        found = []
        for seed, x in zip(self._seeds, inputs, strict=True):
            seed_dropout(x.device, derive_seed(seed, "step", step))
            for layer in layers:
                x = layer(x)
            found.append(x)
        return torch.stack(found)

    def _learn(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Take a step with all heads on inputs `(seeds, B, D)`, and return their logits `(members, classes, B)`."""
        logits = self._gradients(inputs, targets)
        self._optimizer.step()
        return logits

    def _gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the logits `(members, classes, B)` for inputs `(seeds, B, D)`, and set the heads' gradients.

        `gradient.of_head` does the same for one head.
        """
        logits = self._linear.logits(inputs)
        self._linear.set_gradients(gradient.of_logits(logits, targets, several=self._several), inputs)
        return logits

    def _targets(self, labels: Tensor) -> Tensor:
        """Return the targets `(members, classes, B)` for labels `(seeds, B, ...)`; `(1, ...)` if all are the same."""
        classes = self._linear.weight.shape[1]
        smoothings = [member.recipe.label_smoothing for member in self.members]
        if len(set(smoothings)) == 1:
            wanted = criterion.target_probabilities(labels, smoothings[0], classes).transpose(1, 2)
            return wanted if len(self._seeds) == 1 else self._linear.of_each(wanted)
        every = zip(self._linear.of_each(labels), smoothings, strict=True)
        return torch.stack([criterion.target_probabilities(*each, classes) for each in every]).transpose(1, 2)


def bytes_kept(member: Member, epochs: int) -> int:
    """Return the bytes of `epochs` results that wait for a member's run, with Adam's two moments."""
    return 3 * epochs * sum(parameter.nbytes for parameter in member.head.linear.parameters())


def _finished_epoch(member: Member, sums: Sums, together: int) -> FinishedEpoch:
    parameters = [*member.head.linear.parameters()]
    states = [member.optimizer.state[parameter] for parameter in parameters]
    copies = tuple({k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()} for state in states)
    values = tuple(parameter.detach().clone() for parameter in parameters)
    return FinishedEpoch(sums, together, values, copies)
